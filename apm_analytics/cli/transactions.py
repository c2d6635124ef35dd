"""Commands about business transactions: `apm transactions`."""

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from apm_analytics.cli.options import LAKE
from apm_analytics.cli.slo import SPECS


@click.group()
def transactions() -> None:
    """Business transactions: how they fare, and live who waits too long."""


@transactions.command("report")
@LAKE
@SPECS
@click.option("--days", type=click.IntRange(min=1), default=30, show_default=True)
@click.option("--by", type=click.Choice(["segment", "organization_id"]), help="In parts.")
def report(lake: Path, specs: Path | None, days: int, by: str | None) -> None:
    """Sum up every transaction of specs/transactions.yaml, as of the end of the data."""
    from apm_analytics.lake import answers
    from apm_analytics.transactions import report as business

    click.echo(answers.as_text(business.summary(lake, specs=specs, days=days, by=by)))


@transactions.command("watch")
@LAKE
@SPECS
@click.option("--interval", type=click.FloatRange(min=0.2), default=5.0, show_default=True)
@click.option("--once", is_flag=True, help="Look once and end.")
def watch(lake: Path, specs: Path | None, interval: float, once: bool) -> None:
    """Print every SLA violation as it happens, also of what is still running."""
    from apm_analytics.transactions import report as business

    watcher = business.watcher(lake, specs=specs)
    while True:
        now = datetime.now(UTC).replace(tzinfo=None)
        for row in watcher.look(now).iter_rows(named=True):
            click.echo(business.told(row))
        if once:
            return
        time.sleep(interval)
