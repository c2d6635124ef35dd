"""Draw frames as Altair charts that are small enough for one self-contained report.

In:  frames of `signals`, `traces`, `baselines` and `alerts`; times are naive UTC.
Out: charts of at most `MAX_ROWS` rows. Larger frames are aggregated, not truncated; Altair's own
     limit stays on.
"""

import json
from typing import Any

import altair as alt
import polars as pl

from apm_analytics.charts import words
from apm_analytics.charts.theme import (
    AT,
    GREY,
    MAX_ROWS,
    PALETTE,
    RED,
    SERIES,
    UTC_AXIS,
    WIDTH,
    Chart,
    bucket_s,
    color,
    enable,
    finish,
    label,
    largest,
    lean,
    series_label,
    shares,
    thin,
)

# Rows of charts that would grow with fleet and history; one row takes 70 to 100 bytes.
BASELINE_ROWS = 2_400
HEAT_ROWS = 2_400

__all__ = [
    "baselines",
    "by_service",
    "coverage",
    "enable",
    "heat_strip",
    "nothing",
    "slowest",
    "traffic",
    "waterfall",
    "week",
]


def traffic(requests: pl.DataFrame) -> Chart:
    """Draw requests per second, stacked by service.

    Parameters
    ----------
    requests : from `signals.services.requests`.
    """
    frame = largest(requests, "service_name", "requests", others="all others")
    frame = frame.group_by("service_name", "time", maintain_order=True).agg(
        pl.col("rate_per_s").sum()
    )
    return finish(
        alt.Chart(lean(frame))
        .mark_area(interpolate="monotone", opacity=0.85)
        .encode(
            x=alt.X("time:T", axis=UTC_AXIS, scale=alt.Scale(type="utc")),
            y=alt.Y("rate_per_s:Q", title="requests per s").stack(True),
            color=color("service_name", "service"),
            tooltip=[
                "service_name:N",
                alt.Tooltip("rate_per_s:Q", format=".3~g"),
                alt.Tooltip(AT, title="UTC"),
            ],
        )
        .properties(width=WIDTH, height=240)
    )


def by_service(requests: pl.DataFrame, column: str, title: str, *, percent: bool = False) -> Chart:
    """Draw one column over time, one line per service; a click in the legend highlights one.

    Parameters
    ----------
    requests : from `signals.services.requests`.
    column : rate_per_s, error_ratio, latency_p50_s or latency_p95_s.
    title : of the axis, with the unit.
    """
    frame = largest(requests, "service_name", "requests").select("service_name", "time", column)
    picked = alt.selection_point(fields=["service_name"], bind="legend", name="picked")
    form = ".1~%" if percent else ".3~g"
    return finish(
        alt.Chart(lean(frame))
        .mark_line(strokeWidth=1.5, interpolate="monotone")
        .encode(
            x=alt.X("time:T", axis=UTC_AXIS, scale=alt.Scale(type="utc")),
            y=alt.Y(f"{column}:Q", title=title, axis=alt.Axis(format=form)),
            color=color("service_name", "service"),
            opacity=alt.condition(picked, alt.value(1.0), alt.value(0.12)),
            tooltip=[
                "service_name:N",
                alt.Tooltip(f"{column}:Q", format=form),
                alt.Tooltip(AT, title="UTC"),
            ],
        )
        .add_params(picked)
        .properties(width=WIDTH, height=220)
    )


def slowest(operations: pl.DataFrame) -> Chart:
    """Draw p50 to p99 of operations as ranges, with a tick at p95.

    Parameters
    ----------
    operations : from `traces.waterfall.slowest_operations`, in the order to draw.
    """
    if operations.is_empty():
        return nothing("no operation has enough requests to be ranked")
    frame = operations.with_columns(label("service_name", "operation")).with_columns(
        (pl.col(f"latency_{q}_s") * 1e3).alias(f"{q}_ms") for q in ("p50", "p95", "p99")
    )
    names = frame["label"].to_list()
    base = alt.Chart(
        lean(frame.select("label", "requests", "error_ratio", "p50_ms", "p95_ms", "p99_ms"))
    ).encode(
        y=alt.Y("label:N", sort=names, title=None, axis=alt.Axis(labelLimit=320)),
        tooltip=[
            "label:N",
            "requests:Q",
            *(alt.Tooltip(f"{q}_ms:Q", format=".3~g") for q in ("p50", "p95", "p99")),
            alt.Tooltip("error_ratio:Q", format=".2~%"),
        ],
    )
    axis: dict[str, Any] = {
        "title": "ms, from p50 to p99; the tick is p95",
        "scale": alt.Scale(type="log"),
    }
    return finish(
        alt.layer(
            base.mark_bar(height=7, cornerRadius=3, opacity=0.5, color=PALETTE[0]).encode(
                x=alt.X("p50_ms:Q", **axis), x2="p99_ms:Q"
            ),
            base.mark_tick(thickness=3, size=15, color=PALETTE[1]).encode(
                x=alt.X("p95_ms:Q", **axis)
            ),
        ).properties(width=WIDTH, height=22 * len(names))
    )


