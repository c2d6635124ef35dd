"""Provide what all charts share: renderer, colours, and ways to make frames small.

In:  Altair charts, frames with UTC times.
Out: charts that JupyterLab, papermill and the report can show; frames that are small in JSON.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from apm_analytics.charts import words

MIME = "application/vnd.vegalite.v5+json"
RENDERER = "apm"
MAX_ROWS = 4_500  # below Altair's limit of 5,000
MAX_LINES = 8  # more colours are hard to tell apart
WIDTH = "container"
# JupyterLab 4.6 hangs on charts with the width "container", so notebooks use a fixed width; the
# report scales the same specifications to the page (assets/report.js).
NOTEBOOK_WIDTH = 800
SERIES = ["service_name", "operation", "signal"]
PALETTE = [
    "#3f7fbf", "#e08a3c", "#3fa796", "#b0589f", "#8d9440", "#d1616b", "#6c74c9", "#7b8794",
]  # fmt: skip
GREY, RED = "#8a939f", "#d64550"
UTC_AXIS = alt.Axis(
    title=None,
    grid=False,
    labelOverlap=True,
    labelSeparation=12,
    labelExpr="utcFormat(datum.value, utchours(datum.value) + utcminutes(datum.value) == 0"
    " ? '%a %d %b' : '%H:%M')",
)
# The tooltip of a time; without `utc` the browser would use its own time zone.
AT = "utcyearmonthdatehoursminutes(time):T"

Chart = alt.TopLevelMixin


def enable() -> None:
    """Register a renderer whose output both JupyterLab and the report can draw.

    nbformat refuses the MIME type of Altair's own renderer, and JupyterLab supports Vega-Lite 5.
    """
    alt.renderers.register(RENDERER, mime_bundle)
    alt.renderers.enable(RENDERER)


def mime_bundle(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    spec = {**spec, "$schema": "https://vega.github.io/schema/vega-lite/v5.json"}
    if spec.get("width") == WIDTH:
        spec["width"] = NOTEBOOK_WIDTH
    return {MIME: spec, "text/plain": "a chart; open this notebook in JupyterLab to see it"}


def finish(chart: Any) -> Chart:
    finished: Chart = chart.configure_range(category=PALETTE).configure_view(strokeWidth=0)
    return finished


def color(field: str, title: str) -> alt.Color:
    return alt.Color(
        f"{field}:N", title=title, legend=alt.Legend(orient="top", columns=6, labelLimit=180)
    )


def label(*columns: str) -> pl.Expr:
    return pl.concat_str(*columns, separator=" \u00b7 ").alias("label")


def series_label(*more: str) -> pl.Expr:
    """Return the name of a series: service, operation, short name of its signal."""
    return pl.concat_str(
        "service_name",
        "operation",
        pl.col("signal").replace(words.SIGNAL_NAMES),
        *more,
        separator=" \u00b7 ",
    ).alias("series")


def lean(frame: pl.DataFrame) -> pl.DataFrame:
    """Make a frame small in JSON: times as epoch milliseconds, numbers with four digits."""
    expressions = [
        pl.col(name).dt.epoch("ms") if kind.is_temporal() else pl.col(name).round_sig_figs(4)
        for name, kind in frame.schema.items()
        if kind.is_temporal() or kind.is_float()
    ]
    return frame.with_columns(expressions)


def largest(
    frame: pl.DataFrame, key: str, weight: str, *, others: str | None = None
) -> pl.DataFrame:
    """Keep the groups with the largest sum of `weight`; drop the others, or merge them."""
    kept = (
        frame.group_by(key)
        .agg(pl.col(weight).sum())
        .sort(weight, key, descending=[True, False])[key]
        .head(MAX_LINES)
        .to_list()
    )
    if others is None:
        return frame.filter(pl.col(key).is_in(kept))
    return frame.with_columns(
        pl.when(pl.col(key).is_in(kept)).then(key).otherwise(pl.lit(others)).alias(key)
    )


def bucket_s(frame: pl.DataFrame, most: int) -> int:
    """Return a width, in s, that divides the frame's period into at most `most` pieces."""
    span_s = (frame["time"].max() - frame["time"].min()).total_seconds()  # type: ignore[operator,union-attr]
    widths = (60, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400, 7 * 86_400)
    # One piece more, because the first may start before the frame.
    return next((width for width in widths if span_s / width + 1 <= most), widths[-1])


def thin(frame: pl.DataFrame, key: Sequence[str], most: int) -> pl.DataFrame:
    """Keep the window with the highest score of each piece of time, so no outlier is lost."""
    pieces = pl.col("time").dt.truncate(f"{bucket_s(frame, most)}s").alias("piece")
    return (
        frame.with_columns(pieces)
        .sort("score", nulls_last=False)
        .group_by(*key, "piece")
        .last()
        .sort(*key, "time")
        .drop("piece")
    )


def shares(frame: pl.DataFrame, share: str, title: str, *details: str) -> alt.Chart:
    """Draw a share with one point per series and one row per signal, coloured by model.

    Parameters
    ----------
    frame : the columns label, signal, model, `share` and those of `details`.
    """
    columns = {"label", "signal", "model", share, *(detail.partition(":")[0] for detail in details)}
    chart: alt.Chart = (
        alt.Chart(lean(frame.select(sorted(columns))))
        .mark_circle(size=70, opacity=0.6)
        .encode(
            x=alt.X(
                f"{share}:Q",
                title=title,
                scale=alt.Scale(zero=False, nice=True),
                axis=alt.Axis(format=".1~%"),
            ),
            y=alt.Y("signal:N", title=None),
            color=color("model", "model"),
            tooltip=["label:N", alt.Tooltip(f"{share}:Q", format=".2~%"), *details],
        )
    )
    return chart
