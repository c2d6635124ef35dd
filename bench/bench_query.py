"""Measure common queries on 5 million spans: CPU and wall ms, promoted column against map.

In:  --spans, --files.
Out: a table on standard output.

The spans are made here, in ten large parts, 12 attributes each; every query runs three times and
the best counts. The peer is the same query on the same attribute kept in a map.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from apm_analytics.lake import query, snapshots
from apm_analytics.lake.schema import TABLES

START_NS = 1_772_409_600 * 10**9
NS_PER_HOUR = 3_600 * 10**9
REPEATS = 3
ROUTES = 40

QUESTIONS = {
    "p50, p95, p99 by route and minute": (
        "select {route}, time_bucket(interval 1 minute, time::timestamp) as minute,"
        " quantile_cont(duration_ns, [0.5, 0.95, 0.99]) from spans group by all"
    ),
    "5-minute window": (
        "select {route}, quantile_cont(duration_ns, 0.95) from spans"
        " where time >= timestamp '2026-03-02 05:00' and time < timestamp '2026-03-02 05:05'"
        " group by all"
    ),
    "one trace by its id": "select * from spans where trace_id = '{trace}'",
    "error rate by service": (
        "select service_name, avg((status_code = 'error')::int) from spans group by all"
    ),
    "spans of one user": "select count(*), avg(duration_ns) from spans where {user} = 'user-77'",
}


def main() -> None:
    """Make the lake, query, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=5_000_000)
    parser.add_argument("--files", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder)
        per_file = arguments.spans // arguments.files
        for hour in tqdm(range(arguments.files), desc="writing spans", unit="part"):
            snapshots.append(lake, {"spans": _spans(hour, per_file)})
        con = query.connect(lake)
        found = con.execute("select trace_id from spans limit 1 offset 1000").fetchone()
        assert found
        print(f"\n{arguments.spans:,} spans, {snapshots.status(lake)['bytes'].sum() / 1e6:.0f} MB")
        print(f"{'question':36}{'CPU ms':>9}{'wall ms':>9}{'map CPU':>9}{'ratio':>7}")
        for label, sql in QUESTIONS.items():
            column = sql.format(route="http_route", user="user_id", trace=found[0])
            kept = sql.format(
                route="attributes['route'] as route", user="attributes['user']", trace=found[0]
            )
            cpu, wall = _cost(con, column)
            line = f"{label:36}{cpu:9.0f}{wall:9.0f}"
            if kept != column:
                map_cpu, _ = _cost(con, kept)
                line += f"{map_cpu:9.0f}{map_cpu / cpu:7.1f}"
            print(line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB")


def _cost(con: "query.duckdb.DuckDBPyConnection", sql: str) -> tuple[float, float]:
    """Return the least CPU and wall milliseconds of a few runs."""
    costs = []
    for _ in range(REPEATS):
        cpu, wall = time.process_time(), time.perf_counter()
        con.execute(sql).fetchall()
        costs.append((1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)))
    return min(costs)


def _spans(hour: int, count: int) -> pa.Table:
    """One hour of spans with a dozen attributes, some with columns and some in the map."""
    random = np.random.default_rng(hour)
    route = pa.array([f"/api/v1/resource-{k}/{{id}}" for k in range(ROUTES)]).take(
        pa.array(random.integers(0, ROUTES, count))
    )
    user = pa.array([f"user-{k}" for k in range(5000)]).take(
        pa.array(random.integers(0, 5000, count))
    )
    service = pa.array([f"service-{k}" for k in range(12)]).take(
        pa.array(random.integers(0, 12, count))
    )
    keys = pa.array(np.tile(np.array(["route", "user", "build"]), count))
    build = pa.array(["build-7"] * count)
    items = pa.concat_arrays([route, user, build]).take(
        pa.array((np.arange(count)[:, None] + np.arange(3) * count).ravel())
    )
    known = {
        "time": pa.array(
            START_NS + hour * NS_PER_HOUR + np.sort(random.integers(0, NS_PER_HOUR, count))
        ),
        "duration_ns": pa.array((random.lognormal(17, 1, count)).astype("int64")),
        "trace_id": pc.cast(pa.array(_hex(random, count, 16)), pa.string()),
        "span_id": pc.cast(pa.array(_hex(random, count, 8)), pa.string()),
        "name": route,
        "kind": pa.array(["server"] * count),
        "status_code": pa.array(np.where(random.random(count) < 0.01, "error", "unset")),
        "service_name": service,
        "http_route": route,
        "http_request_method": pa.array(["GET"] * count),
        "http_response_status_code": pa.array(np.full(count, 200)),
        "url_path": route,
        "server_address": service,
        "user_id": user,
        "attributes": pa.MapArray.from_arrays(
            pa.array(np.arange(0, 3 * count + 1, 3, dtype="int32")), keys, items
        ),
    }
    return pa.table(
        [
            known[field.name].cast(field.type)
            if field.name in known
            else pa.nulls(count, field.type)
            for field in TABLES["spans"]
        ],
        schema=TABLES["spans"],
    )


def _hex(random: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Random ids as fixed-width hex text."""
    digits = np.frombuffer(b"0123456789abcdef", "u1")
    return digits[random.integers(0, 16, (count, 2 * size))].view(f"S{2 * size}").ravel()


if __name__ == "__main__":
    main()
