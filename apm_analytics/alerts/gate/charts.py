"""Show the gate's decisions: which alerts page, why, and when they would have fired.

In:  derived/ gate and firings of a run; labelled incidents.
Out: a summary, tables and a timeline.
"""

import altair as alt
import polars as pl
from IPython.display import Markdown

from apm_analytics.alerts.gate.history import LEARNED, NAIVE, STATIC
from apm_analytics.alerts.gate.judge import BOUND, NOT_WATCHED
from apm_analytics.alerts.gate.judge import counts as counts_of
from apm_analytics.alerts.gate.watching import labelled
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
    words,
)
from apm_analytics.signals import OPERATION, Calendar

OPERATIONS = 40  # rows of the timeline, the operations that fired most
SHOWN = {LEARNED: "learned", STATIC: "static", NAIVE: "naive"}


def summary(table: pl.DataFrame, firings: pl.DataFrame) -> Markdown:
    """Return which candidates are in force how often, and how they were judged."""
    counts = counts_of(table)
    chosen = table.filter(pl.col("in_force"), pl.col("judgement") != NOT_WATCHED)
    judged = chosen.group_by("judgement").len().sort("len", descending=True)
    by = ", ".join(f"{words.count(count)} by {name}" for name, count in judged.rows())
    guards = words.count(int(counts["unproven"].sum()))
    in_force = ", ".join(f"**{words.count(count)}** {name}" for name, count, _ in counts.rows())
    text = (
        f"Of **{words.count(chosen.height)} alerts**, one per operation, signal and bound, "
        f"in force are {in_force}. {guards} of them are unproven: "
        "no incident of the replayed time shows in them, so they stay as guards, as tickets, and "
        f"only without a false page. They were judged: {by}."
    )
    if firings.height:
        first, last = firings["start"].min(), firings["end"].max()
        text += f" The first firing was at {first!s:.16}, the last ended at {last!s:.16} UTC."
    return Markdown(text)  # type: ignore[no-untyped-call]


def decisions(table: pl.DataFrame) -> pl.DataFrame:
    """Return one row per series and bound: what is in force, why, and each candidate's pages.

    Alerts that are not learned come first, then those that would have paged most.
    """
    watched = pl.col("judgement") != NOT_WATCHED
    wide = table.filter(pl.col("in_force"), watched).select(
        *BOUND, pl.col("candidate").alias("in force"), "unproven", "judgement", "reason"
    )
    for candidate, name in SHOWN.items():
        of_candidate = table.filter(candidate=candidate).select(
            *BOUND,
            pl.col("pages_per_week").alias(f"{name} pages/week"),
            *([pl.col("recall"), pl.col("precision")] if candidate == LEARNED else []),
        )
        wide = wide.join(of_candidate, on=BOUND, how="left")
    return wide.sort(
        pl.col("in force") == LEARNED,
        pl.col("learned pages/week"),
        *BOUND,
        descending=[False, True, *[False] * len(BOUND)],
        nulls_last=True,
    )


def how_often(table: pl.DataFrame, firings: pl.DataFrame) -> pl.DataFrame:
    """Return firings, false pages per week, recall and delay by signal, bound and candidate."""
    keys = ["signal", "bound", "candidate"]
    counted = firings.group_by(keys).len("fired")
    return (
        table.group_by(keys)
        .agg(
            series=pl.len(),
            in_force=pl.col("in_force").sum(),
            false_per_week=pl.col("false_per_week").sum(),
            recall=pl.col("recall").mean(),
            delay_min=pl.col("delay_s").median() / 60,
        )
        .join(counted, on=keys, how="left")
        .with_columns(pl.col("fired").fill_null(0))
        .sort(keys)
    )


def timeline(firings: pl.DataFrame, incidents: Calendar, *, operations: int = OPERATIONS) -> Chart:
    """Draw firing intervals over incidents, one row per operation.

    Parameters
    ----------
    firings : derived/firings.parquet.
    incidents : labelled ones; those of the shown operations and the replayed time are drawn.
    operations : the number of rows; operations with the most learned firings come first.
    """
    firings = firings.filter(pl.col("candidate").is_in([LEARNED, STATIC]))
    if firings.is_empty():
        return nothing("no alert would have fired")
    order = (
        firings.group_by(OPERATION)
        .agg(learned=(pl.col("candidate") == LEARNED).sum(), all=pl.len())
        .sort("learned", "all", *OPERATION, descending=[True, True, False, False])
        .head(operations)
        .with_columns(pl.concat_str(OPERATION, separator=" \u00b7 ").alias("label"))
    )
    shown = firings.join(order.select(*OPERATION, "label"), on=OPERATION).sort("start")
    first, last = firings["start"].min(), firings["end"].max()
    bands = [
        {"label": label, "time": entry.start, "end": entry.end, "name": entry.name}
        for service, operation, label in order.select(*OPERATION, "label").iter_rows()
        for entry in incidents.entries(
            kind="incident",
            service=service,
            operation=labelled(operation),
            since=first,  # type: ignore[arg-type]
            until=last,  # type: ignore[arg-type]
        )
    ]
    band = pl.DataFrame(
        bands,
        schema={
            "label": pl.String,
            "time": pl.Datetime("us", "UTC"),
            "end": pl.Datetime("us", "UTC"),
            "name": pl.String,
        },
    )
    y = alt.Y("label:N", sort=order["label"].to_list(), title=None, axis=alt.Axis(labelLimit=320))
    x = alt.X("time:T", axis=UTC_AXIS, scale=alt.Scale(type="utc"))
    behind = (
        alt.Chart(lean(band.head(MAX_ROWS // 2)))
        .mark_bar(height=16, color=RED, opacity=0.25, stroke=RED, strokeWidth=0.5)
        .encode(x=x, x2="end:T", y=y, tooltip=["name:N", alt.Tooltip(AT, title="UTC")])
    )
    fired = (
        alt.Chart(
            lean(
                shown.select("label", "signal", "bound", "candidate", "end", time="start").tail(
                    MAX_ROWS // 2
                )
            )
        )
        .mark_bar(height=8)
        .encode(
            x=x,
            x2="end:T",
            y=y,
            color=alt.Color(
                "candidate:N",
                title="fired",
                scale=alt.Scale(domain=[LEARNED, STATIC], range=[PALETTE[0], GREY]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=["candidate:N", "signal:N", "bound:N", alt.Tooltip(AT, title="UTC")],
        )
    )
    return finish(alt.layer(behind, fired).properties(width=WIDTH, height=20 * order.height))