def waterfall(spans: pl.DataFrame) -> Chart:
    """Draw one trace: one bar per span, below its parent, at its time.

    Parameters
    ----------
    spans : from `traces.waterfall.waterfall`.
    """
    end = pl.col("start_s") + pl.col("duration_s")
    frame = spans.select(
        "row",
        "service_name",
        "name",
        "status_code",
        (pl.col("start_s") * 1e3).alias("start_ms"),
        (end * 1e3).alias("end_ms"),
        (pl.col("duration_s") * 1e3).alias("duration_ms"),
        (pl.col("self_s") * 1e3).alias("self_ms"),
        "depth",
    )
    # Rows are positioned by number and labelled separately, because names may repeat.
    y = alt.Y("row:O", axis=None)
    base = alt.Chart(lean(frame)).encode(
        y=y,
        tooltip=[
            "service_name:N",
            "name:N",
            *(alt.Tooltip(f"{what}_ms:Q", format=".4~g") for what in ("start", "duration", "self")),
            "status_code:N",
        ],
    )
    bars = base.mark_bar(height=13, cornerRadius=2).encode(
        x=alt.X("start_ms:Q", title="ms after the first span"),
        x2="end_ms:Q",
        color=color("service_name", "service"),
        stroke=alt.condition("datum.status_code == 'error'", alt.value(RED), alt.value(None)),
        strokeWidth=alt.value(2),
    )
    labels = base.mark_text(
        align="left",
        baseline="middle",
        limit=alt.ExprRef("240 - 8 * min(datum.depth, 10)"),
        fontSize=11,
        dx=alt.ExprRef("8 * min(datum.depth, 10)"),
    ).encode(text="name:N", x=alt.value(-250), color=alt.value(GREY))
    return finish(alt.layer(bars, labels).properties(width=WIDTH, height=19 * spans.height))


