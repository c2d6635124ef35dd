"""`signals.calendar`: valid files, errors with their line, and what an entry concerns."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from apm_analytics.foundation.errors import BadInput, BadParameter
from apm_analytics.signals import calendar
from apm_analytics.signals.calendar import Affected, Calendar, Entry

NIGHT = """\
entries:
  - kind: maintenance
    name: database upgrade
    start: 2026-03-07 22:00
    end: 2026-03-08 01:00
    zone: Europe/Berlin
    services: [catalog]
    operations:
      - {service: storefront, operation: "GET /search", signals: [latency_p95]}
    severity: info
    labels: {ticket: "42"}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "calendar.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_projects_calendar_loads(workspace: Path) -> None:
    assert isinstance(calendar.load(workspace / "specs"), Calendar)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "entries:\n", "entries: []\n"])
def test_an_empty_file_is_an_empty_calendar(tmp_path: Path, text: str) -> None:
    assert len(calendar.load(write(tmp_path, text))) == 0


def test_an_entry_is_read_with_its_zone_and_its_scope(tmp_path: Path) -> None:
    (entry,) = calendar.load(write(tmp_path, NIGHT))
    assert entry == Entry(
        "maintenance",
        "database upgrade",
        at("2026-03-07 21:00"),
        at("2026-03-08 00:00"),
        ("catalog",),
        (Affected("storefront", "GET /search", ("latency_p95",)),),
        "info",
        {"ticket": "42"},
    )


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        ("2026-03-28 12:00", "2026-03-29 12:00", 23),  # the night when clocks go forward
        ("2026-10-24 12:00", "2026-10-25 12:00", 25),
        ("2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z", 24),
        ("2026-03-28T12:00:00+01:00", "2026-03-29T12:00:00+02:00", 23),
    ],
)
def test_daylight_saving_is_applied(tmp_path: Path, start: str, end: str, hours: int) -> None:
    text = (
        "entries:\n"
        f"  - {{kind: incident, name: a, start: '{start}', end: '{end}', zone: Europe/Berlin}}\n"
    )
    (entry,) = calendar.load(write(tmp_path, text))
    assert entry.end - entry.start == timedelta(hours=hours)


def test_a_time_without_zone_or_offset_is_utc_and_a_deployment_is_a_moment(tmp_path: Path) -> None:
    text = "entries:\n  - {kind: deployment, name: v2, start: 2026-03-02 10:00}\n"
    (entry,) = calendar.load(write(tmp_path, text))
    assert entry.start == entry.end == at("2026-03-02 10:00")


