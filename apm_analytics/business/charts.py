"""Draw associations, the costs of an incident, and error budgets.

In:  frames of `business.association`, `business.costs` and `slo.tables`; times are UTC.
Out: charts of a bounded size, as in `charts.plots`.
"""

import altair as alt
import networkx as nx
import polars as pl

from apm_analytics.business import association, costs
from apm_analytics.business.costs import Costs
from apm_analytics.charts import (
    AT,
    GREY,
    PALETTE,
    RED,
    UTC_AXIS,
    WIDTH,
    Chart,
    finish,
    lean,
    nothing,
)

# More edges are unreadable.
MAX_EDGES = 30
LAYOUT_SEED = 7


def network(associations: pl.DataFrame) -> Chart:
    """Draw KPIs and their associated metrics; thicker is stronger, red is negative.

    Parameters
    ----------
    associations : from `business.association.associate`.
    """
    edges = associations.filter(
        pl.col("status") == association.ASSOCIATED, pl.col("confounders") == ""
    ).head(MAX_EDGES)
    if edges.is_empty():
        return nothing("no metric is associated with a KPI")
    graph = nx.Graph()
    for row in edges.iter_rows(named=True):
        graph.add_edge(row["kpi"], row["metric"], weight=abs(row["r"]))
    places = nx.spring_layout(graph, seed=LAYOUT_SEED, k=1.2)
    figures = set(edges["kpi"].to_list())
    nodes = pl.DataFrame(
        [
            {"name": name, "x": x, "y": y, "what": "figure" if name in figures else "metric"}
            for name, (x, y) in places.items()
        ]
    ).with_columns(pl.col("x", "y").cast(pl.Float64))
    start = nodes.select(pl.col("name").alias("kpi"), "x", "y")
    stop = nodes.select(pl.col("name").alias("metric"), x2="x", y2="y")
    lines = (
        edges.select("kpi", "metric", "r", "lag_s", "q", "n")
        .with_columns(against=pl.col("r") < 0, strength=pl.col("r").abs())
        .join(start, on="kpi")
        .join(stop, on="metric")
    )
    x = alt.X("x:Q", axis=None, scale=alt.Scale(padding=60))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(padding=24))
    links = (
        alt.Chart(lean(lines))
        .mark_rule(opacity=0.6)
        .encode(
            x=x,
            y=y,
            x2="x2:Q",
            y2="y2:Q",
            strokeWidth=alt.StrokeWidth("strength:Q", scale=alt.Scale(range=[1, 7]), legend=None),
            color=alt.condition("datum.against", alt.value(RED), alt.value(PALETTE[0])),
            tooltip=["kpi:N", "metric:N", "r:Q", "lag_s:Q", "q:Q", "n:Q"],
        )
    )
    base = alt.Chart(lean(nodes)).encode(x=x, y=y)
    dots = base.mark_circle(size=160, opacity=1).encode(
        color=alt.condition("datum.what == 'figure'", alt.value(PALETTE[1]), alt.value(GREY))
    )
    names = base.mark_text(dy=-13, fontSize=11).encode(text="name:N")
    return finish(alt.layer(links, dots, names).properties(width=WIDTH, height=420))