def baselines(scores: pl.DataFrame, *, series: int = 12) -> Chart:
    """Draw one series at a time with expected values, bounds and the windows outside them.

    Parameters
    ----------
    scores : derived/scores.parquet; each series is thinned to its share of `BASELINE_ROWS`,
        keeping the window with the highest score of each interval.
    series : how many series to offer, most unusual first.
    """
    single = scores.filter(pl.col("signal") != "together", pl.col("value").is_not_null())
    order = (
        single.group_by(SERIES)
        .agg(outside=(pl.col("score") > 1).sum(), peak=pl.col("score").max())
        .sort("outside", "peak", *SERIES, descending=[True, True, False, False, False])
        .head(series)
    )
    if order.is_empty():
        return nothing("no series has a baseline")
    shown = order.select(SERIES).with_row_index("series")
    frame = thin(single.join(shown, on=SERIES), SERIES, max(1, BASELINE_ROWS // len(order)))
    frame = frame.select(
        "series",
        "time",
        "value",
        "expected",
        "lower",
        "upper",
        "score",
        outside=pl.col("score") > 1,
    )
    pick = alt.param(
        name="series_shown",
        value=0,
        bind=alt.binding_select(
            options=shown["series"].to_list(),
            labels=shown.select(series_label())["series"].to_list(),
            name="series ",
        ),
    )
    base = (
        alt.Chart(lean(frame))
        .transform_filter("datum.series == series_shown")
        .encode(x=alt.X("time:T", axis=UTC_AXIS, scale=alt.Scale(type="utc")))
    )
    tooltip = [
        *(
            alt.Tooltip(f"{name}:Q", format=".3~g")
            for name in ("value", "expected", "lower", "upper", "score")
        ),
        alt.Tooltip(AT, title="UTC"),
    ]
    zoom = alt.selection_interval(
        # Without Shift the wheel scrolls the page, even over a chart.
        bind="scales",
        encodings=["x"],
        zoom="wheel![event.shiftKey]",
        name="zoom",
    )
    return finish(
        alt.layer(
            base.mark_area(opacity=0.18, color=PALETTE[0], interpolate="step-after").encode(
                y=alt.Y("lower:Q", title="value and bounds: s, 1/s or share"), y2="upper:Q"
            ),
            base.mark_line(color=GREY, strokeDash=[4, 3], strokeWidth=1).encode(y="expected:Q"),
            base.mark_line(color=PALETTE[0], strokeWidth=1.3).encode(y="value:Q", tooltip=tooltip),
            base.transform_filter("datum.outside")
            .mark_circle(color=RED, size=34)
            .encode(y="value:Q", tooltip=tooltip),
        )
        .add_params(pick, zoom)
        .properties(width=WIDTH, height=280)
    )


def heat_strip(scores: pl.DataFrame, *, operations: int = 40) -> Chart:
    """Draw the score of each operation over time: one strip per operation, darker is worse.

    Parameters
    ----------
    scores : derived/scores.parquet; a cell shows the highest score of its interval.
    operations : how many strips, most unusual first.
    """
    key = ["service_name", "operation"]
    scored = scores.filter(pl.col("score").is_not_null())
    if scored.is_empty():
        return nothing("no window has a score")
    order = (
        scored.group_by(key)
        .agg((pl.col("score") > 1).sum().alias("outside"), pl.col("score").max().alias("peak"))
        .sort("outside", "peak", *key, descending=[True, True, False, False])
        .head(operations)
    )
    width_s = bucket_s(scored, HEAT_ROWS // len(order))
    shown = order.select(key).with_row_index("strip")
    frame = (
        scored.join(shown, on=key)
        .with_columns(pl.col("time").dt.truncate(f"{width_s}s"))
        .group_by("strip", "time")
        .agg(
            signal=pl.col("signal").sort_by("score").last().replace(words.SIGNAL_NAMES),
            score=pl.col("score").max(),
        )
        .sort("strip", "time")
        # The signal matters only where it was outside its bounds.
        .with_columns(signal=pl.when(pl.col("score") > 1).then("signal"))
    )
    names = shown.select(label(*key))["label"].to_list()
    return finish(
        alt.Chart(lean(frame))
        .transform_calculate(
            until=f"datum.time + {width_s * 1_000}",
            # The names once instead of in every cell; JSON is a valid Vega expression.
            label=f"{json.dumps(names)}[datum.strip]",
        )
        .mark_rect()
        .encode(
            x=alt.X("time:T", axis=UTC_AXIS, scale=alt.Scale(type="utc")),
            x2="until:T",
            y=alt.Y("label:N", sort=names, title=None, axis=alt.Axis(labelLimit=280)),
            color=alt.Color(
                "score:Q",
                title="score",
                # Scores below 1 are inside the bounds, so colour starts at 1.
                scale=alt.Scale(
                    domain=[0, 1, 1.01, 4],
                    range=["#8a939f22", "#8a939f55", "#f2b35e", "#c2252f"],
                    clamp=True,
                ),
            ),
            tooltip=[
                "label:N",
                "signal:N",
                alt.Tooltip("score:Q", format=".2~f"),
                alt.Tooltip(AT, title="from, UTC"),
            ],
        )
        .properties(width=WIDTH, height=17 * len(names))
    )


def coverage(scores: pl.DataFrame) -> Chart:
    """Draw the share of windows inside their bounds: one point per series, one row per signal.

    Parameters
    ----------
    scores : derived/scores.parquet.
    """
    frame = (
        scores.filter(pl.col("score").is_not_null())
        .group_by(SERIES)
        .agg(inside=(pl.col("score") <= 1).mean(), windows=pl.len(), model=pl.col("model").first())
        .sort(SERIES)
        .with_columns(label("service_name", "operation"))
        .with_columns(pl.col("signal").replace(words.SIGNAL_NAMES))
        .head(MAX_ROWS)
    )
    return finish(
        shares(
            frame, "inside", "share of windows inside the bounds", "signal:N", "windows:Q"
        ).properties(width=WIDTH, height=34 * frame["signal"].n_unique())
    )


def week(thresholds: pl.DataFrame, *, series: int = 12) -> Chart:
    """Draw thresholds over the hours of the week, one series at a time.

    Parameters
    ----------
    thresholds : from `alerts.thresholds.thresholds`.
    series : how many series to offer, those that vary most over the week first.
    """
    key = [*SERIES, "bound"]
    order = (
        thresholds.group_by(key)
        .agg(swing=(pl.col("value").max() - pl.col("value").min()) / pl.col("value").mean())
        .with_columns(pl.col("swing").fill_nan(0))
        .sort("swing", *key, descending=[True, *[False] * len(key)], nulls_last=True)
        .head(series)
    )
    if order.is_empty():
        return nothing("there are no thresholds")
    shown = order.select(key).with_row_index("series")
    frame = thresholds.join(shown, on=key).select("series", "hour_of_week", "value", "expected")
    pick = alt.param(
        name="week_shown",
        value=0,
        bind=alt.binding_select(
            options=shown["series"].to_list(),
            labels=shown.select(series_label("bound"))["series"].to_list(),
            name="series ",
        ),
    )
    days = "['Sun','Mon','Tue','Wed','Thu','Fri','Sat'][floor(datum.value / 24)] || ''"
    base = (
        alt.Chart(lean(frame))
        .transform_filter("datum.series == week_shown")
        .encode(
            x=alt.X(
                "hour_of_week:Q",
                title=None,
                scale=alt.Scale(domain=[0, 168], nice=False),
                axis=alt.Axis(values=list(range(0, 168, 24)), labelExpr=days, labelAlign="left"),
            ),
            tooltip=["hour_of_week:Q", "value:Q", "expected:Q"],
        )
    )
    return finish(
        alt.layer(
            base.mark_line(color=GREY, strokeDash=[4, 3], strokeWidth=1).encode(y="expected:Q"),
            base.mark_line(color=RED, interpolate="step-after").encode(
                y=alt.Y("value:Q", title="threshold; dashed: expected")
            ),
        )
        .add_params(pick)
        .properties(width=WIDTH, height=230)
    )


def nothing(why: str) -> Chart:
    """Return a placeholder that states why there is no chart."""
    return finish(
        alt.Chart(pl.DataFrame({"why": [why]}))
        .mark_text(color=GREY, fontSize=13)
        .encode(text="why:N")
        .properties(width=WIDTH, height=40)
    )
