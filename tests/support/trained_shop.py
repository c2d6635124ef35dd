"""The simulated shop over 22 days, imported and trained by the real stages, once per test run.

It has growth (10 % in 28 days), business figures that follow latency and errors, labelled
incidents, and one incident that still goes on at the end. `apm simulate` writes what it planted
into truth.json.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import shared_folder

from apm_analytics.foundation import settings
from apm_analytics.ingest.files.importer import import_files
from apm_analytics.nightly.job import STAGES
from apm_analytics.signals import calendar
from apm_analytics.simulate import shop

DAYS = 22  # associations need 21, growth 14
SPANS = 900_000  # fewer leave too many windows without a p95
END = datetime(2026, 11, 23, 13, 5, tzinfo=UTC)
RUN_ID = "20261123T130500Z-00aa"


@dataclass(frozen=True)
class TrainedShop:
    """The folders of the run, for reading only."""

    lake: Path
    derived: Path
    models: Path
    truth: Path


def get() -> TrainedShop:
    """Return the trained shop, made on first use."""
    return _folders(shared_folder.once("trained-shop", _fill))


def _folders(folder: Path) -> TrainedShop:
    return TrainedShop(
        folder / "lake",
        folder / "derived",
        folder / "models",
        folder / "simulated" / "truth.json",
    )


def _fill(folder: Path) -> None:
    run = _folders(folder)
    recording = shop.write(
        folder / "simulated", days=DAYS, spans=SPANS, seed=7, end=END, progress=False
    )
    files = sorted(recording.glob("*.zst"))
    import_files(files, run.lake, workers=1, progress=False)
    for file in files:
        file.unlink()
    calendar.write(calendar.from_truth(run.truth), calendar.beside(run.lake))
    for stage in STAGES:
        stage(run.lake, run.derived, run.models, settings.load(), RUN_ID, False)
