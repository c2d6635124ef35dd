"""Options that several commands share."""

import sys
from pathlib import Path

import click

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
