"""Commands about business transactions: `apm transactions`."""

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from apm_analytics.cli.options import LAKE, Finite
from apm_analytics.cli.slo import SPECS


@click.group()
def transactions() -> None:
    """Business transactions: their SLA over days, and live violations."""


@transactions.command("report")
@LAKE
@SPECS
@click.option("--days", type=click.IntRange(1, 36_500), default=30, show_default=True)
@click.option("--by", type=click.Choice(["segment", "organization_id"]), help="Split by this.")
def report(lake: Path, specs: Path | None, days: int, by: str | None) -> None:
    """Summarise every transaction of specs/transactions.yaml up to the end of the data."""
    from apm_analytics.lake import answers
    from apm_analytics.transactions import report as transactions_report

    click.echo(answers.as_text(transactions_report.summary(lake, specs=specs, days=days, by=by)))


@transactions.command("watch")
@LAKE
@SPECS
@click.option("--interval", type=Finite(min=0.2), default=5.0, show_default=True)
@click.option("--once", is_flag=True, help="Look once and exit.")
def watch(lake: Path, specs: Path | None, interval: float, once: bool) -> None:
    """Print every SLA violation as it happens, including instances still running."""
    from apm_analytics.transactions.report import line, watcher

    live = watcher(lake, specs=specs)
    while True:
        now = datetime.now(UTC).replace(tzinfo=None)
        for row in live.look(now).iter_rows(named=True):
            click.echo(line(row))
        if once:
            return
        time.sleep(interval)
