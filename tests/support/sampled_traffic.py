"""Generate one hour of traffic, and the tenth of it that a sampler keeps.

In:  a seed.
Out: frames with one row per span; a lake that holds them.
"""

from pathlib import Path

import numpy as np
import polars as pl
from rows import MONDAY_NS, NS_PER_S, table

from apm_analytics.lake import snapshots

HOUR_S = 3_600
TENTH = "ot=th:e6666666666666"  # rejects 90 %


def all_traffic(seed: int, calls: int = 1) -> pl.DataFrame:
    """One hour of traces with `calls` requests of one operation each; 4 % of the traces fail."""
    draw = np.random.default_rng(seed)
    traces = 6_000 // calls
    trace = np.repeat(np.arange(traces), calls)
    failed = np.repeat(draw.random(traces) < 0.04, calls)
    durations = draw.lognormal(-2, 0.6, trace.size) * np.where(failed, 3, 1)
    durations *= np.repeat(draw.lognormal(0, 0.2, traces), calls)
    return pl.DataFrame(
        {
            "time": MONDAY_NS + np.sort(draw.integers(0, HOUR_S * NS_PER_S, traces))[trace],
            "duration_ns": (durations * 1e9).astype(np.int64),
            "trace": trace,
            "failed": failed,
        }
    )


def sampled(full: pl.DataFrame, seed: int, *, keep_errors: bool = False) -> pl.DataFrame:
    """Keep every tenth trace; with `keep_errors` also all failed ones."""
    kept = np.random.default_rng(1_000 + seed).random(full["trace"].n_unique()) < 0.1
    chosen = full.with_columns(trace_state=pl.lit(TENTH), kept=pl.Series(kept[full["trace"]]))
    if keep_errors:
        chosen = chosen.with_columns(
            trace_state=pl.when("failed").then(pl.lit("ot=th:0")).otherwise("trace_state"),
            kept=pl.col("kept") | pl.col("failed"),
        )
    return chosen.filter("kept")


def save(lake: Path, rows: pl.DataFrame) -> None:
    count = rows.height
    columns = {
        "time": rows["time"].to_list(),
        "duration_ns": rows["duration_ns"].to_list(),
        "trace_id": [f"{trace:032x}" for trace in rows["trace"]],
        "span_id": [f"{number:016x}" for number in range(count)],
        "name": rows["name"].to_list() if "name" in rows.columns else ["GET /"] * count,
        "kind": ["server"] * count,
        "status_code": ["error" if failed else "unset" for failed in rows["failed"]],
        "service_name": ["shop"] * count,
        "trace_state": rows["trace_state"].to_list()
        if "trace_state" in rows.columns
        else [None] * count,
    }
    snapshots.append(lake, {"spans": table("spans", columns)})
