"""How full the resources of every service are, window by window.

In:  a lake's gauges with names of OpenTelemetry's conventions that end in "utilization" (CPU,
     memory, connection pools, queues) or "usage_rate", in shares or percent.
Out: one row per (service_name, resource, window); a service without such a gauge has none.
"""

from datetime import datetime

import polars as pl

from apm_analytics.lake import query
from apm_analytics.lake.query import Connection
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
    con : what `lake.query.connect` gave.
    window_s : length of a window, in seconds.
    since : leave out what was before; UTC.

    Returns
    -------
    A frame with `SCHEMA`, sorted; `share` is the mean over instances, 1 is all of the resource
    (of CPU: all of one core).

    Examples
    --------
    >>> saturation(con, window_s=300)  # doctest: +SKIP
    """
    found = query.named(con, SATURATION, window_s=window_s, since=since)
    return found.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
