"""`signals.operations`: rate, errors and duration equal a count by hand."""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from rows import MONDAY_NS, NS_PER_S, spans, table

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.lake import query, snapshots
from apm_analytics.signals import operations

MONDAY = datetime(2026, 3, 2)


def _features(lake: Path, **knobs: object) -> pl.DataFrame:
    with query.connect(lake) as con:
        return operations.features(con, **{"window_s": 300, "min_requests": 3, **knobs})


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """One operation: 4 requests in the window at 300 s, 0, 3, 1; cut windows on both sides."""
    times = [10, 20, 310, 320, 330, 340, 1000, 1001, 1002, 1300, 1600, 1900]
    snapshots.append(tmp_path, {"spans": spans(times)})
    return tmp_path


def test_cut_windows_are_left_out_and_empty_ones_between_are_kept(lake: Path) -> None:
    features = _features(lake)
    assert features.schema == pl.Schema(operations.SCHEMA)
    assert features["time"].to_list() == [
        MONDAY + timedelta(seconds=s) for s in (300, 600, 900, 1200, 1500)
    ]
    assert features["count"].to_list() == [4, 0, 3, 1, 1]


def test_windows_under_the_minimum_have_a_rate_but_no_latency_and_no_error_ratio(
    lake: Path,
) -> None:
    features = _features(lake)
    assert features["rate_per_s"].to_list() == pytest.approx([4 / 300, 0, 0.01, 1 / 300, 1 / 300])
    for column in ("latency_p50_s", "latency_p95_s", "latency_p99_s", "error_ratio"):
        assert features[column].is_null().to_list() == [False, True, False, True, True]
    assert features["latency_p95_s"][0] == pytest.approx(0.1)


def test_since_and_until_keep_whole_windows_between_them(lake: Path) -> None:
    since, until = MONDAY + timedelta(seconds=400), MONDAY + timedelta(seconds=1250)
    features = _features(lake, since=since, until=until)
    assert features["time"].to_list() == [MONDAY + timedelta(seconds=900)]
    with pytest.raises(BadParameter, match="swap them"):
        _features(lake, since=until, until=since)


def test_only_entry_spans_count_and_errors_are_those_with_status_error(tmp_path: Path) -> None:
    second = [301, 302, 303, 304, 305, 900]
    count = len(second)
    rows = table(
        "spans",
        {
            "time": [MONDAY_NS + s * NS_PER_S for s in second],
            "duration_ns": [1 * NS_PER_S, 2 * NS_PER_S, 3 * NS_PER_S, 9, 9, 9],
            "trace_id": ["1" * 32] * count,
            "span_id": [f"{i:016x}" for i in range(count)],
            "parent_span_id": ["f" * 16, "f" * 16, None, "f" * 16, "f" * 16, None],
            "name": ["work"] * count,
            "kind": ["server", "consumer", "internal", "client", "internal", "server"],
            "status_code": ["error", "unset", "ok", "error", "error", "ok"],
            "service_name": ["shop"] * count,
        },
    )
    snapshots.append(tmp_path, {"spans": rows})
    first = table(
        "spans",
        {
            **{c: rows[c].to_pylist()[:1] for c in rows.column_names},
            "time": [MONDAY_NS],
            "span_id": ["a" * 16],
        },
    )
    snapshots.append(tmp_path, {"spans": first})
    features = _features(tmp_path).filter(pl.col("time") == MONDAY + timedelta(seconds=300))
    row = features.row(0, named=True)
    assert (row["count"], row["error_count"]) == (3, 1)
    assert row["error_ratio"] == pytest.approx(1 / 3)
    assert row["latency_p50_s"] == pytest.approx(2.0)
    assert row["latency_p95_s"] == pytest.approx(2.9)


def test_a_lake_without_spans_gives_no_rows_and_a_window_of_nothing_is_refused(
    tmp_path: Path,
) -> None:
    rows = table("logs", {"time": [MONDAY_NS]})
    snapshots.append(tmp_path, {"logs": rows})
    assert _features(tmp_path).is_empty()
    with pytest.raises(BadParameter, match=r"params\.yaml"):
        _features(tmp_path, window_s=0)


def test_an_operation_that_stops_has_zero_rate_to_the_end_of_the_recording(tmp_path: Path) -> None:
    for name, days in (("GET /", 20), ("GET /stopped", 16), ("GET /retired", 8)):
        times = [day * 86_400 + second for day in range(days) for second in (310, 40_000)]
        snapshots.append(tmp_path, {"spans": spans(times, name=name)})
    features = _features(tmp_path)
    last = features.group_by("operation").agg(pl.col("time").max(), pl.col("rate_per_s").last())
    ends = {row[0]: row[1:] for row in last.rows()}
    assert ends["GET /stopped"] == (ends["GET /"][0], 0.0)
    assert ends["GET /retired"][0] == MONDAY + timedelta(days=7, seconds=39_900)
    assert ends["GET /retired"][1] > 0
