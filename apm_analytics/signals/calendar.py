"""Know what happened and what is planned: incidents, deployments, maintenance windows.

In:  specs/calendar.yaml, or the truth.json of a simulated recording.
Out: a `Calendar` of entries [start, end) in UTC, each with what it concerns.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadInput, BadParameter
from apm_analytics.signals import calendar_file
from apm_analytics.signals.calendar_file import Kind
from apm_analytics.signals.operations import Schema

FILE_NAME = "calendar.yaml"
REGRESSION = "regression"  # labels["kind"] of an incident that a simulated deployment brought

SCHEMA: Schema = {
    "kind": pl.String,
    "name": pl.String,
    "start": pl.Datetime("us"),  # UTC
    "end": pl.Datetime("us"),  # UTC, not included
    "services": pl.List(pl.String),
    "operations": pl.List(
        pl.Struct(
            {
                "service_name": pl.String,
                "operation": pl.String,
                "signals": pl.List(pl.String),
            }
        )
    ),
    "severity": pl.String,
    "labels": pl.List(pl.Struct({"name": pl.String, "value": pl.String})),
}


@dataclass(frozen=True)
class Affected:
    """One operation that an entry concerns; without `signals`, all of its signals."""

    service: str
    operation: str
    signals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """Something that happens in [start, end), UTC, aware; a moment has end == start.

    It concerns whole `services` and single `operations`; with neither, everything.
    """

    kind: Kind
    name: str
    start: datetime
    end: datetime
    services: tuple[str, ...] = ()
    operations: tuple[Affected, ...] = ()
    severity: str | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def concerns(
        self, service: str, operation: str | None = None, signal: str | None = None
    ) -> bool:
        """Tell whether it touches a service, or one operation, or one signal of that."""
        if not self.services and not self.operations:
            return True
        if service in self.services:
            return True
        return any(
            one.service == service
            and operation in (None, one.operation)
            and (signal is None or not one.signals or signal in one.signals)
            for one in self.operations
        )

    def overlaps(self, since: datetime | None, until: datetime | None) -> bool:
        """Tell whether it touches [since, until); a time without a zone is UTC."""
        after_since = since is None or self.end > utc(since) or self.start >= utc(since)
        return after_since and (until is None or self.start < utc(until))


@dataclass(frozen=True)
class Calendar:
    """Entries, sorted by start.

    Examples
    --------
    >>> Calendar(()).entries(kind="maintenance")
    []
    """

    all: tuple[Entry, ...] = ()

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def entries(
        self,
        *,
        kind: Kind | None = None,
        service: str | None = None,
        operation: str | None = None,
        signal: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[Entry]:
        """List what fits everything given.

        Parameters
        ----------
        kind : "incident", "deployment" or "maintenance".
        service, operation, signal : what it must concern; an operation or a signal needs the
            one before it.
        since, until : it must touch [since, until); without a zone they are UTC.

        Raises
        ------
        BadParameter
            An operation without a service, or a signal without an operation.
        """
        if (operation is not None and service is None) or (signal and operation is None):
            raise BadParameter(
                f"got operation={operation!r} and signal={signal!r} with service={service!r}; an "
                "operation needs its service, a signal its operation"
            )
        return [
            entry
            for entry in self.all
            if kind in (None, entry.kind)
            and (service is None or entry.concerns(service, operation, signal))
            and entry.overlaps(since, until)
        ]

    def frame(self) -> pl.DataFrame:
        """Give one row an entry, with `SCHEMA`; times are UTC without a zone, as in the lake."""
        rows = [
            {
                "kind": entry.kind,
                "name": entry.name,
                "start": entry.start.replace(tzinfo=None),
                "end": entry.end.replace(tzinfo=None),
                "services": list(entry.services),
                "operations": [
                    {
                        "service_name": one.service,
                        "operation": one.operation,
                        "signals": list(one.signals),
                    }
                    for one in entry.operations
                ],
                "severity": entry.severity,
                "labels": [
                    {"name": name, "value": value} for name, value in sorted(entry.labels.items())
                ],
            }
            for entry in self.all
        ]
        return pl.DataFrame(rows, schema=SCHEMA)


def of(entries: list[Entry]) -> Calendar:
    """Make a calendar of entries in any order."""
    return Calendar(tuple(sorted(entries, key=lambda one: (one.start, one.end, one.name))))


def load(path: Path) -> Calendar:
    """Read and check a calendar.

    Parameters
    ----------
    path : the file, or the folder with calendar.yaml. An empty file is an empty calendar.

    Raises
    ------
    BadParameter
        The file is missing or no YAML; a key is unknown, missing, doubled or ill-valued; an
        entry starts after its end; a local time does not exist or exists twice; two maintenance
        windows of the same scope overlap. The message names file and line.
    """
    file = path / FILE_NAME if path.is_dir() else path
    found = [(_entry(fields), line) for fields, line in calendar_file.read(file)]
    _refuse_overlaps(file, found)
    return of([entry for entry, _ in found])


def of_workspace(workspace: Path) -> Calendar:
    """Read specs/calendar.yaml of a checkout; one without that file has an empty calendar."""
    file = workspace / "specs" / FILE_NAME
    return load(file) if file.exists() else Calendar()


def beside(lake: Path) -> Path:
    """Return where a lake's own calendar lies, such as that of a simulated one; it may not exist.

    It has the form of specs/calendar.yaml. Incidents in it are labels to judge alerts by.
    """
    return lake.parent / FILE_NAME


def write(calendar: Calendar, file: Path) -> None:
    """Write a calendar so that `load` reads the same entries back."""
    entries = [
        {
            "kind": entry.kind,
            "name": entry.name,
            "start": entry.start.isoformat(),
            "end": entry.end.isoformat(),
            "services": list(entry.services),
            "operations": [
                {
                    "service": affected.service,
                    "operation": affected.operation,
                    "signals": list(affected.signals),
                }
                for affected in entry.operations
            ],
            "severity": entry.severity,
            "labels": entry.labels,
        }
        for entry in calendar
    ]
    text = yaml.safe_dump({"entries": entries}, sort_keys=False, allow_unicode=True)
    write_atomic(file, text.encode())


def from_truth(path: Path) -> Calendar:
    """Read what is true of a simulated recording.

    Every incident is an incident with the operations and signals that it moves. Every deployment
    is a deployment of its service; one with a regression is an incident besides, until it was
    rolled back, with `labels["kind"] == REGRESSION`.

    Parameters
    ----------
    path : truth.json of `apm simulate`.

    Raises
    ------
    BadInput
        The file is missing, is no JSON or no truth of a recording.
    """
    found: list[Entry] = []
    try:
        truth: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for one in truth["incidents"]:
            labels = {"kind": one["kind"], "cause": one["cause"]}
            if one["ongoing"]:
                labels["ongoing"] = "true"
            found.append(_truly("incident", one["name"], one, labels))
        for one in truth["deployments"]:
            name = f"{one['service_name']} {one['version']}"
            at = datetime.fromisoformat(one["time"])
            labels = {"version": one["version"], "previous_version": one["previous_version"]}
            found.append(Entry("deployment", name, at, at, (one["service_name"],), labels=labels))
            if one["regression"]:
                regression = {"start": one["time"], **one["regression"]}
                labels = {"kind": REGRESSION, "cause": f"deployment of {name}"}
                found.append(_truly("incident", f"{name} regression", regression, labels))
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"cannot read the truth {path}: {error!r}; write it anew with `apm simulate`"
        ) from error
    return of(found)


def utc(time: datetime) -> datetime:
    """Give a time in UTC, aware; one without a zone is UTC already."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _entry(fields: calendar_file.Fields) -> Entry:
    start, end = fields.times()
    return Entry(
        fields.kind,
        fields.name,
        start,
        end,
        fields.services,
        tuple(Affected(one.service, one.operation, one.signals) for one in fields.operations),
        fields.severity,
        fields.labels,
    )


