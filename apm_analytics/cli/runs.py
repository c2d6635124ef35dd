"""Commands around the nightly run: `apm nightly`, `schedule`, `runs` and `plots`."""

import logging
import sys
from pathlib import Path

import click

from apm_analytics.cli.options import LAKE, OUT, PROGRESS


@click.command()
@LAKE
@OUT
@click.option("--force", is_flag=True, help="Run even if nothing changed.")
@PROGRESS
def nightly(lake: Path, out: Path, force: bool, progress: bool) -> None:
    """Check, train, run the notebooks, publish thresholds and the report."""
    from apm_analytics.foundation import settings
    from apm_analytics.nightly import job

    result = job.run(lake, out, settings.load(), force=force, progress=progress)
    click.echo("\n".join(result.lines()))
    if not result.ok:
        sys.exit(1)


@click.command()
@LAKE
@OUT
@click.option("--at", default="02:00", show_default=True, metavar="HH:MM", help="UTC.")
def schedule(lake: Path, out: Path, at: str) -> None:
    """Run the nightly job every day at a time; a missed run is made up for once."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from apm_analytics.foundation import settings
    from apm_analytics.nightly import job
    from apm_analytics.nightly import schedule as clock

    def run_once() -> None:
        result = job.run(lake, out, settings.load(), progress=False)
        click.echo("\n".join(result.lines()))

    clock.run_schedule(at, run_once, state=out / "schedule.json")


@click.command()
@OUT
def runs(out: Path) -> None:
    """List past nightly runs."""
    from apm_analytics.lake import answers
    from apm_analytics.nightly import ledger

    click.echo(answers.as_text(ledger.list_runs(out)))


@click.command()
@click.argument("revisions", nargs=-1)
def plots(revisions: tuple[str, ...]) -> None:
    """Write DVC's plots as one offline page; REVISIONS or experiments stand side by side."""
    from apm_analytics.foundation import settings
    from apm_analytics.report.pages import experiments

    click.echo(experiments.plots(settings.load().workspace, revisions))
