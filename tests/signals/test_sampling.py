"""`signals.sampling`: estimates from sampled traffic, and the coverage of their intervals."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from rows import MONDAY_NS, table
from sampled_traffic import HOUR_S, TENTH, all_traffic, sampled, save

from apm_analytics.foundation.errors import BadParameter, NotEnoughData
from apm_analytics.lake import query, snapshots
from apm_analytics.signals import operations, sampling

MONDAY = datetime(2026, 3, 2)
SEEDS = range(40)
# Of 40 intervals of 95 %, fewer than 34 contain the true value with probability 1 in 1,000.
LEAST_COVERED = 34


def weights(lake: Path, states: Sequence[str | None]) -> list[float]:
    """Return the weights of spans with these trace states."""
    count = len(states)
    columns = {
        "time": [MONDAY_NS + number for number in range(count)],
        "duration_ns": [1] * count,
        "trace_id": ["t"] * count,
        "span_id": ["s"] * count,
        "name": ["n"] * count,
        "trace_state": states,
    }
    snapshots.append(lake, {"spans": table("spans", columns)})
    with query.connect(lake) as con:
        rows = con.execute("select sample_weight from spans order by time").fetchall()
    return [row[0] for row in rows]


def test_the_threshold_in_the_trace_state_says_how_many_a_span_stands_for(tmp_path: Path) -> None:
    cases: dict[str | None, float] = {
        None: 1,
        "ot=th:0": 1,
        "ot=th:8": 2,
        "ot=th:c": 4,
        "ot=th:c;rv:1234567890abcd": 4,
        "ot=rv:1234567890abcd;th:c": 4,
        "congo=t61rcWkgMzE,ot=th:c,rojo=00f067aa0ba902b7": 4,
        "congo=th:c , ot=th:8": 2,
        TENTH: 10,
        "ot=th:fd70a3d70a3d71": 100,
        "ot=th:ffffffffffffff": 2.0**56,
    }
    assert weights(tmp_path, list(cases)) == pytest.approx(list(cases.values()), rel=1e-9)


@pytest.mark.parametrize(
    "state",
    ["ot=th:", "ot=th:xyz", "ot=th:123456789012345", "ot=th:C", "ot=th:-8", "other=th:8", "", "ot"],
)
def test_a_malformed_threshold_counts_as_one(tmp_path: Path, state: str) -> None:
    assert weights(tmp_path, [state]) == [1.0]


@pytest.mark.parametrize(("calls", "keep_errors"), [(1, False), (1, True), (5, False)])
def test_a_tenth_of_the_traffic_gives_all_of_it_within_the_interval(
    tmp_path: Path, calls: int, keep_errors: bool
) -> None:
    hour = {"since": MONDAY, "until": MONDAY + timedelta(hours=1)}
    truths = {}
    kept = []
    for seed in SEEDS:
        full = all_traffic(seed, calls)
        truths[seed] = {
            "rate": full.height / HOUR_S,
            "error_ratio": full["failed"].mean(),
            "latency_p95": full["duration_ns"].quantile(0.95, "higher") / 1e9,
        }
        rows = sampled(full, seed, keep_errors=keep_errors)
        kept.append(rows.with_columns(pl.lit(f"GET /{seed}").alias("name")))
    save(tmp_path, pl.concat(kept))
    covered = dict.fromkeys(truths[0], 0)
    wide = dict.fromkeys(truths[0], 0.0)
    with query.connect(tmp_path) as con:
        for seed, truth in truths.items():
            result = sampling.traffic(con, service_name="shop", operation=f"GET /{seed}", **hour)
            for name, value in truth.items():
                estimate = getattr(result, name)
                covered[name] += estimate.low <= value <= estimate.high
                wide[name] += (estimate.high - estimate.low) / value / len(truths)
    assert min(covered.values()) >= LEAST_COVERED, covered
    assert wide["rate"] < 0.2 * calls**0.5 and wide["latency_p95"] < 0.5 * calls**0.5, wide


def test_features_and_named_queries_make_up_for_the_sampling(tmp_path: Path) -> None:
    full = pl.concat(
        [all_traffic(seed).with_columns(pl.lit(f"GET /{seed}").alias("name")) for seed in range(12)]
    )
    kept = [
        sampled(one, seed, keep_errors=True) for seed, one in enumerate(full.partition_by("name"))
    ]
    save(tmp_path, pl.concat(kept))
    every: dict[str, object] = {"since": None, "until": None}
    with query.connect(tmp_path) as con:
        features = operations.features(con, window_s=300, min_requests=3)
        slow = query.named(con, "slowest_operations", count=12, min_requests=1, **every)
        service = query.named(con, "requests_by_service", window_s=HOUR_S, **every)
    truth = full.group_by("name").agg(
        p95_s=pl.col("duration_ns").quantile(0.95) / 1e9, failed=pl.col("failed").mean()
    )
    by_name = slow.join(truth, left_on="operation", right_on="name")
    assert by_name.height == 12
    assert by_name["requests"].to_numpy() == pytest.approx(6_000, rel=0.15)
    assert by_name["error_ratio"].to_numpy() == pytest.approx(by_name["failed"], rel=0.15)
    assert by_name["latency_p95_s"].to_numpy() == pytest.approx(by_name["p95_s"], rel=0.25)
    [all_of_it] = service.rows(named=True)
    assert all_of_it["requests"] == pytest.approx(72_000, rel=0.04)
    assert all_of_it["error_ratio"] == pytest.approx(full["failed"].mean(), rel=0.04)
    assert all_of_it["latency_p95_s"] == pytest.approx(
        full["duration_ns"].quantile(0.95) / 1e9, rel=0.05
    )
    at = pl.from_epoch(full["time"] // 1000, "us").dt.truncate("5m").alias("time")
    counted = full.group_by(at, operation="name").agg(n=pl.len(), failures=pl.col("failed").sum())
    seen = features.join(counted, on=["operation", "time"])
    assert seen.height >= 120
    assert (seen["error_count"] == seen["failures"]).all()  # all errors were kept
    assert (seen["seen_count"] < seen["count"]).all()
    off = (seen["rate_per_s"] - seen["n"] / 300) / seen["rate_se_per_s"]
    assert (off.abs() < 1.96).mean() > 0.9
    assert 0.8 < (off**2).mean() ** 0.5 < 1.25


def test_the_calls_of_one_trace_are_kept_or_lost_together(tmp_path: Path) -> None:
    save(tmp_path, sampled(all_traffic(1, calls=5), 1))
    with query.connect(tmp_path) as con:
        features = operations.features(con, window_s=300, min_requests=3)
    middle = features[len(features) // 2].row(0, named=True)
    traces = middle["seen_count"] / 5
    assert middle["rate_se_per_s"] == pytest.approx(50 * (0.9 * traces) ** 0.5 / 300, rel=1e-3)


def test_without_sampling_an_interval_is_a_point_and_the_quantile_interpolates(
    tmp_path: Path,
) -> None:
    full = all_traffic(3)
    save(tmp_path, full)
    with query.connect(tmp_path) as con:
        result = sampling.traffic(
            con,
            service_name="shop",
            operation="GET /",
            since=MONDAY,
            until=MONDAY + timedelta(hours=1),
        )
        windows = operations.features(con, window_s=300, min_requests=3)
    for estimate in (result.rate, result.error_ratio, result.latency_p95):
        assert estimate.low == estimate.value == estimate.high
    assert result.rate.value == pytest.approx(6_000 / HOUR_S)
    assert windows["rate_se_per_s"].max() == 0
    assert (windows["seen_count"] == windows["count"]).all()


def test_too_few_traces_and_an_odd_period_are_refused(tmp_path: Path) -> None:
    save(tmp_path, sampled(all_traffic(1), 1).head(20))
    asked = {"service_name": "shop", "operation": "GET /", "since": MONDAY}
    with query.connect(tmp_path) as con:
        with pytest.raises(NotEnoughData, match="20 traces"):
            sampling.traffic(con, until=MONDAY + timedelta(hours=1), **asked)
        with pytest.raises(NotEnoughData, match="0 traces"):
            sampling.traffic(con, until=MONDAY + timedelta(seconds=1), **asked)
        with pytest.raises(BadParameter, match="until after since"):
            sampling.traffic(con, until=MONDAY, **asked)
