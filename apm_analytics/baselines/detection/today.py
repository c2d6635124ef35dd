"""Compare the last day of the data with the same time of earlier weeks.

In:  derived/features.parquet, derived/scores.parquet; versions and errors from the lake.
Out: frames with one row per difference; tables of them for the report.

A day is compared with the same weekday of up to four earlier weeks, window by window; without a
whole week before it, with the days before. Only what leaves the range of those days counts.
"""

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from apm_analytics.baselines.detection import episodes
from apm_analytics.baselines.detection.detector import SeriesDetector
from apm_analytics.charts import words
from apm_analytics.foundation.settings import DetectorParams
from apm_analytics.lake import Connection, query
from apm_analytics.signals import OPERATION, SERIES, SIGNALS, Schema

DAY = timedelta(days=1)
WEEKS = 4
# Days with fewer windows in common than this share of a day are not compared.
COVERED = 0.25
# Differences too small to act on: 10 % of latency or rate, one point of the error ratio.
LEAST_RATIO = 0.10
LEAST_ERRORS = 0.01
# Of a larger fleet only the busiest operations are examined point by point.
MOST_OPERATIONS = 500

SHIFTS: Schema = {
    **dict.fromkeys(SERIES, pl.String),
    **dict.fromkeys(("today", "usual", "low", "high", "ratio"), pl.Float64),
    "days": pl.UInt32,
}
BEGAN: Schema = {
    **dict.fromkeys((*SERIES, "kind"), pl.String),
    "start": pl.Datetime("us"),
    **dict.fromkeys(("value", "expected", "score"), pl.Float64),
}


def compared_with(features: pl.DataFrame, window_s: int) -> str:
    """Return a sentence about the days that the last one is compared with."""
    step = _step_days(features, window_s)
    if not step:
        return "There is no whole day before the last one, so there is nothing to compare with."
    return (
        f"Compared with the same weekday of up to {WEEKS} earlier weeks."
        if step > 1
        else f"There is no whole week before the last day: compared with up to {WEEKS} days before."
    )


def shifts(features: pl.DataFrame, window_s: int) -> pl.DataFrame:
    """Compare the last 24 hours of every series with the same time of earlier weeks.

    Returns
    -------
    A frame with `SHIFTS`, the largest change first: a typical window of today and of the earlier
    days, `low` and `high` among those, `ratio` today to usual (null where usual is 0), `days`
    compared with. Without rows where there is no earlier day, see `compared_with`.
    """
    last: Any = features["time"].max()
    step = _step_days(features, window_s)
    if not step:
        return pl.DataFrame(schema=SHIFTS)
    time = pl.col("time")
    today = _values(features.filter(time > last - DAY))
    earlier = pl.concat(
        _values(
            features.filter(time > last - (back + 1) * DAY, time <= last - back * DAY)
        ).with_columns((time + back * DAY).alias("time"), day=pl.lit(back))
        for back in (step * number for number in range(1, WEEKS + 1))
    )
    both = today.join(earlier, on=[*SERIES, "time"], suffix="_before")
    enough = COVERED * DAY.total_seconds() / window_s
    by_day = (
        both.group_by(*SERIES, "day")
        .agg(_typical("value").alias("value"), before=_typical("value_before"), n=pl.len())
        .filter(pl.col("n") >= enough)
    )
    compared = by_day.group_by(SERIES).agg(
        today=pl.col("value").median(),
        usual=pl.col("before").median(),
        low=pl.col("before").min(),
        high=pl.col("before").max(),
        days=pl.len(),
    )
    apart = (pl.col("today") - pl.col("usual")).abs()
    least = (
        pl.when(pl.col("signal") == "error_ratio")
        .then(pl.lit(LEAST_ERRORS))
        .otherwise(LEAST_RATIO * pl.col("usual"))
    )
    # One earlier day has no range: a change must be three times as large to be told from chance.
    factor = pl.when(pl.col("days") > 1).then(1.0).otherwise(3.0)
    outside = (pl.col("today") > pl.col("high")) | (pl.col("today") < pl.col("low"))
    return (
        compared.with_columns(
            ratio=pl.when(pl.col("usual") > 0).then(pl.col("today") / pl.col("usual"))
        )
        .filter(outside, apart >= factor * least)
        .sort(pl.col("ratio").log().abs(), *SERIES, descending=[True, False, False, False])
        .select(pl.col(name).cast(kind) for name, kind in SHIFTS.items())
    )


