"""Charts of one series fitted by the Prophet library and by the batched solver.

In:  `single_series.Comparison`.
Out: charts; without a fit, a text with the reason.
"""

import altair as alt
import polars as pl

from apm_analytics.baselines.training.single_series import (
    BATCHED,
    COMPLETE,
    PLAIN,
    Comparison,
)
from apm_analytics.charts import (
    AT,
    GREY,
    MAX_ROWS,
    PALETTE,
    RED,
    UTC_AXIS,
    WIDTH,
    Chart,
    finish,
    lean,
    nothing,
)

# The scale that a signal is fitted on.
UNITS = {
    "latency_p95": "log of p95 (s)",
    "rate": "log of requests per window",
    "error_ratio": "error ratio",
}
MODELS = alt.Scale(domain=[COMPLETE, PLAIN, BATCHED], range=[PALETTE[2], PALETTE[0], PALETTE[1]])
# Dashed, so that the curve below shows through.
DASHES = alt.StrokeDash(
    "model:N",
    legend=None,
    scale=alt.Scale(domain=[COMPLETE, PLAIN, BATCHED], range=[[1, 0], [1, 0], [4, 3]]),
)


def curves(comparison: Comparison) -> Chart:
    """Draw the values and the curve of each model."""
    if comparison.reason:
        return nothing(comparison.reason)
    wide = comparison.curves.tail(MAX_ROWS // 4)
    long = wide.unpivot(
        [COMPLETE, PLAIN, BATCHED], index="time", variable_name="model", value_name="expected"
    )
    points = _base(wide).mark_circle(size=9, color=GREY, opacity=0.6)
    lines = _base(long).mark_line(strokeWidth=1.4)
    title = UNITS[comparison.signal]
    scale = alt.Scale(zero=False)
    return finish(
        alt.layer(
            points.encode(y=alt.Y("value:Q", title=title, scale=scale)),
            lines.encode(
                y=alt.Y("expected:Q", title=title, scale=scale),
                color=_by_model(),
                strokeDash=DASHES,
                tooltip=["model:N", alt.Tooltip("expected:Q", format=".4~g"), alt.Tooltip(AT)],
            ),
        ).properties(width=WIDTH, height=260)
    )


def difference(comparison: Comparison) -> Chart:
    """Draw the batched curve minus the library's plain one, relative to the largest value."""
    if comparison.reason:
        return nothing(comparison.reason)
    largest = comparison.curves["value"].abs().max()
    frame = comparison.curves.tail(MAX_ROWS).select(
        "time", difference=(pl.col(BATCHED) - pl.col(PLAIN)) / largest
    )
    return finish(
        _base(frame)
        .mark_line(color=PALETTE[1], strokeWidth=1.2)
        .encode(
            y=alt.Y(
                "difference:Q",
                title="relative difference",
                axis=alt.Axis(format=".2~%"),
            )
        )
        .properties(width=WIDTH, height=160)
    )


def components(comparison: Comparison) -> Chart:
    """Draw the components of the complete model, a panel each; red rules are changepoints."""
    if comparison.reason:
        return nothing(comparison.reason)
    panels = []
    names = comparison.components["component"].unique(maintain_order=True)
    for name in names:
        part = comparison.components.filter(component=name)
        part = part.gather_every(-(-len(names) * len(part) // MAX_ROWS))
        panel = (
            _base(part)
            .mark_line(strokeWidth=1.2, color=PALETTE[0])
            .encode(
                y=alt.Y("effect:Q", title=name, scale=alt.Scale(zero=False)),
                tooltip=[alt.Tooltip("effect:Q", format=".3~g"), alt.Tooltip(AT, title="UTC")],
            )
        )
        if name == "trend":
            # Smaller changes are zero: the prior suppressed them.
            moved = comparison.changepoints.filter(pl.col("change").abs() > 0.01)
            panel += _base(moved).mark_rule(color=RED, opacity=0.5, strokeDash=[3, 3])
        panels.append(panel.properties(width=760, height=100))
    return finish(alt.vconcat(*panels))


def forecasts(comparison: Comparison) -> Chart:
    """Draw the held-out days: the values, and each forecast made a day ahead."""
    if comparison.reason:
        return nothing(comparison.reason)
    frame = comparison.forecasts.tail(MAX_ROWS)
    title = UNITS[comparison.signal]
    scale = alt.Scale(zero=False)
    points = _base(frame.filter(model=PLAIN)).mark_circle(size=9, color=GREY, opacity=0.6)
    lines = _base(frame).mark_line(strokeWidth=1.3)
    return finish(
        alt.layer(
            points.encode(y=alt.Y("value:Q", title=title, scale=scale)),
            lines.encode(
                y=alt.Y("forecast:Q", title=title, scale=scale),
                color=_by_model(),
                strokeDash=DASHES,
                tooltip=["model:N", alt.Tooltip("forecast:Q", format=".4~g"), alt.Tooltip(AT)],
            ),
        ).properties(width=WIDTH, height=220)
    )


def _base(frame: pl.DataFrame) -> alt.Chart:
    return alt.Chart(lean(frame)).encode(
        x=alt.X("time:T", axis=UTC_AXIS, scale=alt.Scale(type="utc"))
    )


def _by_model() -> alt.Color:
    return alt.Color("model:N", title=None, scale=MODELS, legend=alt.Legend(orient="top"))
