"""Transactions, SLOs, KPIs and rankings of sampled traffic describe all traffic.

Tests the use of `signals.sampling` in the rooms above.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
import slo_shop
from rows import MONDAY_NS, table
from sampled_traffic import all_traffic, sampled, save

from apm_analytics.business import kpis
from apm_analytics.business import specs as kpi_specs
from apm_analytics.lake import query, snapshots
from apm_analytics.signals import sampling
from apm_analytics.slo import events as slo_events
from apm_analytics.slo import specs as slo_specs
from apm_analytics.traces import critical_path
from apm_analytics.transactions import instances
from apm_analytics.transactions import specs as transactions_specs

MONDAY = datetime(2026, 3, 2)
HOUR = {"since": MONDAY, "until": MONDAY + timedelta(hours=1)}
SEEDS = range(4)
TRANSACTION = """transactions:
  visit:
    title: Visit
    owner: shop
    steps: [{service: shop, operation: GET /}]
    sla: {threshold_s: 0.3, objective: 0.9}
"""
MEDIAN = slo_shop.threshold(
    "target: 0.9, op: lte, value: 0.3, timeSliceWindow: 1h",
    quantile=", quantile: 0.95",
    method="Timeslices",
)


@pytest.fixture(params=SEEDS)
def traffic(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[pl.DataFrame, duckdb.DuckDBPyConnection]]:
    """An hour of traffic, and a lake with a tenth of it and all failures, which are slow."""
    full = all_traffic(request.param)
    save(tmp_path / "lake", sampled(full, request.param, keep_errors=True))
    with query.connect(tmp_path / "lake") as con:
        yield full, con


def test_a_transactions_counts_and_durations_are_those_of_all_traffic(
    traffic: tuple[pl.DataFrame, duckdb.DuckDBPyConnection], tmp_path: Path
) -> None:
    full, con = traffic
    (tmp_path / "transactions.yaml").write_text(TRANSACTION)
    transactions, hours = transactions_specs.load(tmp_path / "transactions.yaml")
    gathered = instances.gather(con, transactions, hours, timeout_s=60, **HOUR)
    told = instances.summary(gathered).row(0, named=True)
    stated = sampling.traffic(con, service_name="shop", operation="GET /", confidence=0.99, **HOUR)

    assert told["instances"] == pytest.approx(stated.rate.value * 3_600)
    assert stated.rate.low * 3_600 <= full.height <= stated.rate.high * 3_600
    completed = full.filter(~pl.col("failed"))["duration_ns"]
    # All failures are kept and are slow: without weights they would raise the quantiles.
    for level in (0.5, 0.95, 0.99):
        around = [completed.quantile(min(level + off, 1)) / 1e9 for off in (-0.03, 0.03)]
        assert around[0] <= told[f"latency_p{level * 100:.0f}_s"] <= around[1]
    attained = ((full["duration_ns"] <= 3e8) & ~full["failed"]).mean()
    assert told["attainment"] == pytest.approx(attained, abs=0.05)


def test_the_quantile_of_a_time_slice_is_that_of_all_traffic(
    traffic: tuple[pl.DataFrame, duckdb.DuckDBPyConnection], tmp_path: Path
) -> None:
    full, con = traffic
    slos = slo_specs.load(slo_shop.save(tmp_path / "slos", MEDIAN))
    requests = slo_events.gather(con, slos, **HOUR)
    objective = slos[0].objectives[0]
    told = slo_events.slice_quantiles(requests, objective, start=MONDAY, until=HOUR["until"])
    stated = sampling.traffic(con, service_name="shop", operation="GET /", confidence=0.99, **HOUR)

    [row] = told.rows(named=True)
    assert row["value"] == stated.latency_p95.value
    truth = full["duration_ns"].quantile(0.95) / 1e9
    assert stated.latency_p95.low <= truth <= stated.latency_p95.high
    kept = con.execute("select quantile_cont(duration_ns, 0.95) / 1e9 from spans").fetchall()[0][0]
    assert kept > stated.latency_p95.high


def people(lake: Path, *, keep: float, most_visits: int) -> tuple[float, float]:
    """A lake with a share of the traces of visitors; returns their number and share of buyers."""
    draw = np.random.default_rng(3)
    visits = draw.integers(1, most_visits + 1, 3_000)
    person = np.repeat(np.arange(visits.size), visits)
    buys = draw.random(person.size) < 0.3
    kept = np.flatnonzero(draw.random(person.size) < keep)
    # Two spans per visit, which are kept together and count once.
    rows = np.repeat(kept, 2)
    columns = {
        "time": [MONDAY_NS + int(trace) * 10**6 for trace in rows],
        "duration_ns": [10**8] * rows.size,
        "trace_id": [f"{trace:032x}" for trace in rows],
        "span_id": [f"{number:016x}" for number in range(rows.size)],
        "name": ["POST /checkout" if buys[trace] else "GET /" for trace in rows],
        "service_name": ["shop"] * rows.size,
        "session_id": [str(person[trace]) for trace in rows],
        "trace_state": ["ot=th:e6666666666666" if keep < 1 else None] * rows.size,
    }
    snapshots.append(lake, {"spans": table("spans", columns)})
    return float(visits.size), np.unique(person[buys]).size / visits.size


@pytest.mark.parametrize(
    ("keep", "most_visits", "least", "most"),
    [(1.0, 3, 1.0, 1.0), (0.1, 1, 0.9, 1.1), (0.1, 3, 0.75, 1.1)],
)
def test_sessions_are_estimated_from_how_many_were_seen_once_and_twice(
    tmp_path: Path, keep: float, most_visits: int, least: float, most: float
) -> None:
    visitors, buyers = people(tmp_path / "lake", keep=keep, most_visits=most_visits)
    source = "name: {0}, title: {0}, unit: '1', better: up, source: {{{1}}}"
    share = "kind: share, where: service_name = 'shop', of: name = 'POST /checkout', per: sessions"
    counted = "kind: spans, where: service_name = 'shop', aggregate: sessions"
    (tmp_path / "kpis.yaml").write_text(
        "kpis:\n"
        f"- {{{source.format('sessions', counted)}}}\n"
        f"- {{{source.format('share', share)}}}\n"
    )
    with query.connect(tmp_path / "lake") as con:
        specs = kpi_specs.load(tmp_path)
        [told] = kpis.measure_all(con, specs, window_s=3_600, **HOUR).values.rows(named=True)
    assert least * visitors <= told["sessions"] <= most * visitors
    assert told["share"] == pytest.approx(buyers, rel=0 if keep == 1 else 0.2)


def test_new_errors_and_slowest_steps_count_what_their_spans_stand_for(tmp_path: Path) -> None:
    day_ns = 86_400 * 10**9
    columns = {
        "time": [MONDAY_NS, MONDAY_NS + 2 * day_ns, MONDAY_NS + 2 * day_ns + 1],
        "duration_ns": [10**9, 10**9, 3 * 10**9],
        "trace_id": ["a" * 32, "b" * 32, "c" * 32],
        "span_id": ["1" * 16, "2" * 16, "3" * 16],
        "name": ["GET /", "GET /", "POST /"],
        "status_code": ["unset", "error", "unset"],
        "error_type": [None, "Timeout", None],
        "kind": ["server"] * 3,
        "service_name": ["shop"] * 3,
        "trace_state": [None, "ot=th:c", "ot=th:8"],
    }
    snapshots.append(tmp_path, {"spans": table("spans", columns)})
    with query.connect(tmp_path) as con:
        errors = query.named(con, "new_errors")
        steps = critical_path.slowest_steps(critical_path.spans(con))
    assert errors.select("error", "count").rows() == [("Timeout", 4)]
    assert steps.select("operation", "traces", "critical_s").rows() == [
        ("POST /", 2, 6.0),
        ("GET /", 5, 5.0),
    ]
    assert steps["share"].to_list() == pytest.approx([6 / 11, 5 / 11])
