"""Time the SLO report and the critical paths on 30 days of 5 million transactions.

In:  --transactions, --traces (of ten spans, for the critical paths).
Out: CPU and wall seconds on standard output; exit 1 when a limit is missed.

The lake is made here, seeded. DuckDB has two threads. The limits are of wall time on two cores
without other load; under load half the CPU time is what two such cores would take.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from apm_analytics.lake import query, snapshots
from apm_analytics.lake.schema import TABLES
from apm_analytics.signals import Calendar
from apm_analytics.slo import Given, Limits, reports
from apm_analytics.slo import specs as slo_specs
from apm_analytics.traces import critical_path
from apm_analytics.transactions import instances
from apm_analytics.transactions import specs as transactions_specs

START_NS = 1_772_409_600 * 10**9  # Monday, 2 March 2026
DAY_NS = 86_400 * 10**9
DAYS = 30
REPORT_LIMIT_S = 20.0
PATH_LIMIT_S = 5.0  # for a million spans
SPECS = Path(__file__).resolve().parent.parent / "specs"
OPERATIONS = ("GET /products", "GET /search", "POST /cart/items", "POST /checkout")


def main() -> None:
    """Write both lakes, measure, print, and check the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transactions", type=int, default=5_000_000)
    parser.add_argument("--traces", type=int, default=100_000)
    arguments = parser.parse_args()
    kept = True
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder) / "transactions"
        for day in tqdm(range(DAYS), desc="writing transactions", unit="day"):
            snapshots.append(lake, {"spans": _roots(day, arguments.transactions // DAYS)})
        kept &= _measured("all SLOs of specs/slos", REPORT_LIMIT_S, lambda: _report(lake))
        kept &= _measured("all transactions of specs", REPORT_LIMIT_S, lambda: _transactions(lake))
        lake = Path(folder) / "traces"
        snapshots.append(lake, {"spans": _traces(arguments.traces)})
        limit = PATH_LIMIT_S * arguments.traces / 100_000
        kept &= _measured("critical paths of all traces", limit, lambda: _paths(lake))
    sys.exit(0 if kept else 1)


def _measured(label: str, limit_s: float, job: Callable[[], str]) -> bool:
    cpu, wall = time.process_time(), time.perf_counter()
    said = job()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    judged = min(wall, cpu / 2) if cpu < 2 * wall else wall
    verdict = "ok" if judged <= limit_s else "MISSED"
    print(f"{label:32} CPU {cpu:6.1f} s  wall {wall:6.1f} s  limit {limit_s:.0f} s  {verdict}")
    print(f"  {said}")
    return judged <= limit_s


def _report(lake: Path) -> str:
    business, hours = transactions_specs.load(SPECS)
    slos = slo_specs.load(SPECS / "slos", transactions=frozenset(one.name for one in business))
    given = Given(Limits(50, 5), 3_600.0, Calendar())
    with query.connect(lake) as con:
        con.execute("set threads = 2")
        found = reports(
            con,
            slos,
            given,
            instances=lambda since, until: (
                instances.gather(
                    con,
                    [one for one in business if one.name == "order"],
                    hours,
                    since=since,
                    until=until,
                    timeout_s=60,
                ).counted
            ),
            month="2026-03",
        )
    counted = sum(float(one.total) for report in found for one in report.budgets)
    return f"{len(found)} SLOs, {counted:,.0f} counted"


def _transactions(lake: Path) -> str:
    business, hours = transactions_specs.load(SPECS)
    with query.connect(lake) as con:
        con.execute("set threads = 2")
        found = instances.gather(
            con,
            business,
            hours,
            since=datetime(2026, 3, 1),
            until=datetime(2026, 4, 1),
            timeout_s=60,
        )
        total = instances.summary(found)["instances"].sum()
    return f"{total:,.0f} instances"


def _paths(lake: Path) -> str:
    with query.connect(lake) as con:
        con.execute("set threads = 2")
        path = critical_path.spans(con)
    return f"{path.height:,} spans on the paths of {path['trace_id'].n_unique():,} traces"


def _roots(day: int, count: int) -> pa.Table:
    """Return one day of requests to the storefront, about six per session."""
    random = np.random.default_rng(day)
    names = pa.array(OPERATIONS).take(pa.array(random.choice(4, count, p=[0.4, 0.3, 0.2, 0.1])))
    sessions = pa.array((np.arange(count) // 6 + day * count).astype("int64"))
    return _table(
        {
            "time": pa.array(START_NS + day * DAY_NS + np.sort(random.integers(0, DAY_NS, count))),
            "duration_ns": pa.array(random.lognormal(18, 0.8, count).astype("int64")),
            "trace_id": _hex(random, count, 16),
            "span_id": _hex(random, count, 8),
            "name": names,
            "kind": pa.array(["server"] * count),
            "status_code": pa.array(np.where(random.random(count) < 0.01, "error", "unset")),
            "service_name": pa.array(["storefront"] * count),
            "session_id": pc.cast(sessions, pa.string()),
        }
    )


def _traces(count: int) -> pa.Table:
    """Return traces of ten spans: a root, three sequential calls, two children of each."""
    random = np.random.default_rng(0)
    shape = [(-1, 0, 1000), (0, 10, 300), (0, 320, 300), (0, 630, 300)]
    shape += [(parent, 20 + 130 * child, 120) for parent in (1, 2, 3) for child in (0, 1)]
    starts = np.zeros((count, 10), dtype="int64")
    lengths = np.zeros((count, 10), dtype="int64")
    for place, (parent, offset, length) in enumerate(shape):
        stretched = 1_000_000 * (1 + random.random(count))
        before = starts[:, parent] if parent >= 0 else 0
        starts[:, place] = before + (offset * 1_000_000 if place else 0)
        lengths[:, place] = (length * stretched * 0.6).astype("int64")
    begins = START_NS + random.integers(0, DAY_NS, count)[:, None] + starts
    trace = np.repeat(np.asarray(_hex(random, count, 16)), 10)
    span = np.asarray(_hex(random, count * 10, 8)).reshape(count, 10)
    parents = np.array([parent for parent, _, _ in shape])
    parent_ids = np.where(parents[None, :] >= 0, span[:, parents], None)
    return _table(
        {
            "time": pa.array(begins.ravel()),
            "duration_ns": pa.array(lengths.ravel()),
            "trace_id": pa.array(trace),
            "span_id": pa.array(span.ravel()),
            "parent_span_id": pa.array(parent_ids.ravel()),
            "name": pa.array(np.tile([f"step {place}" for place in range(10)], count)),
            "kind": pa.array(["server"] * (10 * count)),
            "service_name": pa.array(np.tile([f"service-{p % 4}" for p in range(10)], count)),
        }
    )


def _table(known: dict[str, pa.Array]) -> pa.Table:
    count = len(next(iter(known.values())))
    return pa.table(
        [
            known[field.name].cast(field.type)
            if field.name in known
            else pa.nulls(count, field.type)
            for field in TABLES["spans"]
        ],
        schema=TABLES["spans"],
    )


def _hex(random: np.random.Generator, count: int, size: int) -> pa.Array:
    """Return random ids as hex text."""
    digits = np.frombuffer(b"0123456789abcdef", "u1")
    fixed = digits[random.integers(0, 16, (count, 2 * size))].view(f"S{2 * size}").ravel()
    return pc.cast(pa.array(fixed), pa.string())


if __name__ == "__main__":
    main()