def course(cost: Costs | None) -> Chart:
    """Draw a KPI around an incident: actual, expected and the interval.

    The KPI is the one that is money, otherwise the first with an estimate.
    """
    if cost is None or cost.windows.is_empty():
        return nothing("no loss could be estimated; the table has the reasons")
    estimated = cost.table.filter(pl.col("kpi").is_in(cost.windows["kpi"].unique().to_list())).sort(
        "money", descending=True, maintain_order=True
    )
    main = estimated.row(0, named=True)
    title = f"{main['title']}, {main['unit']} in 30 min"
    frame = cost.windows.filter(pl.col("kpi") == main["kpi"])
    base = alt.Chart(lean(frame)).encode(
        x=alt.X("time:T", axis=UTC_AXIS, scale=alt.Scale(type="utc"))
    )
    incident = pl.DataFrame(
        {"time": [cost.start.replace(tzinfo=None)], "end": [cost.end.replace(tzinfo=None)]}
    )
    shade = (
        alt.Chart(lean(incident)).mark_rect(opacity=0.12, color=RED).encode(x="time:T", x2="end:T")
    )
    band = base.mark_area(opacity=0.18, color=PALETTE[0]).encode(
        y=alt.Y("lower:Q", title=title), y2="upper:Q"
    )
    expected = base.mark_line(color=GREY, strokeDash=[4, 3], strokeWidth=1).encode(y="expected:Q")
    actual = base.mark_line(color=PALETTE[0], strokeWidth=1.4).encode(
        y="actual:Q", tooltip=["actual:Q", "expected:Q", alt.Tooltip(AT, title="UTC")]
    )
    return finish(alt.layer(shade, band, expected, actual).properties(width=WIDTH, height=240))


def losses(cost: Costs | None) -> Chart:
    """Draw the loss of every KPI and segment as a share of the expected value."""
    if cost is None:
        return nothing("no incident is known")
    frame = cost.table.filter(pl.col("status") == costs.ESTIMATED).select(
        pl.concat_str("title", "segment", separator=" \u00b7 ").alias("label"),
        "unit",
        "loss",
        *(
            (pl.col(name) / pl.col("expected")).alias(share)
            for name, share in (
                ("loss", "share"),
                ("loss_lower", "share_lower"),
                ("loss_upper", "share_upper"),
            )
        ),
    )
    if frame.is_empty():
        return nothing("no loss could be estimated; the table has the reasons")
    names = frame["label"].to_list()
    base = alt.Chart(lean(frame)).encode(
        y=alt.Y("label:N", sort=names, title=None, axis=alt.Axis(labelLimit=280))
    )
    ranges = base.mark_rule(strokeWidth=3, opacity=0.5, color=PALETTE[0]).encode(
        x=alt.X(
            "share_lower:Q",
            title="loss as a share of the expected value, with its interval",
            axis=alt.Axis(format=".0%"),
        ),
        x2="share_upper:Q",
    )
    dots = base.mark_circle(size=60, opacity=1, color=RED).encode(
        x="share:Q", tooltip=["label:N", "loss:Q", "unit:N", alt.Tooltip("share:Q", format=".1%")]
    )
    zero = alt.Chart(pl.DataFrame({"zero": [0]})).mark_rule(color=GREY).encode(x="zero:Q")
    return finish(
        alt.layer(zero, ranges, dots).properties(width=WIDTH, height=max(22 * len(names), 60))
    )


def budgets(frame: pl.DataFrame) -> Chart:
    """Draw the spent share of each error budget; beyond the line it is overspent.

    Parameters
    ----------
    frame : from `slo.tables.budgets`.
    """
    known = frame.filter(pl.col("budget_consumed").is_not_null()).select(
        pl.concat_str("slo", "objective", separator=" \u00b7 ").alias("label"),
        spent="budget_consumed",
        attainment="attainment",
        target="target",
    )
    if known.is_empty():
        return nothing("no objective can be measured in this lake")
    names = known["label"].to_list()
    bars = (
        alt.Chart(lean(known))
        .mark_bar(height=11, cornerRadius=2)
        .encode(
            y=alt.Y("label:N", sort=names, title=None, axis=alt.Axis(labelLimit=320)),
            x=alt.X("spent:Q", title="error budget spent", axis=alt.Axis(format=".0%")),
            color=alt.condition("datum.spent > 1", alt.value(RED), alt.value(PALETTE[2])),
            tooltip=[
                "label:N",
                alt.Tooltip("spent:Q", format=".1%"),
                alt.Tooltip("attainment:Q", format=".3%"),
                alt.Tooltip("target:Q", format=".3%"),
            ],
        )
    )
    whole = alt.Chart(pl.DataFrame({"whole": [1]})).mark_rule(color=GREY).encode(x="whole:Q")
    return finish(alt.layer(bars, whole).properties(width=WIDTH, height=max(24 * len(names), 60)))
