"""Measure rate, errors and duration by service, in windows wide enough for a chart.

In:  a connection of `lake.query`.
Out: one row per service and window, in seconds.
"""

from datetime import datetime

import polars as pl

from apm_analytics.foundation.errors import NotEnoughData
from apm_analytics.lake import Connection, query

# Round widths for the axis of a chart: 1, 5, 15 min, 1, 3, 6, 12 h, 1 day.
WIDTHS_S = (60, 300, 900, 3_600, 10_800, 21_600, 43_200, 86_400)


def period(con: Connection) -> tuple[datetime, datetime]:
    """Return the start of the first and of the last span, UTC.

    Raises
    ------
    NotEnoughData
        The lake has no span.
    """
    first, last = query.frame(
        con, "select min(time)::timestamp as first, max(time)::timestamp as last from spans"
    ).row(0)
    if first is None:
        raise NotEnoughData("the lake holds no span; fill it with `apm import` or `apm simulate`")
    return first, last


def window_width(first: datetime, last: datetime, windows: int) -> int:
    """Return the smallest round width, in s, that gives at most `windows` windows."""
    seconds = (last - first).total_seconds()
    return next((width for width in WIDTHS_S if seconds <= width * windows), WIDTHS_S[-1])


def requests(
    con: Connection,
    *,
    windows: int = 180,
    since: datetime | None = None,
    until: datetime | None = None,
) -> pl.DataFrame:
    """Summarise the requests of every service in at most about `windows` windows.

    Parameters
    ----------
    windows : the most windows; their width is one of `WIDTHS_S`.
    since, until : the period, UTC; by default the whole lake.

    Returns
    -------
    service_name, time (start of the window), window_s, requests, rate_per_s, error_ratio,
    latency_p50_s, latency_p95_s; windows without a request have no row.

    Raises
    ------
    NotEnoughData
        The lake has no span.
    """
    first, last = period(con)
    width = window_width(since or first, until or last, windows)
    frame = query.named(con, "requests_by_service", window_s=width, since=since, until=until)
    return frame.with_columns(window_s=pl.lit(width))
