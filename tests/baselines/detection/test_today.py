from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rows import MONDAY_NS, NS_PER_S, table

from apm_analytics.baselines.detection import today
from apm_analytics.baselines.detection.episodes import Changed
from apm_analytics.foundation import settings
from apm_analytics.lake import query, snapshots

WINDOW_S = 300
PER_DAY = 288
START = datetime(2026, 3, 2)
HOUR_NS = 3_600 * NS_PER_S


def _features(days: int, seed: int = 1) -> pl.DataFrame:
    """Two operations with a day and, on Sundays and Saturdays, half the traffic."""
    rng = np.random.default_rng(seed)
    n = days * PER_DAY
    times = [START + timedelta(seconds=WINDOW_S * at) for at in range(n)]
    shape = 10.0 + 5.0 * np.sin(2 * np.pi * np.arange(n) / PER_DAY)
    shape = shape * np.array([0.5 if time.weekday() >= 5 else 1.0 for time in times])
    return pl.concat(
        pl.DataFrame(
            {
                "service_name": "shop",
                "operation": operation,
                "time": times,
                "count": np.full(n, 3_000),
                "rate_per_s": shape * np.exp(rng.normal(0.0, 0.05, n)),
                "error_ratio": np.abs(rng.normal(0.0, 0.002, n)),
                "latency_p95_s": 0.2 * np.exp(rng.normal(0.0, 0.05, n)),
            }
        )
        for operation in ("GET /", "POST /checkout")
    )


def _changed(
    features: pl.DataFrame, column: str, change: pl.Expr, hours: float = 24
) -> pl.DataFrame:
    last = features["time"].max()
    late = (pl.col("time") > last - timedelta(hours=hours)) & (pl.col("operation") == "GET /")  # type: ignore[operator]
    return features.with_columns(pl.when(late).then(change).otherwise(column).alias(column))


@pytest.mark.parametrize("days", [28, 27, 9])
def test_an_ordinary_day_is_not_different(days: int) -> None:
    for seed in range(3):
        assert today.shifts(_features(days, seed), WINDOW_S).is_empty()


@pytest.mark.parametrize(
    ("signal", "column", "change"),
    [
        ("latency_p95", "latency_p95_s", pl.col("latency_p95_s") * 1.25),
        ("rate", "rate_per_s", pl.col("rate_per_s") * 0.7),
        ("error_ratio", "error_ratio", pl.col("error_ratio") + 0.03),
    ],
)
def test_a_level_that_moved_today_is_found_with_its_size(
    signal: str, column: str, change: pl.Expr
) -> None:
    # Day 27 is a Saturday: against the days before it, half the traffic would be a change.
    features = _changed(_features(27), column, change)
    shifts = today.shifts(features, WINDOW_S)
    assert shifts.select("operation", "signal", "days").rows() == [("GET /", signal, 3)]
    row = shifts.row(0, named=True)
    if signal == "rate":
        assert row["ratio"] == pytest.approx(0.7, abs=0.03)
        assert today.shift_table(shifts)["change"][0] in {"-29%", "-30%", "-31%"}


def test_two_days_are_compared_with_each_other_and_only_large_changes_count() -> None:
    features = _features(2)
    assert today.shifts(features, WINDOW_S).is_empty()
    small = _changed(features, "latency_p95_s", pl.col("latency_p95_s") * 1.2)
    assert today.shifts(small, WINDOW_S).is_empty()
    large = _changed(features, "latency_p95_s", pl.col("latency_p95_s") * 2.0)
    assert today.shifts(large, WINDOW_S)["days"].to_list() == [1]


def test_a_single_day_has_nothing_to_be_compared_with() -> None:
    assert today.shifts(_features(1), WINDOW_S).is_empty()
    assert "nothing to compare with" in today.compared_with(_features(1), WINDOW_S)
    assert "same weekday" in today.compared_with(_features(9), WINDOW_S)


def test_a_new_level_that_lasts_is_told_from_a_spike_that_is_over() -> None:
    params = settings.load().params.detector
    features = _features(21)
    last = features["time"].max()
    spike = (pl.col("time") > last - timedelta(hours=10)) & (  # type: ignore[operator]
        pl.col("time") <= last - timedelta(hours=9)  # type: ignore[operator]
    )
    features = features.with_columns(
        latency_p95_s=pl.when(spike).then(0.6).otherwise("latency_p95_s")
    )
    features = _changed(features, "latency_p95_s", pl.col("latency_p95_s") * 1.6, hours=6)
    changes = today.began(features, params, WINDOW_S).filter(pl.col("kind") == "level shift")
    assert changes.select("operation", "signal").rows() == [("GET /", "latency_p95")]
    row = changes.row(0, named=True)
    assert abs((row["start"] - (last - timedelta(hours=6))).total_seconds()) <= 900  # type: ignore[operator]
    assert row["value"] == pytest.approx(0.32, rel=0.05)
    assert today.began_table(changes)["what"][0] == "level shift of p95"
    assert today.began(features.clear(), params, WINDOW_S).is_empty()


def test_versions_and_errors_that_are_new_today_are_found_in_the_lake(tmp_path: Path) -> None:
    con = query.connect(_lake(tmp_path))
    versions = today.versions(con)
    assert versions.select("service_name", "version", "before").rows() == [("shop", "2.0", "1.0")]
    errors = today.error_types(con)
    assert errors.select("operation", "error", "count").rows() == [
        ("GET /", "TimeoutError", 2),
        ("GET /", "card declined", 1),
    ]


def test_a_lake_without_spans_has_nothing_new(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": table("spans", {"time": []})})
    con = query.connect(tmp_path)
    assert today.versions(con).is_empty() and today.error_types(con).is_empty()


def test_operations_that_are_new_or_gone_are_listed() -> None:
    table = today.operations_table(Changed(new=[("shop", "GET /new")], gone=[("shop", "GET /old")]))
    assert table.rows() == [("shop", "GET /new", "new"), ("shop", "GET /old", "gone")]


def _lake(folder: Path) -> Path:
    """Three days; the last has a new version, new errors and a new operation."""
    spans = [
        # hour, operation, version, failed, error type, message
        (0, "GET /", "1.0", False, None, None),
        (1, "GET /", "1.0", True, "ValueError", None),
        (30, "GET /", "1.0", True, "ValueError", None),
        (60, "GET /", "2.0", True, "ValueError", None),
        (61, "GET /", "2.0", True, "TimeoutError", "took 30 s"),
        (62, "GET /", "2.0", True, "TimeoutError", None),
        (63, "GET /", "2.0", True, None, "card declined"),
        (64, "GET /new", "2.0", True, "KeyError", None),
        (71, "GET /", "1.0", False, None, None),
    ]
    columns = {
        "time": [MONDAY_NS + hour * HOUR_NS for hour, *_ in spans],
        "duration_ns": [10**6] * len(spans),
        "trace_id": [f"{at:032x}" for at in range(1, len(spans) + 1)],
        "span_id": [f"{at:016x}" for at in range(1, len(spans) + 1)],
        "service_name": ["shop"] * len(spans),
        "name": [one[1] for one in spans],
        "service_version": [one[2] for one in spans],
        "kind": ["server"] * len(spans),
        "status_code": ["error" if one[3] else "unset" for one in spans],
        "error_type": [one[4] for one in spans],
        "status_message": [one[5] for one in spans],
    }
    snapshots.append(folder, {"spans": table("spans", columns)})
    return folder
