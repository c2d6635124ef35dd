"""Measure rate, errors and duration of every operation, window by window.

In:  a lake's spans, through `lake.query`.
Out: one row per (service_name, operation, window) with the values of `SIGNALS`.

An operation is a span name of a service among its entry spans (`lake/sql/views`): spans of kind
server or consumer, roots, and spans called by another service. Durations are in seconds; times are
starts of windows, UTC.
"""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.time import naive
from apm_analytics.lake import Connection, query
from apm_analytics.lake.schema import PROMOTED, RESOURCE_COLUMNS, column_name

OPERATION = ("service_name", "operation")
SERIES = (*OPERATION, "signal")


@dataclass(frozen=True)
class Signal:
    """A watched quantity with its unit (UCUM) and its column in the features."""

    name: str
    unit: str
    column: str
    title: str


SIGNALS: dict[str, Signal] = {
    signal.name: signal
    for signal in (
        Signal("latency_p95", "s", "latency_p95_s", "p95 latency"),
        Signal("rate", "1/s", "rate_per_s", "request rate"),
        Signal("error_ratio", "1", "error_ratio", "error ratio"),
    )
}

# An operation without requests for this long before the end of the recording counts as retired,
# for example by a deployment: its features end with its last request. A weekly job is not retired.
RETIRED_AFTER_DAYS = 7.5

Schema = dict[str, type[pl.DataType] | pl.DataType]

SCHEMA: Schema = {
    "service_name": pl.String,
    "operation": pl.String,
    "time": pl.Datetime("us"),
    "count": pl.Int64,
    "seen_count": pl.Int64,
    "rate_per_s": pl.Float64,
    "rate_se_per_s": pl.Float64,
    "error_count": pl.Int64,
    "error_ratio": pl.Float64,
    "latency_p50_s": pl.Float64,
    "latency_p95_s": pl.Float64,
    "latency_p99_s": pl.Float64,
}


def features(
    con: Connection,
    *,
    window_s: int,
    min_requests: int,
    since: datetime | None = None,
    until: datetime | None = None,
    retired_after_days: float = RETIRED_AFTER_DAYS,
) -> pl.DataFrame:
    """Measure every operation of the lake in windows of equal length.

    Parameters
    ----------
    min_requests : a window with fewer requests has no latency and no error ratio.
    retired_after_days : an operation that ends with at least this long without requests is
        retired: it has no rows after its last request.
    since, until : keep only windows that lie wholly between these times; UTC.

    Returns
    -------
    A frame with `SCHEMA`, sorted by service, operation and time. Every window from an operation's
    first one to the end of the recording has a row; in a window without requests, count and rate
    are 0, latency and error ratio null. Windows cut by the start or end of the recording are left
    out.

    Sampled traffic is scaled up: `count`, `rate_per_s`, `error_count` and the quantiles describe
    all traffic. `seen_count` is the number of spans that arrived, which `min_requests` applies to.
    `rate_se_per_s` is the standard error of the rate, 0 without sampling and in a window of which
    sampling kept nothing.

    Raises
    ------
    BadParameter
        A window or a minimum below 1, or `until` not after `since`.
    """
    if window_s < 1 or min_requests < 1:
        raise BadParameter(
            f"got window_s={window_s} and min_requests={min_requests}, need at least 1 each; "
            "see `features` in params.yaml"
        )
    since, until = naive(since), naive(until)
    if since is not None and until is not None and until <= since:
        raise BadParameter(f"got until={until}, which is not after since={since}; swap them")
    measured = query.named(
        con,
        "features",
        window_s=window_s,
        min_requests=min_requests,
        since=since,
        until=until,
        retired_after_s=retired_after_days * 86_400,
    )
    return measured.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def drop_repeated(con: Connection, table: str) -> None:
    """Delete all but one row of every span that arrived more than once.

    Parameters
    ----------
    table : a temporary table with `id` (a hash of trace and span id), `time` and `duration_ns`.
    """
    con.execute(
        f"delete from {table} where rowid in (select rowid from {table} semi join"
        f" (select id from {table} group by id having count(*) > 1) as repeated using (id)"
        " qualify row_number() over (partition by id, time, duration_ns) > 1)"
    )


def attribute_sql(name: str) -> str:
    """Return the SQL of an attribute: its promoted column, or its entry in the map.

    Examples
    --------
    >>> attribute_sql("service.name"), attribute_sql("shop's tier")
    ('service_name', "attributes['shop''s tier']")
    """
    column = column_name(name)
    if column in {*RESOURCE_COLUMNS.values(), *map(column_name, PROMOTED)}:
        return column
    quoted = name.replace("'", "''")
    return f"attributes['{quoted}']"
