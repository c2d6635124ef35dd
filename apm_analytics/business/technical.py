"""Measure the technical metrics that KPIs are compared with, on one grid, and demand.

In:  a lake through `lake.query`.
Out: a frame with one column per metric, and the request rate as the common driver.
"""

from datetime import datetime

import polars as pl

from apm_analytics.business import kpis
from apm_analytics.foundation.errors import NotFound
from apm_analytics.lake import Connection, query
from apm_analytics.signals import operations

# Rates are left out: they move with KPIs because both follow demand.
SIGNALS = ("latency_p95", "error_ratio")


def measure(
    con: Connection,
    *,
    window_s: int,
    min_requests: int,
    since: datetime | None = None,
    until: datetime | None = None,
    without: frozenset[str] = frozenset(),
) -> tuple[pl.DataFrame, pl.Series]:
    """Measure latency and errors of every operation, the gauges of every service, and demand.

    Parameters
    ----------
    con : from `lake.query.connect`.
    window_s : length of a window, in seconds.
    min_requests : a window with fewer requests has no latency and no error ratio.
    without : names of metrics to leave out, such as those that are KPIs.

    Returns
    -------
    `time` and one column per metric with a readable name (`storefront GET / p95 latency`); and the
    requests per second that entered from outside, one value per window. Without a whole window
    both are empty.
    """
    try:
        times = kpis.grid(con, window_s=window_s, since=since, until=until)
    except NotFound:
        return kpis.NO_WINDOWS, pl.Series(dtype=pl.Float64)
    features = operations.features(
        con, window_s=window_s, min_requests=min_requests, since=since, until=until
    )
    wide = times
    for name in SIGNALS:
        signal = operations.SIGNALS[name]
        title = pl.concat_str(*operations.OPERATION, pl.lit(signal.title), separator=" ")
        values = features.select(
            "time", title.alias("series"), pl.col(signal.column).alias("value")
        )
        wide = _joined(wide, values)
    gauges = query.named(con, "gauges_by_service", window_s=window_s)
    wide = _joined(wide, gauges.filter(~pl.col("name").is_in(list(without))).drop("name"))
    demand = query.named(con, "demand", window_s=window_s)
    rates = times.join(
        demand.select(pl.col("time").cast(pl.Datetime("us")), "rate_per_s"), on="time", how="left"
    )
    return wide, rates["rate_per_s"]


def _joined(wide: pl.DataFrame, values: pl.DataFrame) -> pl.DataFrame:
    if values.is_empty():
        return wide
    pivoted = values.with_columns(pl.col("time").cast(pl.Datetime("us"))).pivot(
        on="series", index="time", values="value"
    )
    columns = ["time", *sorted(set(pivoted.columns) - {"time"})]
    return wide.join(pivoted.select(columns), on="time", how="left").sort("time")
