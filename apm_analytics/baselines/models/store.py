"""Fitted baselines as one table on disk: parameters only, no history and no pickles.

In:  models/parameters.parquet, one row per series.
Out: the fitted fleets read back from it; frames written in one step.

The estimators cost 3 s of CPU to import, so only what needs them loads them.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import NotFound
from apm_analytics.foundation.frames import read_parquet

if TYPE_CHECKING:
    from apm_analytics.baselines.models.fitted import FittedFleet

PARAMETERS = "parameters.parquet"


def load(models: Path) -> "list[FittedFleet]":
    """Read the baselines of the last training run.

    Raises
    ------
    NotFound
        Nothing was trained into `models` yet.
    """
    from apm_analytics.baselines.models import fitted

    file = models / PARAMETERS
    if not file.exists():
        raise NotFound(f"no parameters at {file}; train first: dvc repro train")
    return fitted.fleets_of(read_parquet(file))


def write_frame(frame: pl.DataFrame, file: Path, about: Mapping[str, str] | None = None) -> None:
    """Write a Parquet file atomically, with metadata in its footer."""
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd", metadata=dict(about or {}))
    write_atomic(file, content.getvalue())


def write_csv(frame: pl.DataFrame, file: Path) -> None:
    """Write a CSV file atomically."""
    write_atomic(file, frame.write_csv().encode())
