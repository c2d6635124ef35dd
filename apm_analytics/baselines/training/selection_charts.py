"""Charts and tables of the backtest, from derived/selection.parquet.

In:  selection, one row per series and model.
Out: charts, frames.
"""

import altair as alt
import polars as pl

from apm_analytics.charts import (
    MAX_ROWS,
    RED,
    SERIES,
    WIDTH,
    Chart,
    color,
    finish,
    label,
    lean,
    nothing,
    shares,
    words,
)

NO_BACKTEST = "no series has a history long enough for a backtest"
NAIVE = "seasonal_naive"


def errors_by_model(selection: pl.DataFrame) -> Chart:
    """Draw the scaled error of each model, one point per series, by signal."""
    frame = _drawn(selection, "scaled_error")
    if frame.is_empty():
        return nothing(NO_BACKTEST)
    return finish(
        alt.Chart(lean(frame.select("label", "signal", "model", "scaled_error", "chosen")))
        .mark_circle(size=60, opacity=0.6)
        .encode(
            x=alt.X("scaled_error:Q", title="scaled error", scale=alt.Scale(zero=False)),
            y=alt.Y("model:N", title=None, sort=alt.EncodingSortField("scaled_error", "mean")),
            row=alt.Row("signal:N", title=None),
            color=color("chosen", "chosen"),
            tooltip=["label:N", "signal:N", "model:N", alt.Tooltip("scaled_error:Q", format=".3f")],
        )
        .properties(width=600, height=22 * frame["model"].n_unique())
    )


def coverage(selection: pl.DataFrame, *, level: float) -> Chart:
    """Draw the share of quiet windows inside bounds from other days, one point per series.

    Parameters
    ----------
    level : the share that the bounds are meant to hold.
    """
    frame = _drawn(selection.filter("chosen"), "coverage")
    if frame.is_empty():
        return nothing(NO_BACKTEST)
    points = shares(frame, "coverage", "share of quiet windows inside the bounds", "model:N")
    asked = alt.Chart(lean(pl.DataFrame({"coverage": [level]}))).mark_rule(color=RED)
    layered = alt.layer(points, asked.encode(x="coverage:Q"))
    return finish(layered.properties(width=WIDTH, height=34 * frame["signal"].n_unique()))


def winners(selection: pl.DataFrame) -> pl.DataFrame:
    """Count the series that each model won, with its mean errors, by signal."""
    return (
        selection.group_by("signal", "model")
        .agg(
            won=pl.col("chosen").sum(),
            series=pl.len(),
            scaled_error=pl.col("scaled_error").mean(),
            pinball=pl.col("pinball").mean(),
            coverage=pl.col("coverage").mean(),
        )
        .sort("signal", "scaled_error", "model")
    )


def reasons(selection: pl.DataFrame) -> pl.DataFrame:
    """Return the winner of each series, its gain over seasonal naive, and why; ascending."""
    naive = (
        selection.filter(pl.col("model").str.starts_with(NAIVE))
        .group_by(SERIES)
        .agg(naive=pl.col("scaled_error").min())
    )
    return (
        selection.filter("chosen")
        .join(naive, on=SERIES, how="left")
        .with_columns(gain=1.0 - pl.col("scaled_error") / pl.col("naive"))
        .sort("gain", *SERIES, nulls_last=True)
        .select(*SERIES, "model", "gain", "reason")
    )


def _drawn(selection: pl.DataFrame, column: str) -> pl.DataFrame:
    return (
        selection.filter(pl.col(column).is_not_null())
        .sort(*SERIES, "model")
        .with_columns(label("service_name", "operation"))
        .with_columns(pl.col("signal").replace(words.SIGNAL_NAMES))
        .head(MAX_ROWS)
    )