def _refuse_overlaps(file: Path, found: list[tuple[Entry, int]]) -> None:
    """Two windows for the same work are a slip; merged in silence it would stay hidden."""
    last: dict[object, tuple[Entry, int]] = {}
    for entry, line in sorted(found, key=lambda pair: pair[0].start):
        if entry.kind != "maintenance":
            continue
        scope = (frozenset(entry.services), frozenset(entry.operations))
        before = last.get(scope)
        if before and entry.start < before[0].end:
            raise BadParameter(
                f"{file}:{line}: maintenance {entry.name!r} starts at "
                f"{entry.start.isoformat()}, before {before[0].name!r} (line {before[1]}) ends at "
                f"{before[0].end.isoformat()}, and both concern the same; make one entry of them"
            )
        last[scope] = (entry, line)


def _truly(kind: Kind, name: str, one: dict[str, Any], labels: dict[str, str]) -> Entry:
    affected = tuple(
        Affected(each["service_name"], each["operation"], tuple(each["signals"]))
        for each in one["operations"]
    )
    # What moves no operation by much still concerns no more than the service it meets.
    met = {effect["service"] for effect in one["effects"] if "service" in effect}
    return Entry(
        kind,
        name,
        datetime.fromisoformat(one["start"]),
        datetime.fromisoformat(one["end"]),
        () if affected else tuple(sorted(met)),
        affected,
        labels=labels,
    )
