"""The `apm` command: parse, call one function, print."""

import sys

import click

from apm_analytics import __version__
from apm_analytics.cli import alerts, business, lake, receive, runs, slo, telemetry, transactions
from apm_analytics.foundation.errors import ApmError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def apm() -> None:
    """Application performance monitoring as a Jupyter workspace."""


for command in (
    telemetry.import_,
    telemetry.simulate,
    receive.receive,
    receive.token,
    lake.query,
    lake.queries,
    lake.lake,
    business.kpis,
    business.impact,
    alerts.backtest,
    runs.nightly,
    runs.schedule,
    runs.runs,
    runs.plots,
    slo.slo,
    transactions.transactions,
):
    apm.add_command(command)


def main() -> None:
    """Run `apm`; an error of ours becomes one line and exit code 1."""
    try:
        apm()
    except ApmError as error:
        click.echo(f"apm: {error}", err=True)
        sys.exit(1)
