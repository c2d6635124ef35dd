"""Measure the saturation of the resources of every service, window by window.

In:  a lake's gauges whose OpenTelemetry name ends in "utilization" (CPU, memory, connection pools,
     queues) or "usage_rate", as shares or percent.
Out: one row per (service_name, resource, window); a service without such a gauge has no rows.
"""

from datetime import datetime

import polars as pl

from apm_analytics.lake import Connection, query
from apm_analytics.signals.operations import Schema

SATURATION = "saturation"
SCHEMA: Schema = {
    "service_name": pl.String,
    "resource": pl.String,
    "time": pl.Datetime("us"),
    "share": pl.Float64,
}


def saturation(con: Connection, *, window_s: int, since: datetime | None = None) -> pl.DataFrame:
    """Measure every resource of every service.

    Parameters
    ----------
    since : start of the period, UTC; by default that of the lake.

    Returns
    -------
    A frame with `SCHEMA`, sorted. `share` is the mean over instances; 1 is the whole resource (for
    CPU one core).
    """
    gauges = query.named(con, SATURATION, window_s=window_s, since=since)
    return gauges.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
