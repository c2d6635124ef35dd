"""Commands that bring telemetry in: `apm import`, `apm simulate`."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from apm_analytics.cli.options import LAKE, PROGRESS


@click.command("import")
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
    from apm_analytics.cli import retention_words
    from apm_analytics.foundation import settings
    from apm_analytics.ingest.files import import_files
    from apm_analytics.lake import snapshots
    from apm_analytics.lake.maintenance import retention

    periods = settings.retention(settings.load().workspace)
    before = snapshots.newest(lake)
    since = earliest.replace(tzinfo=UTC) if earliest else None
    summary = import_files(paths, lake, workers=workers, earliest=since, progress=progress)
    click.echo("\n".join(summary.lines()))
    if snapshots.newest(lake) > before:
        for line in retention_words.threatened(
            retention.outlook(lake, periods, since=before), periods
        ):
            click.echo(line)
    if not summary.ok:
        sys.exit(1)


@click.command()
@LAKE
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the OTLP files and truth.json.  [default: beside the lake]",
)
@click.option("--days", type=click.IntRange(1, 3_650), help="[default: params.yaml]")
@click.option("--spans", type=click.IntRange(1, 10**9), help="[default: params.yaml]")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="[default: params.yaml]")
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
    from apm_analytics.foundation import settings
    from apm_analytics.ingest import simulated
    from apm_analytics.signals import calendar

    folder = into or lake.parent / "simulated"
    truth, labels = folder / simulated.TRUTH, calendar.beside(lake)
    if if_missing and not simulated.missing(lake, folder):
        if truth.exists() and not labels.exists():  # an earlier call was killed
            calendar.write(calendar.from_truth(truth), labels)
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
    calendar.write(calendar.from_truth(truth), labels)
    click.echo("\n".join(summary.lines()))
    if not summary.ok:
        sys.exit(1)
