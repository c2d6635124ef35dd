"""Find the critical path of each trace and rank its slowest steps.

In:  a connection of `lake.query`.
Out: frames in seconds; the critical self times of a trace sum to the duration of its root.

The path is CRISP's [1]_: the child that returned last, and before each child on the path the
sibling that returned last before it began. A span is clipped to its parent. A span whose parent
never arrived is a root; a span that is its own ancestor is left out.

References
----------
.. [1] Zhang et al., CRISP: Critical Path Analysis of Large-Scale Microservice Architectures,
   USENIX ATC 2022.
"""

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from apm_analytics.lake import Connection, query

STEPS: dict[str, pl.DataType] = {
    "service_name": pl.String(),
    "operation": pl.String(),
    "traces": pl.UInt32(),
    "critical_s": pl.Float64(),
    "share": pl.Float64(),
}


def spans(
    con: Connection,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    trace_ids: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Return the spans on the critical path of every trace.

    Parameters
    ----------
    since, until : spans that begin in [since, until), UTC; by default the whole lake.

    Returns
    -------
    trace_id, span_id, root_span_id, root_service, root_operation, service_name, operation,
    status_code, sample_weight (of the root), depth (1 is the root), start_s (Unix time),
    critical_s.
    """
    path = query.named(
        con,
        "critical_path",
        since=since,
        until=until,
        trace_ids=None if trace_ids is None else list(trace_ids),
    )
    return path.with_columns(
        start_s=pl.col("starts") / 1e9, critical_s=pl.col("critical_ns") / 1e9
    ).drop("starts", "critical_ns")


def slowest_steps(path: pl.DataFrame) -> pl.DataFrame:
    """Rank the steps of traces by their time on the critical path.

    Parameters
    ----------
    path : from `spans`.

    Returns
    -------
    `STEPS`, slowest first: the traces with the step on their path, its critical self time in all of
    them, and its share of the time of all roots. Traces count with their sampling weight.
    """
    weighted = path.with_columns(critical_s=pl.col("critical_s") * pl.col("sample_weight"))
    whole = weighted["critical_s"].sum()
    traces = (
        path.group_by("service_name", "operation", "trace_id")
        .agg(pl.col("sample_weight").max())
        .group_by("service_name", "operation")
        .agg(traces=pl.col("sample_weight").sum().round())
    )
    return (
        weighted.group_by("service_name", "operation")
        .agg(critical_s=pl.col("critical_s").sum())
        .join(traces, on=["service_name", "operation"])
        .with_columns(share=pl.col("critical_s") / whole if whole else pl.lit(0.0))
        .sort("critical_s", "service_name", "operation", descending=[True, False, False])
        .cast(pl.Schema(STEPS))
    )
