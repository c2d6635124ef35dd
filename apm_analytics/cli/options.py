"""Options and types of values that several commands share."""

import math
import sys
from datetime import datetime
from pathlib import Path

import click


class Moment(click.DateTime):
    """A time that the lake can hold: its nanoseconds fit 64 bits."""

    def convert(
        self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Parse a time in UTC."""
        moment: datetime = super().convert(value, param, ctx)
        if not 1970 <= moment.year <= 2200:
            self.fail(f"{value} is not in the years 1970 to 2200.", param, ctx)
        return moment


class Finite(click.FloatRange):
    """A number that is neither infinite nor NaN."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse a number."""
        number = float(super().convert(value, param, ctx))  # type: ignore[arg-type]
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


TIME = Moment(
    [
        *("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"),
        *("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"),
    ]
)

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
OUTPUT = click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write here."
)
PROGRESS = click.option("--progress/--no-progress", default=sys.stderr.isatty, help="Show bars.")
