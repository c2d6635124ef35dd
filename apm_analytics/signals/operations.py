"""Rate, errors and duration of every operation, window by window.

In:  a lake's spans, through `lake.query`.
Out: one row per (service_name, operation, window) with the values of `SIGNALS`.

An operation is a span name of a service, over its entry spans (`lake/sql/views`): kind server or
consumer, a root, or called by another service. Everything is in seconds; times are the starts of
windows, UTC.
"""

from dataclasses import dataclass
from datetime import datetime

import duckdb
import polars as pl

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.time import naive
from apm_analytics.lake import query

OPERATION = ("service_name", "operation")
SERIES = (*OPERATION, "signal")


@dataclass(frozen=True)
class Signal:
    """One quantity that is watched: its unit (UCUM) and its column in the features."""

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

# An operation without a request for so long before the end of the recording was retired, by a
# deployment say: its features end with its last request. A weekly job is not retired.
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
    con: duckdb.DuckDBPyConnection,
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
    con : what `lake.query.connect` gave.
    window_s : length of a window, in seconds.
    min_requests : a window with fewer has no latency and no error ratio.
    retired_after_days : an operation without requests for longer, up to the end, ends with them.
    since, until : leave out windows that do not lie wholly between; UTC.

    Returns
    -------
    A frame with `SCHEMA`, sorted by service, operation and time. From the first window of an
    operation to the end of the recording none is missing: without requests its count and rate
    are 0, its latency and error ratio null. Only a retired operation ends with its last request.
    Windows that the recording's start or end cuts are left out.

    Sampled traffic counts as what it stands for: `count`, `rate_per_s`, `error_count` and the
    quantiles are those of all traffic; `seen_count` is the number of spans that arrived and that
    `min_requests` is about; `rate_se_per_s` is the standard error of the rate, 0 without sampling.
    A window of which sampling kept nothing has rate 0 and standard error 0.

    Raises
    ------
    BadParameter
        A window or a minimum below 1, or `until` not after `since`.

    Examples
    --------
    >>> features(con, window_s=300, min_requests=3)  # doctest: +SKIP
    """
    if window_s < 1 or min_requests < 1:
        raise BadParameter(
            f"got window_s={window_s} and min_requests={min_requests}, need at least 1 each; "
            "see `features` in params.yaml"
        )
    since, until = naive(since), naive(until)
    if since is not None and until is not None and until <= since:
        raise BadParameter(f"got until={until}, which is not after since={since}; swap them")
    found = query.named(
        con,
        "features",
        window_s=window_s,
        min_requests=min_requests,
        since=since,
        until=until,
        retired_after_s=retired_after_days * 86_400,
    )
    return found.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
