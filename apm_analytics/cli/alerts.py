"""Commands about alerts: `apm backtest`."""

import sys
from datetime import datetime
from pathlib import Path

import click

from apm_analytics.cli.options import LAKE, PROGRESS, TIME, Finite


@click.command()
@LAKE
@click.option("--alert", required=True, metavar="NAME", help="Generated, or one of --rules.")
@click.option("--since", required=True, type=TIME, help="Start of the replay; UTC.")
@click.option("--until", type=TIME, help="End of the replay; UTC.  [default: the end of the data]")
@click.option("--service", help="This service only.")
@click.option("--operation", help="This operation only.")
@click.option("--threshold", type=Finite(), help="Replaces the alert's own, in its unit.")
@click.option("--for", "wait", metavar="5m", help="Replaces the alert's own.")
@click.option(
    "--rules",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A Prometheus rules file; may be given several times.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
)
@PROGRESS
def backtest(
    lake: Path,
    alert: str,
    since: datetime,
    until: datetime | None,
    service: str | None,
    operation: str | None,
    threshold: float | None,
    wait: str | None,
    files: tuple[Path, ...],
    form: str,
    progress: bool,
) -> None:
    """Replay an alert: how often it would have fired, when, and which incidents it met."""
    from apm_analytics.alerts.gate import backtest as job
    from apm_analytics.alerts.gate import replayable, stage
    from apm_analytics.foundation import settings
    from apm_analytics.lake import answers

    held = settings.load()
    result = job.run(
        lake,
        alert,
        held,
        stage.labels(held.workspace, lake),
        since=since,
        until=until,
        service=service,
        operation=operation,
        threshold=threshold,
        for_s=None if wait is None else replayable.seconds(wait),
        files=files,
        progress=progress,
    )
    if form == "table":
        click.echo("\n".join(result.lines()))
    sys.stdout.buffer.write(answers.render(result.fired, form))
