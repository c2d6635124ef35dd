"""What a terminal and a notebook ask of the business transactions.

In:  a lake, specs/transactions.yaml.
Out: frames, a live watcher, a line a violation.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from apm_analytics.charts import plots, words
from apm_analytics.charts.theme import Chart
from apm_analytics.foundation import settings
from apm_analytics.lake import query
from apm_analytics.lake.hot import HotView
from apm_analytics.lake.query import Connection
from apm_analytics.signals import services
from apm_analytics.traces import waterfall
from apm_analytics.transactions import instances as transactions
from apm_analytics.transactions import specs as transactions_specs
from apm_analytics.transactions.instances import Instances
from apm_analytics.transactions.live import Watcher


def instances(con: Connection, *, specs: Path | None = None, days: int = 30) -> Instances:
    """Gather the instances of the last days of a lake.

    Raises
    ------
    NotEnoughData
        The lake has no span.
    BadParameter
        The specs do not fit; with file and line.
    """
    known = settings.load()
    found, hours = transactions_specs.load(specs or known.workspace / "specs")
    _, last = services.period(con)
    until = last.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return transactions.gather(
        con,
        found,
        hours,
        since=until - timedelta(days=days),
        until=until,
        timeout_s=known.trace_timeout_s,
    )


def summary(
    lake: Path, *, specs: Path | None = None, days: int = 30, by: str | None = None
) -> pl.DataFrame:
    """Sum up every transaction, or its parts, in the columns that fit a screen."""
    with query.connect(lake) as con:
        found = transactions.summary(instances(con, specs=specs, days=days), by=by)
    return found.select(
        "transaction", *([by] if by else []), "instances", "completed", "failed", "in_flight",
        "abandoned", "latency_p50_s", "latency_p95_s", "attainment", "objective", "verdict",
    )  # fmt: skip


def watcher(lake: Path, *, specs: Path | None = None, minutes: float = 15.0) -> Watcher:
    """Follow a lake that is being fed.

    Raises
    ------
    NotFound
        There is no lake.
    BadParameter
        The specs do not fit; with file and line.
    """
    known = settings.load()
    found, hours = transactions_specs.load(specs or known.workspace / "specs")
    view = HotView(lake, minutes=minutes)
    return Watcher(view, found, hours, timeout_s=known.trace_timeout_s, minutes=minutes)


def told(row: Mapping[str, Any]) -> str:
    """Say one violation of `Watcher.look` in a line."""
    how = "has run" if row["state"] == "in_flight" else f"{row['state']} after"
    return (
        f"{row['time']:%Y-%m-%d %H:%M:%S} {row['transaction']} {how} "
        f"{words.seconds(row['so_far_s'])} (SLA {words.seconds(row['threshold_s'])}), "
        f"trace {row['trace_id']}"
    )


def conclusion(found: Instances) -> str:
    """Say how the transactions fare in a sentence, also where there are none."""
    rows = transactions.summary(found)
    measured = rows.filter(pl.col("instances") > 0)
    if measured.is_empty():
        return (
            "**Insufficient:** this lake holds none of the transactions of "
            "`specs/transactions.yaml`; describe there what it does hold."
        )
    missed = measured.filter(verdict="missed")["title"].to_list()
    kept = measured.filter(verdict="met").height
    said = f"**{kept} of {rows.height} transactions keep their SLA.**"
    if missed:
        said += f" Missed: {', '.join(missed)}."
    if rows.height > measured.height:
        none = rows.filter(pl.col("instances") == 0)["title"].to_list()
        said += f" Insufficient, not in this lake: {', '.join(none)}."
    return said


def steps(found: Instances) -> pl.DataFrame:
    """Give the three slowest steps of every transaction in a trace, by critical path."""
    frames = [
        transactions.slowest_steps(found, one.name)
        .head(3)
        .select(pl.lit(one.title).alias("transaction"), pl.all())
        for one in found.transactions
        if one.across == "trace"
    ]
    return pl.concat(frames) if frames else pl.DataFrame()


def funnels(found: Instances) -> pl.DataFrame:
    """Say how far the instances of every sequence came."""
    frames = [
        transactions.funnel(found, one.name).select(
            pl.lit(one.title).alias("transaction"), pl.all()
        )
        for one in found.transactions
        if len(one.steps) > 1
    ]
    return pl.concat(frames) if frames else pl.DataFrame()


def violations(found: Instances, *, count: int = 10) -> pl.DataFrame:
    """List the worst violations of every transaction, each with its trace."""
    return pl.concat(
        transactions.violations(found, one.name, count=count).select(
            pl.lit(one.title).alias("transaction"), pl.all()
        )
        for one in found.transactions
    )


def worst_waterfall(found: Instances) -> Chart:
    """Draw the trace of the longest violation, or say that there is none."""
    worst = violations(found, count=1).filter(pl.col("trace_id").is_not_null())
    if worst.is_empty():
        return plots.nothing("no violation with a trace")
    longest = worst.sort("duration_s", descending=True)["trace_id"][0]
    return plots.waterfall(waterfall.waterfall(found.con, longest))
