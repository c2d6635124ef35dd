"""Fill a lake with a simulated shop, by the same import as any other telemetry.

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
    """Return whether there is no lake yet, or the import of its simulated files is unfinished."""
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

    If it is interrupted, the next call continues: complete files are kept, so the import finds the
    same documents again and takes only the missing ones.

    Parameters
    ----------
    folder : folder of the OTLP files and truth.json.
    days, spans, seed : see `simulate.shop.write`.
    end : end of the last day; now by default.
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