def began(features: pl.DataFrame, params: DetectorParams, window_s: int) -> pl.DataFrame:
    """Find lasting changes that began in the last 24 hours: new levels, trends, noise.

    Returns
    -------
    A frame with `BEGAN`, the highest score first. Of a fleet of more than `MOST_OPERATIONS`
    operations, only the busiest.
    """
    rows: list[dict[str, Any]] = []
    last: Any = features["time"].max()
    if last is None:
        return pl.DataFrame(schema=BEGAN)
    busiest = (
        features.group_by(OPERATION).agg(pl.col("count").sum()).sort("count", descending=True)
    ).head(MOST_OPERATIONS)
    kept = features.join(busiest.select(OPERATION), on=OPERATION, how="semi").sort("time")
    for key, part in kept.partition_by(OPERATION, as_dict=True).items():
        times = part["time"].dt.epoch("us").to_numpy() / 1e6
        since = int(np.searchsorted(times, times[-1] - DAY.total_seconds(), side="right"))
        for name, signal in SIGNALS.items():
            values = part[signal.column].cast(pl.Float64).fill_null(np.nan).to_numpy()
            detection = SeriesDetector(params, interval_s=window_s).score(times, values)
            changes = [
                one
                for one in detection.episodes()
                if one.start >= since and one.kind not in {"spike", "dip"}
            ]
            if part["time"][-1] < last - DAY or not changes:
                continue
            worst = max(changes, key=lambda one: one.score)
            rows.append(
                dict(zip(OPERATION, key, strict=True))
                | {
                    "signal": name,
                    "kind": worst.kind,
                    "start": part["time"][worst.start],
                    "value": float(np.nanmedian(values[worst.start :])),
                    "expected": float(np.nanmedian(detection.expected[worst.start :])),
                    "score": worst.score,
                }
            )
    return pl.DataFrame(rows, schema=BEGAN).sort("score", *SERIES, descending=[True, *[False] * 3])


def versions(con: Connection) -> pl.DataFrame:
    """Return the service versions that were first seen in the last 24 hours of the spans.

    Returns
    -------
    service_name, version, before (the version seen last before it), first_seen (UTC).
    """
    return query.named(con, "new_versions")


def error_types(con: Connection) -> pl.DataFrame:
    """Return the errors of the last 24 hours of the spans that were not seen before.

    Returns
    -------
    service_name, operation, error, count, first_seen (UTC); the most frequent first. An error is
    the `error.type` of a failed span, else its status message, else its HTTP status.
    """
    return query.named(con, "new_errors")


def operations_table(changed: episodes.Changed) -> pl.DataFrame:
    """Return operations that are new or gone as a table for the report."""
    rows = [
        {"service": service, "operation": operation, "today": state}
        for state, pairs in (("new", changed.new), ("gone", changed.gone))
        for service, operation in pairs
    ]
    return pl.DataFrame(rows, schema=dict.fromkeys(("service", "operation", "today"), pl.String))


def shift_table(shifted: pl.DataFrame) -> pl.DataFrame:
    """Return shifts as a table for the report."""
    rows = [
        {
            "service": row["service_name"],
            "operation": row["operation"],
            "signal": words.signal(row["signal"]),
            "today": words.value(row["today"], row["signal"]),
            "usual": words.value(row["usual"], row["signal"]),
            "change": "from 0" if row["ratio"] is None else f"{row['ratio'] - 1:+.0%}",
            "range before": f"{words.value(row['low'], row['signal'])} to "
            f"{words.value(row['high'], row['signal'])} in {row['days']} days",
        }
        for row in shifted.iter_rows(named=True)
    ]
    names = ("service", "operation", "signal", "today", "usual", "change", "range before")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String))


def began_table(changes: pl.DataFrame) -> pl.DataFrame:
    """Return the lasting changes as a table for the report."""
    rows = [
        {
            "service": row["service_name"],
            "operation": row["operation"],
            "since (UTC)": words.moment(row["start"]),
            "what": f"{row['kind']} of {words.signal(row['signal'])}",
            "now": words.value(row["value"], row["signal"]),
            "expected": words.value(row["expected"], row["signal"]),
            "score": f"{row['score']:.1f}",
        }
        for row in changes.iter_rows(named=True)
    ]
    names = ("service", "operation", "since (UTC)", "what", "now", "expected", "score")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String))


def _typical(column: str) -> pl.Expr:
    """Summarise a day: latency by its median, rate and error ratio by their mean."""
    return (
        pl.when(pl.col("signal").first() == "latency_p95")
        .then(pl.col(column).median())
        .otherwise(pl.col(column).mean())
    )


def _values(features: pl.DataFrame) -> pl.DataFrame:
    columns = {signal.column: name for name, signal in SIGNALS.items()}
    return (
        features.select(*OPERATION, "time", *columns)
        .rename(columns)
        .unpivot(list(SIGNALS), index=[*OPERATION, "time"], variable_name="signal")
        .filter(pl.col("value").is_not_null())
    )


def _step_days(features: pl.DataFrame, window_s: int) -> int:
    """Return how many days lie between the days compared: 7, 1, or 0 where there is only one."""
    last: Any = features["time"].max()
    first: Any = features["time"].min()
    whole = timedelta(seconds=window_s)
    if last is None or last - first < 2 * DAY - whole:
        return 0
    return 7 if last - first >= 8 * DAY - whole else 1
