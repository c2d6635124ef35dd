"""The `apm` command: parse, call one function, print."""

import io
import sys
import warnings

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
    """Run `apm`; an error becomes one line and exit code 1, a warning an amber line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be no text
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show
    try:
        apm()
    except ApmError as error:
        click.echo(f"apm: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"apm: {error}; correct the path or its permissions, or free space", err=True)
        sys.exit(1)


def _show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    click.secho(f"apm: {category.__name__}: {message}", fg="yellow", err=True)
