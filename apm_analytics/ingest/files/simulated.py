"""Fill a lake with a simulated shop, through the same door as any other telemetry.

In:  params.yaml (`simulate`, `seed`), the folder for the OTLP files, the lake.
Out: the OTLP files with their truth.json, and the lake they were imported into.
"""

from datetime import UTC, datetime
from pathlib import Path

from apm_analytics.ingest.files.importer import ImportSummary, import_files
from apm_analytics.lake import manifest
from apm_analytics.simulate import shop

TRUTH = "truth.json"
PENDING = "import-pending"
GRID_S = 300


def missing(lake: Path, folder: Path) -> bool:
    """Tell whether there is no lake yet, or one whose simulated files are only half imported."""
    return (folder / PENDING).exists() or not (lake / manifest.FILE_NAME).exists()


def make_lake(
    lake: Path,
    folder: Path,
    *,
    days: int,
    spans: int,
    seed: int,
    end: datetime | None = None,
    progress: bool = True,
) -> ImportSummary:
    """Simulate some days and import them.

    Interrupted at any moment, the next call goes on where this one stopped: complete files are
    kept, so the import meets the same documents again and takes only those it lacks.

    Parameters
    ----------
    lake : folder of the lake, made when missing.
    folder : where the OTLP files and truth.json go.
    days, spans, seed : see `simulate.shop.write`.
    end : of the days; None: now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    resumed = (folder / PENDING).exists() and (folder / TRUTH).exists()
    (folder / PENDING).touch()
    if not resumed:
        end_s = int((end or datetime.now(UTC)).timestamp())
        end = datetime.fromtimestamp(end_s - end_s % GRID_S, UTC)
        shop.write(folder, days=days, spans=spans, seed=seed, end=end, progress=progress)
    summary = import_files(sorted(folder.glob("*.pb.zst")), lake, progress=progress)
    if summary.ok:
        (folder / PENDING).unlink()
    return summary
