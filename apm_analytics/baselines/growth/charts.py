"""Tables of capacity forecasts, and a chart of one series with its limit.

In:  frames of `baselines.growth.capacity`, the features.
Out: tables for the report; a chart of daily peaks, measured and forecast.
"""

from typing import Any

import altair as alt
import numpy as np
import polars as pl

from apm_analytics.baselines.growth import capacity
from apm_analytics.baselines.growth.forecast import Growth
from apm_analytics.charts import AT, GREY, PALETTE, RED, UTC_AXIS, WIDTH, Chart, finish, lean, words
from apm_analytics.foundation.settings import ForecastParams
from apm_analytics.signals import OPERATION, SIGNALS


def table(forecasts: pl.DataFrame) -> pl.DataFrame:
    """Return `capacity.capacity` as a table for the report."""
    rows = [
        {
            "service": row["service_name"],
            "operation": row["operation"],
            "signal": words.signal(row["signal"]),
            "limit": words.value(row["limit"], row["signal"]),
            "peak of the last week": words.value(row["peak"], row["signal"]),
            "change per week": _change(row),
            "passes its limit": capacity.sentence(row),
        }
        for row in forecasts.iter_rows(named=True)
    ]
    names = ("service", "operation", "signal", "limit", "peak of the last week")
    columns = (*names, "change per week", "passes its limit")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String))


def load_table(loads: pl.DataFrame) -> pl.DataFrame:
    """Return `capacity.loads` as a table for the report."""
    rows = [
        {
            "service": row["service_name"],
            "operation": row["operation"],
            "p95 limit": words.value(row["limit"], "latency_p95"),
            "peak rate": words.value(row["peak"], "rate"),
            "reached at a rate of": _load(row),
        }
        for row in loads.iter_rows(named=True)
    ]
    names = ("service", "operation", "p95 limit", "peak rate", "reached at a rate of")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String))


def chart(
    features: pl.DataFrame, row: dict[str, Any], params: ForecastParams, *, seed: int
) -> Chart:
    """Draw the daily peaks of one series, their forecast with its band, and the limit.

    Parameters
    ----------
    features : as `signals.operations.features` returns them.
    row : one of `capacity.capacity`, with a forecast.
    """
    part = features.filter(
        pl.col("service_name") == row["service_name"], pl.col("operation") == row["operation"]
    ).sort("time")
    column = SIGNALS[row["signal"]].column
    times = part["time"].cast(pl.Datetime("us")).to_numpy()
    values = part[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
    curve = Growth.fit(times, values, params, seed=seed).curve()
    hours = part.select(pl.col("time").dt.truncate("1h"), value=pl.col(column))
    past = hours.group_by("time").agg(pl.col("value").median())
    ahead = pl.DataFrame(
        {
            "time": curve.times,
            "value": curve.expected,
            "lower": curve.lower,
            "upper": curve.upper,
        }
    )
    frame = pl.concat(
        [
            _peaks(past).with_columns(part=pl.lit("measured")),
            _peaks(ahead).with_columns(part=pl.lit("forecast")),
        ],
        how="diagonal",
    )
    base = alt.Chart(lean(frame)).encode(
        x=alt.X("time:T", axis=UTC_AXIS, scale=alt.Scale(type="utc"))
    )
    title = f"{SIGNALS[row['signal']].title} at the busiest hour of the day"
    band = base.mark_area(opacity=0.25, color=GREY).encode(y="lower:Q", y2="upper:Q")
    line = base.mark_line(interpolate="monotone").encode(
        y=alt.Y("value:Q", title=title, axis=alt.Axis(format=".3~g")),
        color=alt.Color(
            "part:N",
            title=None,
            scale=alt.Scale(domain=["measured", "forecast"], range=PALETTE[:2]),
            legend=alt.Legend(orient="top"),
        ),
        tooltip=["part:N", alt.Tooltip("value:Q", format=".3~g"), alt.Tooltip(AT, title="UTC")],
    )
    limit = (
        alt.Chart(lean(pl.DataFrame({"limit": [float(row["limit"])]})))
        .mark_rule(color=RED, strokeDash=[4, 4])
        .encode(y="limit:Q")
    )
    name = " \u00b7 ".join(str(row[one]) for one in OPERATION)
    return finish((band + line + limit).properties(width=WIDTH, height=240, title=name))


def _peaks(frame: pl.DataFrame) -> pl.DataFrame:
    """Keep the busiest hour of each whole day."""
    return (
        frame.filter(pl.col("value").is_not_null())
        .sort("value")
        .group_by(day=pl.col("time").dt.truncate("1d"))
        .last()
        .sort("day")
        .drop("time")
        .rename({"day": "time"})
    )


def _change(row: dict[str, Any]) -> str:
    if row["per_day"] is None or row["peak"] is None or not row["peak"] > 0:
        return ""
    low, middle, high = (
        f"{7 * row[name] / row['peak']:+.1%}"
        for name in ("per_day_lower", "per_day", "per_day_upper")
    )
    return f"{middle} ({low} to {high})"


def _load(row: dict[str, Any]) -> str:
    if row["load"] is None:
        return str(row["reason"])
    load, lower, upper = (words.value(row[name], "rate") for name in ("load", "lower", "upper"))
    return f"{load} ({lower} to {upper}), {row['load'] / row['peak']:.1f} times the peak"
