"""Fitted baselines as tables on disk: parameters only, no history and no pickles.

In:  fitted baselines by series.
Out: models/<model>/parameters.parquet, one row a series, and the baselines read back from it.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from apm_analytics.analyze.signals import OPERATION, Schema
from apm_analytics.atomic import write_atomic
from apm_analytics.baselines import prophet_series, robust
from apm_analytics.baselines.band import Baseline
from apm_analytics.baselines.prophet_series import ProphetBaseline
from apm_analytics.baselines.robust import RobustBaseline
from apm_analytics.errors import NotFound

FILE_NAME = "parameters.parquet"
MODELS: dict[str, tuple[type[ProphetBaseline] | type[RobustBaseline], Schema]] = {
    ProphetBaseline.model: (ProphetBaseline, prophet_series.SCHEMA),
    RobustBaseline.model: (RobustBaseline, robust.SCHEMA),
}


def save(baselines: Mapping[tuple[str, str, str], Baseline], models: Path) -> None:
    """Write the parameters of all baselines below `models`, a file a model, without rows too."""
    for model, (kind, schema) in MODELS.items():
        rows = [
            {"service_name": service, "operation": operation, **one.row()}
            for (service, operation, _), one in sorted(baselines.items())
            if isinstance(one, kind)
        ]
        frame = pl.DataFrame(rows, schema={**dict.fromkeys(OPERATION, pl.String), **schema})
        write_frame(frame, models / model / FILE_NAME)


def load(models: Path) -> dict[tuple[str, str, str], Baseline]:
    """Read what `save` wrote; the baselines predict as they did when fitted.

    Raises
    ------
    NotFound
        Nothing was trained into `models` yet.
    """
    found: dict[tuple[str, str, str], Baseline] = {}
    for model, (kind, _) in MODELS.items():
        file = models / model / FILE_NAME
        if not file.exists():
            raise NotFound(f"no parameters at {file}; train first: dvc repro train")
        for row in pl.read_parquet(file).iter_rows(named=True):
            found[row["service_name"], row["operation"], row["signal"]] = kind.from_row(row)
    return found


def write_frame(frame: pl.DataFrame, file: Path) -> None:
    """Write a Parquet file in one step."""
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd")
    write_atomic(file, content.getvalue())


def write_csv(frame: pl.DataFrame, file: Path) -> None:
    """Write a CSV file in one step."""
    write_atomic(file, frame.write_csv().encode())
