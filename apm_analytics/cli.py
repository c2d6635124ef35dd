"""The `apm` command: parse, call one function, print."""

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from apm_analytics import __version__
from apm_analytics.errors import ApmError

LAKE = click.option(
    "--lake",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data/lake"),
    show_default=True,
    envvar="APM_LAKE",
    help="Folder of the lake.",
)
OUT = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    envvar="APM_OUT",
    help="Folder for derived data, runs and the published set.",
)
PROGRESS = click.option("--progress/--no-progress", default=sys.stderr.isatty, help="Show bars.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def apm() -> None:
    """Application performance monitoring as a Jupyter workspace."""


@apm.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@LAKE
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option(
    "--earliest",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Take records from this day on; earlier ones are dead-lettered.  [default: 2000-01-01]",
)
@PROGRESS
def import_(
    paths: tuple[Path, ...], lake: Path, workers: int, earliest: datetime | None, progress: bool
) -> None:
    """Import OTLP files (JSON or protobuf, plain, .gz or .zst) and folders of them."""
    from apm_analytics.ingest.files import import_files

    since = earliest.replace(tzinfo=UTC) if earliest else None
    summary = import_files(paths, lake, workers=workers, earliest=since, progress=progress)
    click.echo("\n".join(summary.lines()))
    if not summary.ok:
        sys.exit(1)


@apm.command()
@LAKE
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the OTLP files and truth.json.  [default: beside the lake]",
)
@click.option("--days", type=click.IntRange(1), help="[default: params.yaml]")
@click.option("--spans", type=click.IntRange(1), help="[default: params.yaml]")
@click.option("--seed", type=int, help="[default: params.yaml]")
@click.option("--if-missing", is_flag=True, help="Do nothing when there is a lake already.")
@PROGRESS
def simulate(
    lake: Path,
    into: Path | None,
    days: int | None,
    spans: int | None,
    seed: int | None,
    if_missing: bool,
    progress: bool,
) -> None:
    """Write weeks of telemetry of a small shop as OTLP, and import it."""
    from apm_analytics import settings
    from apm_analytics.ingest import simulated

    folder = into or lake.parent / "simulated"
    if if_missing and not simulated.missing(lake, folder):
        return
    params = settings.load().params
    summary = simulated.make_lake(
        lake,
        folder,
        days=days or params.simulate.days,
        spans=spans or params.simulate.spans,
        seed=params.seed if seed is None else seed,
        progress=progress,
    )
    click.echo("\n".join(summary.lines()))
    if not summary.ok:
        sys.exit(1)


@apm.command()
@click.argument("sql")
@LAKE
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
)
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Fill in $NAME.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write here.")
def query(sql: str, lake: Path, form: str, pairs: tuple[str, ...], output: Path | None) -> None:
    """Ask the lake: SQL, or the name of a query (`apm queries` lists them)."""
    from apm_analytics.lake import answers

    content = answers.answer(lake, sql, form=form, parameters=answers.parameters(pairs))
    if output:
        answers.save(content, output)
    else:
        sys.stdout.buffer.write(content)


@apm.command()
def queries() -> None:
    """List the named queries and what comes out of each."""
    from apm_analytics.lake import query as lake_query

    for name in lake_query.names():
        click.echo(f"{name:28}{lake_query.text(name).splitlines()[0].removeprefix('-- ')}")


@apm.group()
def lake() -> None:
    """Look after the lake."""


@lake.command("status")
@LAKE
def lake_status(lake: Path) -> None:
    """Show tables, parts, rows, bytes and times."""
    from apm_analytics.lake import answers, snapshots

    click.echo(answers.as_text(snapshots.status(lake)))


@apm.command()
@LAKE
@OUT
@click.option("--force", is_flag=True, help="Run although nothing changed.")
@PROGRESS
def nightly(lake: Path, out: Path, force: bool, progress: bool) -> None:
    """Check, train, run the notebooks, publish thresholds and the report."""
    from apm_analytics import nightly as job
    from apm_analytics import settings

    result = job.run(lake, out, settings.load(), force=force, progress=progress)
    click.echo("\n".join(result.lines()))
    if not result.ok:
        sys.exit(1)


@apm.command()
@LAKE
@OUT
@click.option("--at", default="02:00", show_default=True, metavar="HH:MM", help="UTC.")
def schedule(lake: Path, out: Path, at: str) -> None:
    """Run the nightly job every day at a time; a missed run is caught up once."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from apm_analytics import nightly as job
    from apm_analytics import schedule as clock
    from apm_analytics import settings

    def run_once() -> None:
        result = job.run(lake, out, settings.load(), progress=False)
        click.echo("\n".join(result.lines()))

    clock.run_schedule(at, run_once, state=out / "schedule.json")


@apm.command()
@OUT
def runs(out: Path) -> None:
    """List past nightly runs."""
    from apm_analytics.lake import answers
    from apm_analytics.report import ledger

    click.echo(answers.as_text(ledger.list_runs(out)))


def main() -> None:
    """Run `apm`; an error of ours becomes one line and exit code 1."""
    try:
        apm()
    except ApmError as error:
        click.echo(f"apm: {error}", err=True)
        sys.exit(1)