def test_a_name_and_a_label_stay_as_they_are_written(tmp_path: Path) -> None:
    text = (
        "entries:\n"
        "  - {kind: deployment, name: 1.10, start: 20260302, labels: {build: 007, urgent: yes}}\n"
    )
    (entry,) = calendar.load(write(tmp_path, text))
    assert (entry.name, entry.start) == ("1.10", at("2026-03-02"))
    assert entry.labels == {"build": "007", "urgent": "yes"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("severity: info", "colour: red", r":10: entries.0.colour: found 'red'; .*not permitted"),
        ("severity: info", "severity: pager", r":10: entries.0.severity: found 'pager'"),
        ("kind: maintenance", "kind: holiday", r":2: entries.0.kind: found 'holiday'"),
        ("    name: database upgrade\n", "", r":2: entries.0.name: field required"),
        ("    end: 2026-03-08 01:00\n", "", r":2: entries.0: .*maintenance has no end"),
        ("end: 2026-03-08", "end: 2026-03-07", r":2: entries.0: .*start .* is after end"),
        ("end: 2026-03-08 01:00", "end: 2026-03-07 22:00", r":2: .*lasts no time"),
        (
            "start: 2026-03-07 22:00",
            "start: soon",
            r":4: entries.0.start: found 'soon'; invalid iso",
        ),
        ("start: 2026-03-07 22:00", "start: 7", r":4: entries.0.start: found '7'; invalid isoform"),
        ("Europe/Berlin", "Europe/Bern", r"unknown zone 'Europe/Bern'"),
        ("Europe/Berlin", "../Berlin", r"unknown zone '\.\./Berlin'"),
        ("2026-03-08 01:00", "2026-03-29 02:30", r"02:30:00 in Europe/Berlin does not exist"),
        ("2026-03-08 01:00", "2026-10-25 02:30", r"02:30:00 in Europe/Berlin comes twice"),
        ("services: [catalog]", "services: catalog", r":7: entries.0.services: found 'catalog'"),
        ("latency_p95", "latency", r":9: entries.0.operations.0.signals: found .*unknown signals"),
        ("services: [catalog]", "name: again", r":7: entries.0.name is on line 3 already"),
        ("entries:", "entry:", r":1: entry: found .*not permitted"),
        ("services: [catalog]", "services: &a [*a]", r"an alias contains itself"),
        ("entries:", "entries: [", r"calendar\.yaml:\d+: not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in NIGHT
    with pytest.raises(BadParameter, match=message):
        calendar.load(write(tmp_path, NIGHT.replace(old, new)))


def test_entries_that_are_no_list_or_no_mappings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match=r":1: entries: found 'today'; .*valid tuple"):
        calendar.load(write(tmp_path, "entries: today\n"))
    with pytest.raises(BadParameter, match=r":2: entries.0: found 'today'; .*valid dict"):
        calendar.load(write(tmp_path, "entries:\n  - today\n"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match=r"cannot read .*calendar\.yaml"):
        calendar.load(tmp_path)


def test_overlapping_maintenance_of_the_same_scope_is_refused(tmp_path: Path) -> None:
    second = NIGHT.removeprefix("entries:\n").replace("database upgrade", "index")
    with pytest.raises(BadParameter, match=r":12: maintenance 'index' .*\(line 2\)"):
        calendar.load(write(tmp_path, NIGHT + second))
    # For another service or of another kind it is allowed.
    other = second.replace("[catalog]", "[cart]")
    assert len(calendar.load(write(tmp_path, NIGHT + other))) == 2
    incident = second.replace("kind: maintenance", "kind: incident")
    assert len(calendar.load(write(tmp_path, NIGHT + incident))) == 2


def test_entries_are_found_by_kind_scope_and_time(tmp_path: Path) -> None:
    held = calendar.load(write(tmp_path, NIGHT))
    assert len(held.entries(kind="maintenance")) == 1
    assert held.entries(kind="incident") == []
    assert len(held.entries(service="catalog", operation="anything", signal="rate")) == 1
    assert len(held.entries(service="storefront")) == 1
    assert len(held.entries(service="storefront", operation="GET /search")) == 1
    assert held.entries(service="storefront", operation="GET /search", signal="rate") == []
    assert held.entries(service="storefront", operation="GET /") == []
    assert held.entries(service="cart") == []
    # [start, end): a window may begin at the end of another.
    assert held.entries(since=at("2026-03-08 00:00")) == []
    assert held.entries(until=at("2026-03-07 21:00")) == []
    assert len(held.entries(since=datetime(2026, 3, 7, 23), until=datetime(2026, 3, 8))) == 1
    with pytest.raises(BadParameter, match="an operation needs its service"):
        held.entries(operation="GET /search")


def test_an_entry_without_scope_concerns_everything_and_a_moment_its_instant() -> None:
    noon = at("2026-03-02 12:00")
    moment = calendar.of([Entry("deployment", "v2", noon, noon)])
    assert len(moment.entries(service="any", operation="GET /", since=noon)) == 1
    assert moment.entries(until=noon) == []


def test_the_frame_holds_every_entry_in_utc_and_keeps_its_schema_when_empty(
    tmp_path: Path,
) -> None:
    frame = calendar.load(write(tmp_path, NIGHT)).frame()
    assert frame.schema == pl.Schema(calendar.SCHEMA) == Calendar().frame().schema
    assert frame.row(0, named=True) == {
        "kind": "maintenance",
        "name": "database upgrade",
        "start": datetime(2026, 3, 7, 21),
        "end": datetime(2026, 3, 8),
        "services": ["catalog"],
        "operations": [
            {
                "service_name": "storefront",
                "operation": "GET /search",
                "signals": ["latency_p95"],
            }
        ],
        "severity": "info",
        "labels": [{"name": "ticket", "value": "42"}],
    }


def test_the_truth_of_a_recording_gives_incidents_deployments_and_regressions(
    tmp_path: Path,
) -> None:
    affected = [{"service_name": "a", "operation": "GET /", "signals": {"rate": 0.5}}]
    truth = {
        "incidents": [
            {
                "name": "slow",
                "kind": "latency",
                "cause": "locks",
                "start": "2026-03-02T10:00:00Z",
                "end": "2026-03-02T11:00:00Z",
                "ongoing": True,
                "effects": [{"service": "a", "slower": 2.0}],
                "operations": affected,
            },
            {
                "name": "hardly",
                "kind": "latency",
                "cause": "noise",
                "start": "2026-03-02T12:00:00Z",
                "end": "2026-03-02T13:00:00Z",
                "ongoing": False,
                "effects": [{"service": "b", "slower": 1.01}],
                "operations": [],
            },
        ],
        "deployments": [
            {
                "service_name": "a",
                "time": "2026-03-01T10:00:00Z",
                "version": "2",
                "previous_version": "1",
                "regression": {
                    "end": "2026-03-01T20:00:00Z",
                    "effects": [{"service": "a", "slower": 1.2}],
                    "operations": affected,
                },
            }
        ],
    }
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(truth))
    entries = calendar.from_truth(file)
    assert [(one.kind, one.name, one.labels.get("kind")) for one in entries] == [
        ("deployment", "a 2", None),
        ("incident", "a 2 regression", calendar.REGRESSION),
        ("incident", "slow", "latency"),
        ("incident", "hardly", "latency"),
    ]
    names = [one.name for one in entries.entries(service="a", operation="GET /", signal="rate")]
    assert names == ["a 2", "a 2 regression", "slow"]
    assert [one.name for one in entries.entries(service="b")] == ["hardly"]
    calendar.write(entries, tmp_path / calendar.FILE_NAME)
    assert calendar.load(tmp_path) == entries


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"incidents": [{"name": "x"}]}'])
def test_what_is_no_truth_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "truth.json"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"cannot read the truth .*apm simulate"):
        calendar.from_truth(file)
