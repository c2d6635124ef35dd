"""Report on the business transactions of a lake, for terminals and notebooks.

In:  a lake, specs/transactions.yaml.
Out: frames, charts, sentences, a live watcher.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from apm_analytics.charts import Chart, plots, words
from apm_analytics.foundation import settings
from apm_analytics.lake import Connection, HotView, query
from apm_analytics.signals import services
from apm_analytics.traces import waterfall
from apm_analytics.transactions import instances
from apm_analytics.transactions.instances import Instances
from apm_analytics.transactions.live import Watcher
from apm_analytics.transactions.specs import load


def gather(con: Connection, *, specs: Path | None = None, days: int = 30) -> Instances:
    """Collect the instances of the last `days` of a lake.

    Raises
    ------
    NotEnoughData
        The lake has no span.
    BadParameter
        A spec has a wrong value; with file and line.
    """
    configured = settings.load()
    transactions, hours = load(specs or configured.workspace / "specs")
    _, last = services.period(con)
    until = last.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return instances.gather(
        con,
        transactions,
        hours,
        since=until - timedelta(days=days),
        until=until,
        timeout_s=configured.trace_timeout_s,
    )


def summary(
    lake: Path, *, specs: Path | None = None, days: int = 30, by: str | None = None
) -> pl.DataFrame:
    """Summarise every transaction, or its segments, in columns that fit a terminal."""
    with query.connect(lake) as con:
        measured = instances.summary(gather(con, specs=specs, days=days), by=by)
    return measured.select(
        "transaction", *([by] if by else []), "instances", "completed", "failed", "in_flight",
        "abandoned", "latency_p50_s", "latency_p95_s", "attainment", "objective", "verdict",
    )  # fmt: skip


def watcher(lake: Path, *, specs: Path | None = None, minutes: float = 15.0) -> Watcher:
    """Return a live watcher of a lake that is being written.

    Raises
    ------
    NotFound
        No lake at that path.
    BadParameter
        A spec has a wrong value; with file and line.
    """
    configured = settings.load()
    transactions, hours = load(specs or configured.workspace / "specs")
    view = HotView(lake, minutes=minutes)
    return Watcher(view, transactions, hours, timeout_s=configured.trace_timeout_s, minutes=minutes)


def line(row: Mapping[str, Any]) -> str:
    """Format one violation of `Watcher.look` as a line of text."""
    how = "has run" if row["state"] == "in_flight" else f"{row['state']} after"
    return (
        f"{row['time']:%Y-%m-%d %H:%M:%S} {row['transaction']} {how} "
        f"{words.seconds(row['so_far_s'])} (SLA {words.seconds(row['threshold_s'])}), "
        f"trace {row['trace_id']}"
    )


def conclusion(gathered: Instances) -> str:
    """Summarise in a sentence how many transactions keep their SLA."""
    rows = instances.summary(gathered)
    measured = rows.filter(pl.col("instances") > 0)
    if measured.is_empty():
        return (
            "**Insufficient:** this lake holds none of the transactions of "
            "`specs/transactions.yaml`; describe its own there."
        )
    missed = measured.filter(verdict="missed")["title"].to_list()
    kept = measured.filter(verdict="met").height
    sentence = f"**{kept} of {rows.height} transactions keep their SLA.**"
    if missed:
        sentence += f" Missed: {', '.join(missed)}."
    if rows.height > measured.height:
        none = rows.filter(pl.col("instances") == 0)["title"].to_list()
        sentence += f" Insufficient, not in this lake: {', '.join(none)}."
    return sentence


def steps(gathered: Instances) -> pl.DataFrame:
    """Return the three slowest steps of every transaction within a trace, by critical path."""
    frames = [
        instances.slowest_steps(gathered, one.name)
        .head(3)
        .select(pl.lit(one.title).alias("transaction"), pl.all())
        for one in gathered.transactions
        if one.across == "trace"
    ]
    return pl.concat(frames) if frames else pl.DataFrame()


def funnels(gathered: Instances) -> pl.DataFrame:
    """Count how many instances of every sequence reached each step."""
    frames = [
        instances.funnel(gathered, one.name).select(
            pl.lit(one.title).alias("transaction"), pl.all()
        )
        for one in gathered.transactions
        if len(one.steps) > 1
    ]
    return pl.concat(frames) if frames else pl.DataFrame()


def violations(gathered: Instances, *, count: int = 10) -> pl.DataFrame:
    """Return the worst violations of every transaction, each with its trace."""
    return pl.concat(
        instances.violations(gathered, one.name, count=count).select(
            pl.lit(one.title).alias("transaction"), pl.all()
        )
        for one in gathered.transactions
    )


def worst_waterfall(gathered: Instances) -> Chart:
    """Draw the trace of the longest violation, if there is one."""
    worst = violations(gathered, count=1).filter(pl.col("trace_id").is_not_null())
    if worst.is_empty():
        return plots.nothing("no violation with a trace")
    longest = worst.sort("duration_s", descending=True)["trace_id"][0]
    return plots.waterfall(waterfall.waterfall(gathered.con, longest))
