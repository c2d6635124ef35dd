"""Old telemetry is removed; old metric points are rolled up, and queries on them stay correct."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import live_receiver
import numpy as np
import pytest
from click.testing import CliRunner
from rows import MONDAY_NS, spans, table

from apm_analytics import cli
from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.settings import RetentionSettings
from apm_analytics.ingest.receiver import Config
from apm_analytics.ingest.receiver import service as live
from apm_analytics.lake import query, snapshots
from apm_analytics.lake.maintenance import compaction, retention
from apm_analytics.lake.maintenance.retention import Outlook, outlook, retain
from apm_analytics.lake.manifest import live_parts, open_manifest

DAY_S = 86_400
MONDAY_S = MONDAY_NS // 10**9
WEEK_LATER_S = MONDAY_S + 7 * DAY_S
KEEP = RetentionSettings()


def points(lake: Path, name: str, times_s: Any, **columns: Any) -> None:
    """Append points of one table at times after Monday; single values stand for all rows."""
    count = len(times_s)
    filled = {
        key: value if isinstance(value, list) and len(value) == count else [value] * count
        for key, value in {"name": "m", "service_name": "shop", **columns}.items()
    }
    times = [MONDAY_NS + int(t * 1e9) for t in times_s]
    snapshots.append(lake, {name: table(name, {"time": times, **filled})})


def ask(lake: Path, sql: str, **values: object) -> list[dict[str, Any]]:
    with query.connect(lake) as con:
        return query.frame(con, sql, values).to_dicts()


def quantile(row: dict[str, Any], q: float) -> float:
    """The quantile of an exponential histogram, by its definition: middle of the bucket."""
    base = 2.0 ** (2.0 ** -row["scale"])
    negative = [
        (-(base ** (row["negative_offset"] + place + 0.5)), count)
        for place, count in enumerate(row["negative_bucket_counts"])
    ]
    positive = [
        (base ** (row["positive_offset"] + place + 0.5), count)
        for place, count in enumerate(row["positive_bucket_counts"])
    ]
    values, counts = zip(*[*negative[::-1], (0.0, row["zero_count"]), *positive], strict=True)
    place = np.searchsorted(np.cumsum(counts), q * sum(counts))
    return float(values[place])


def test_gauges_keep_the_last_point_and_the_distribution_of_each_minute(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    values = np.concatenate([draw.lognormal(3, 1, 600), -draw.lognormal(1, 1, 400), np.zeros(20)])
    draw.shuffle(values)
    times = np.arange(values.size) * 120 / values.size
    points(tmp_path, "metric_points", list(times), kind="gauge", value=values.tolist())
    done = retain(tmp_path, KEEP, now_s=WEEK_LATER_S)
    assert (done.points_before, done.points_after) == (1_020, 2)
    kept = ask(tmp_path, "select * from metric_points order by time")
    assert [row["value"] for row in kept] == [values[509], values[-1]]
    minutes = ask(tmp_path, "select * from exp_histogram_points where kind = 'gauge' order by time")
    for row, part in zip(minutes, (values[:510], values[510:]), strict=True):
        assert (row["count"], row["min"], row["max"]) == (510, part.min(), part.max())
        assert row["sum"] == pytest.approx(part.sum())
        counts = sum(row["positive_bucket_counts"]) + sum(row["negative_bucket_counts"])
        assert counts + row["zero_count"] == 510
        assert len(row["positive_bucket_counts"]) <= 160
        base = 2.0 ** (2.0 ** -row["scale"])
        for q in (0.1, 0.3, 0.6, 0.9, 0.99):
            exact = float(np.quantile(part, q, method="inverted_cdf"))
            assert quantile(row, q) == pytest.approx(exact, rel=base - 1)


@pytest.mark.parametrize(
    "factor, width", [(5, 0.011), (30, 0.022), (1_000, 0.045), (1_000_000, 0.091)]
)
def test_gauges_of_any_range_keep_the_quantiles_that_their_scale_states(
    tmp_path: Path, factor: float, width: float
) -> None:
    values = np.exp(np.random.default_rng(7).uniform(0, np.log(factor), 60))
    points(tmp_path, "metric_points", list(range(60)), kind="gauge", value=values.tolist())
    retain(tmp_path, KEEP, now_s=WEEK_LATER_S)
    [row] = ask(tmp_path, "select * from exp_histogram_points where kind = 'gauge'")
    assert 2.0 ** (2.0 ** -row["scale"]) - 1 <= width
    for q in (0.1, 0.5, 0.9, 0.99):
        exact = float(np.quantile(values, q, method="inverted_cdf"))
        assert quantile(row, q) == pytest.approx(exact, rel=width)


def test_sums_beyond_64_bits_set_one_series_aside_and_the_rest_is_rolled_up(tmp_path: Path) -> None:
    large = 2**63 - 2
    delta = {"kind": "histogram", "temporality": "delta"}
    for service, counts in {"large": [large, large], "other": [1, 2]}.items():
        points(
            tmp_path,
            "histogram_points",
            [1, 2],
            service_name=service,
            count=counts,
            explicit_bounds=[[1.0]] * 2,
            bucket_counts=[[count, 0] for count in counts],
            **delta,
        )
        points(
            tmp_path,
            "metric_points",
            [1, 2],
            service_name=service,
            value=[float(count) for count in counts],
            value_int=counts,
            kind="sum",
            temporality="delta",
            monotonic=True,
        )
        points(
            tmp_path,
            "exp_histogram_points",
            [1, 2],
            service_name=service,
            count=counts,
            scale=[0] * 2,
            zero_count=[0] * 2,
            positive_offset=[0] * 2,
            positive_bucket_counts=[[count] for count in counts],
            negative_offset=[0] * 2,
            negative_bucket_counts=[[]] * 2,
            **delta,
        )
    compaction.compact(tmp_path, now_s=WEEK_LATER_S)
    done = retain(tmp_path, KEEP, now_s=WEEK_LATER_S)
    assert done.set_aside == [("large", "m")]
    for name, column in (
        ("histogram_points", "count"),
        ("exp_histogram_points", "count"),
        ("metric_points", "value_int"),
    ):
        sql = f"select {column} as n from {name} where service_name = $service order by 1"
        assert [row["n"] for row in ask(tmp_path, sql, service="large")] == [large, large], name
        assert [row["n"] for row in ask(tmp_path, sql, service="other")] == [3], name
    [row] = ask(tmp_path, "select * from histogram_points where service_name = 'other'")
    assert row["bucket_counts"] == [3, 0]
    again = retain(tmp_path, KEEP, now_s=WEEK_LATER_S)
    assert (again.points_before, again.set_aside) == (0, [])


def test_cumulative_sums_keep_their_increase_over_resets(tmp_path: Path) -> None:
    draw = np.random.default_rng(6)
    values, total = [], 0.0
    for number in range(400):
        total = 0.0 if number in (57, 123, 124, 301) else total + float(draw.integers(0, 9))
        values.append(total)

    def increase(of: list[float]) -> float:
        return sum(b - a if b >= a else b for a, b in pairwise(of))

    points(
        tmp_path,
        "metric_points",
        [number * 5.0 for number in range(400)],
        kind="sum",
        temporality="cumulative",
        monotonic=True,
        value=values,
    )
    retain(tmp_path, KEEP, now_s=WEEK_LATER_S)
    kept = [row["value"] for row in ask(tmp_path, "select value from metric_points order by time")]
    assert 30 < len(kept) < 40
    assert increase([values[0], *kept]) == increase(values)


def test_delta_sums_add_up_and_whole_numbers_stay_whole(tmp_path: Path) -> None:
    points(
        tmp_path,
        "metric_points",
        [10, 20, 70],
        kind="sum",
        temporality="delta",
        monotonic=True,
        value=[1.0, 2.0, 4.0],
        value_int=[1, 2, 4],
        start_time=[MONDAY_NS, MONDAY_NS + 10 * 10**9, MONDAY_NS + 60 * 10**9],
    )
    retain(tmp_path, KEEP, now_s=WEEK_LATER_S)
    found = ask(
        tmp_path,
        "select value, value_int, epoch_ns(start_time) as start_ns from metric_points order by 1",
    )
    assert [(row["value"], row["value_int"]) for row in found] == [(3.0, 3), (4.0, 4)]
    assert found[0]["start_ns"] == MONDAY_NS


def test_histograms_of_equal_bounds_are_added_and_others_stay_apart(tmp_path: Path) -> None:
    points(
        tmp_path,
        "histogram_points",
        [10, 20, 30, 40],
        kind="histogram",
        temporality=["delta", "delta", "delta", "cumulative"],
        count=[3, 4, 5, 9],
        sum=[1.5, 2.5, 9.0, 20.0],
        min=[0.1, 0.2, 0.3, 0.1],
        max=[1.0, 2.0, 3.0, 3.0],
        explicit_bounds=[[1.0, 2.0], [1.0, 2.0], [5.0], [1.0, 2.0]],
        bucket_counts=[[1, 1, 1], [0, 2, 2], [5, 0], [2, 3, 4]],
    )
    retain(tmp_path, KEEP, now_s=WEEK_LATER_S)
    found = ask(tmp_path, "select * from histogram_points order by count")
    assert [(row["count"], row["bucket_counts"]) for row in found] == [
        (5, [5, 0]),
        (7, [1, 3, 3]),
        (9, [2, 3, 4]),
    ]
    assert (found[1]["sum"], found[1]["min"], found[1]["max"]) == (4.0, 0.1, 2.0)


def test_exponential_histograms_are_added_at_the_scale_that_fits_them_all(tmp_path: Path) -> None:
    points(
        tmp_path,
        "exp_histogram_points",
        [10, 20, 80],
        kind="exponential_histogram",
        temporality="delta",
        count=[7, 6, 2],
        sum=[1.0, 2.0, 3.0],
        scale=[1, 0, 3],
        zero_count=[1, 0, 0],
        positive_offset=[-1, 0, 7],
        positive_bucket_counts=[[1, 2, 3], [4, 2], [2]],
        negative_offset=[0, 0, 0],
        negative_bucket_counts=[[], [], []],
    )
    retain(tmp_path, KEEP, now_s=WEEK_LATER_S)
    found = ask(tmp_path, "select * from exp_histogram_points order by time")
    # Indexes -1, 0, 1 of scale 1 are -1, 0, 0 of scale 0.
    assert (found[0]["scale"], found[0]["positive_offset"]) == (0, -1)
    assert found[0]["positive_bucket_counts"] == [1, 9, 2]
    assert (found[0]["count"], found[0]["zero_count"]) == (13, 1)
    assert (found[1]["scale"], found[1]["positive_offset"]) == (3, 7)
    assert found[1]["positive_bucket_counts"] == [2]


def test_points_without_a_value_and_summaries_keep_the_last(tmp_path: Path) -> None:
    points(
        tmp_path, "metric_points", [1, 2, 3], kind="gauge", value=[1.0, 2.0, None], flags=[0, 0, 1]
    )
    points(
        tmp_path,
        "summary_points",
        [1, 2],
        kind="summary",
        count=[1, 2],
        sum=[1.0, 2.0],
        quantiles=[[0.5], [0.5]],
        quantile_values=[[1.0], [2.0]],
    )
    retain(tmp_path, KEEP, now_s=WEEK_LATER_S)
    assert [
        row["value"] for row in ask(tmp_path, "select value from metric_points order by time")
    ] == [2.0, None]
    assert [row["quantile_values"] for row in ask(tmp_path, "select * from summary_points")] == [
        [2.0]
    ]


def test_series_stay_apart_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    pods = [[("pod", f"{number % 2}")] for number in range(8)]
    points(
        tmp_path,
        "metric_points",
        list(range(8)),
        kind="gauge",
        value=[float(number) for number in range(8)],
        attributes=pods,
    )
    retain(tmp_path, KEEP, now_s=WEEK_LATER_S)
    values = ask(tmp_path, "select value from metric_points order by value")
    assert [row["value"] for row in values] == [6.0, 7.0]
    before = snapshots.data_hash(tmp_path)
    again = retain(tmp_path, KEEP, now_s=WEEK_LATER_S)
    assert (again.points_before, sum(again.removed.values())) == (0, 0)
    compaction.compact(tmp_path, now_s=WEEK_LATER_S)
    assert snapshots.data_hash(tmp_path) == before
    assert len(ask(tmp_path, "select * from exp_histogram_points where kind = 'gauge'")) == 2


def test_young_points_stay_as_they_are(tmp_path: Path) -> None:
    points(tmp_path, "metric_points", [1, 2, 3], kind="gauge", value=[1.0, 2.0, 3.0])
    assert retain(tmp_path, KEEP, now_s=MONDAY_S + DAY_S).points_before == 0
    assert retain(tmp_path, KEEP, now_s=MONDAY_S + DAY_S + 4).points_before == 3


def test_each_signal_goes_after_its_own_days_and_a_dry_run_only_says_so(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([0, 20 * DAY_S])})
    snapshots.append(tmp_path, {"logs": table("logs", {"time": [MONDAY_NS], "body": ["x"]})})
    periods = RetentionSettings(traces_days=10, logs_days=40)
    asked = {"now_s": MONDAY_S + 25 * DAY_S}
    assert retain(tmp_path, periods, dry_run=True, **asked).removed["spans"] == 1
    assert len(ask(tmp_path, "select * from spans")) == 2
    done = retain(tmp_path, periods, **asked)
    assert (done.removed["spans"], done.removed["logs"]) == (1, 0)
    assert len(ask(tmp_path, "select * from spans")) == 1
    assert len(list(tmp_path.glob("spans/*/*/*.parquet"))) == 2  # for running queries
    compaction.compact(tmp_path, now_s=asked["now_s"] + 2 * 3_600)
    assert len(list(tmp_path.glob("spans/*/*/*.parquet"))) == 1


def test_the_outlook_says_what_goes_now_and_what_goes_next(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([0, 1])})
    known = snapshots.newest(tmp_path)
    snapshots.append(tmp_path, {"spans": spans([20 * DAY_S, 20 * DAY_S + 1, 21 * DAY_S])})
    points(tmp_path, "metric_points", [0, 60], value=1.0, kind="gauge")
    now_s = MONDAY_S + 15 * DAY_S
    periods = RetentionSettings(traces_days=10)
    by_table = {one.table: one for one in outlook(tmp_path, periods, now_s=now_s)}
    assert by_table["spans"] == Outlook("spans", 2, 0, MONDAY_S + 30 * DAY_S + 1, 2)
    assert by_table["metric_points"] == Outlook(
        "metric_points", 0, 2, MONDAY_S + 90 * DAY_S + 60, 2
    )
    done = retain(tmp_path, periods, now_s=now_s, dry_run=True)
    assert (done.removed["spans"], done.points_before) == (2, 2)
    [late, _] = outlook(tmp_path, periods, now_s=now_s, since=known)
    assert (late.table, late.too_old, late.next_rows) == ("spans", 0, 2)
    impatient = RetentionSettings.model_validate({"services": {"x": {"traces_days": 5}}})
    [early] = [one for one in outlook(tmp_path, impatient, now_s=now_s) if one.table == "spans"]
    assert early.next_s == MONDAY_S + 25 * DAY_S + 1


def test_one_service_can_have_more_or_fewer_days_than_the_others(tmp_path: Path) -> None:
    for service in ("short", "long", "other"):
        snapshots.append(tmp_path, {"spans": spans([0, 1], service=service)})
    compaction.compact(tmp_path, now_s=WEEK_LATER_S)
    days = {"short": {"traces_days": 3}, "long": {"traces_days": 90}}
    periods = RetentionSettings.model_validate({"services": days})

    def left(after_days: float) -> list[str]:
        retain(tmp_path, periods, now_s=MONDAY_S + after_days * DAY_S)
        found = ask(tmp_path, "select distinct service_name as s from spans order by 1")
        return [row["s"] for row in found]

    assert left(2) == ["long", "other", "short"]
    assert left(4) == ["long", "other"]
    with open_manifest(tmp_path) as con:
        parts = live_parts(con)
    assert left(5) == ["long", "other"]
    with open_manifest(tmp_path) as con:
        assert live_parts(con) == parts
    assert left(31) == ["long"]
    assert left(91) == []


def test_a_large_part_is_rolled_up_some_minutes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [number * 7.0 for number in range(100)]  # eleven minutes and a half
    rolled = []
    for rows_at_once in (1_000, 20):
        lake = tmp_path / f"{rows_at_once}"
        monkeypatch.setattr(retention, "ROWS_AT_ONCE", rows_at_once)
        for kind, columns in {
            "gauge": {},
            "sum": {"temporality": "delta", "monotonic": True},
            "count": {"temporality": "cumulative", "monotonic": True},
        }.items():
            values = [float(number % 37) for number in range(100)]  # also for a counter reset
            of = "gauge" if kind == "gauge" else "sum"
            own = {"kind": of, "service_name": kind, **columns}
            points(lake, "metric_points", at, value=values, **own)
        compaction.compact(lake, now_s=WEEK_LATER_S)
        done = retain(lake, KEEP, now_s=WEEK_LATER_S)
        assert done.points_before == 300 and done.points_after < 50
        tables = ("metric_points", "exp_histogram_points")
        by = "service_name, time, value"
        sql = "select * from {} order by {}"
        rolled.append([ask(lake, sql.format(t, by if t[0] == "m" else "time")) for t in tables])
    assert rolled[0] == rolled[1]
    assert len(rolled[0][1]) == 12


def test_one_service_can_keep_its_points_for_longer_or_shorter(tmp_path: Path) -> None:
    services = ["short", "long", "other"]
    for one in services:
        columns = {"kind": "gauge", "service_name": one}
        points(tmp_path, "metric_points", [0, 20, 40], value=[1.0, 2.0, 3.0], **columns)
    compaction.compact(tmp_path, now_s=WEEK_LATER_S)
    hours = {"short": {"high_resolution_hours": 6}, "long": {"high_resolution_hours": 72}}
    periods = RetentionSettings.model_validate({"services": hours})

    def left(after_hours: float) -> dict[str, list[float]]:
        now_s = MONDAY_S + after_hours * 3_600
        assert retain(tmp_path, periods, now_s=now_s, dry_run=True).points_after == 0
        retain(tmp_path, periods, now_s=now_s)
        before = live_paths(tmp_path)
        assert retain(tmp_path, periods, now_s=now_s).points_before == 0
        assert live_paths(tmp_path) == before
        sql = "select service_name, value from metric_points order by time, value"
        rows = ask(tmp_path, sql)
        return {one: [r["value"] for r in rows if r["service_name"] == one] for one in services}

    every, last = [1.0, 2.0, 3.0], [3.0]
    assert left(5) == {"short": every, "long": every, "other": every}
    assert left(7) == {"short": last, "long": every, "other": every}
    assert left(25) == {"short": last, "long": every, "other": last}
    assert left(73) == {"short": last, "long": last, "other": last}
    counts = ask(tmp_path, "select count from exp_histogram_points")
    assert [row["count"] for row in counts] == [3, 3, 3]


def test_a_receiver_retains_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = spans([0]), spans([float(time.time() - MONDAY_S)])
    snapshots.append(tmp_path, {"spans": old})
    snapshots.append(tmp_path, {"spans": new})
    monkeypatch.setattr(live, "RETAIN_EVERY_S", 0.01)
    with live_receiver.running(Config(tmp_path, retain=True)):
        deadline = time.monotonic() + 60
        while live_receiver.count(tmp_path) == 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert ask(tmp_path, "select epoch_ns(time) > $limit as young from spans", limit=MONDAY_NS) == [
        {"young": True}
    ]


def live_paths(lake: Path) -> list[str]:
    with open_manifest(lake) as con:
        return [part.path for part in live_parts(con)]


def test_periods_come_from_the_environment_and_the_specs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: Path
) -> None:
    assert settings.retention(workspace) == RetentionSettings()
    monkeypatch.setenv("TRACES_RETENTION_DAYS", "7")
    monkeypatch.setenv("HIGH_RESOLUTION_RETENTION_HOURS", "6.5")
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs/retention.yaml").write_text("services: {cart: {logs_days: 3}}")
    found = settings.retention(tmp_path)
    assert (found.traces_days, found.metrics_days, found.high_resolution_hours) == (7, 90, 6.5)
    assert found.services["cart"].logs_days == 3
    monkeypatch.setenv("LOGS_RETENTION_DAYS", "-1")
    with pytest.raises(BadParameter, match="LOGS_RETENTION_DAYS"):
        settings.retention(tmp_path)


def test_the_command_says_what_it_is_relative_to(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([0])})
    arguments = ["lake", "retain", "--lake", str(tmp_path)]
    said = CliRunner().invoke(cli.apm, [*arguments, "--dry-run"])
    assert said.exit_code == 0 and "relative to now" in said.output
    assert "would remove 1 spans" in said.output
    assert "removed 1 spans" in CliRunner().invoke(cli.apm, arguments).output
    assert ask(tmp_path, "select * from spans") == []
