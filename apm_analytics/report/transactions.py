"""What a terminal and a notebook ask of the business transactions.

In:  a lake, specs/transactions.yaml.
Out: frames, a live watcher, a line a violation.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from apm_analytics import settings
from apm_analytics.analyze import services, transactions, transactions_specs
from apm_analytics.analyze.transactions import Instances
from apm_analytics.analyze.transactions_live import Watcher
from apm_analytics.lake import query
from apm_analytics.lake.hot import HotView
from apm_analytics.report import words


def instances(
    con: duckdb.DuckDBPyConnection, *, specs: Path | None = None, days: int = 30
) -> Instances:
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
