"""Small Arrow tables in the lake's schema, for tests that need rows but no OTLP."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from apm_analytics.lake.schema import TABLES

# 2026-03-02 was a Monday; 00:00 UTC in nanoseconds.
MONDAY_NS = 1_772_409_600 * 10**9
NS_PER_S = 10**9


def table(name: str, columns: Mapping[str, Sequence[object]]) -> pa.Table:
    """Fill the columns given; all others are null."""
    count = len(next(iter(columns.values())))
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in TABLES[name]
    ]
    return pa.table(arrays, schema=TABLES[name])


def spans(times_s: Sequence[float], *, service: str = "shop", name: str = "GET /") -> pa.Table:
    """One root server span of 0.1 s at each time, in seconds after Monday 00:00 UTC."""
    count = len(times_s)
    return table(
        "spans",
        {
            "time": [MONDAY_NS + int(t * NS_PER_S) for t in times_s],
            "duration_ns": [NS_PER_S // 10] * count,
            "trace_id": [f"{int(t * 1000):032x}" for t in times_s],
            "span_id": [f"{int(t * 1000):016x}" for t in times_s],
            "name": [name] * count,
            "kind": ["server"] * count,
            "status_code": ["unset"] * count,
            "service_name": [service] * count,
        },
    )
