"""Set files aside that are damaged, or that the manifest does not name.

In:  a file of the lake.
Out: `<lake>/quarantine/<day>/<reason>/<path>`, removed after `KEPT_DAYS`.
"""

import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from apm_analytics.foundation.atomic import sync_folder

FOLDER = "quarantine"
KEPT_DAYS = 30
# Why a file is here: its content has changed, no manifest names it, or a manifest that is lost.
DAMAGED, UNKNOWN, MANIFEST = "damaged", "unknown", "manifest"


def move(lake: Path, file: Path, reason: str, *, now_s: float | None = None) -> Path:
    """Move a file of the lake to quarantine and return its new path."""
    day = datetime.fromtimestamp(time.time() if now_s is None else now_s, UTC).date()
    into = lake / FOLDER / day.isoformat() / reason / file.relative_to(lake)
    into.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while into.exists():  # another version was moved today
        into = into.with_name(f"{file.stem}.{number}{file.suffix}")
        number += 1
    os.rename(file, into)
    sync_folder(into.parent)
    return into


def files(lake: Path, *reasons: str) -> Iterator[Path]:
    """Yield the files that are in quarantine for some reasons."""
    for reason in reasons:
        for file in sorted((lake / FOLDER).glob(f"*/{reason}/**/*")):
            if file.is_file():
                yield file


def origin(lake: Path, file: Path) -> Path:
    """Return where a file was before it was moved."""
    return lake.joinpath(*file.relative_to(lake / FOLDER).parts[2:])


def expire(lake: Path, *, now_s: float) -> int:
    """Remove what was moved more than `KEPT_DAYS` ago; return the number of files."""
    oldest = datetime.fromtimestamp(now_s, UTC).date() - timedelta(days=KEPT_DAYS)
    removed = 0
    for folder in (lake / FOLDER).glob("*-*-*"):
        if date.fromisoformat(folder.name) < oldest:
            removed += sum(file.is_file() for file in folder.rglob("*"))
            shutil.rmtree(folder)
    return removed


def is_temporary(file: Path) -> bool:
    """Return whether a file is an unfinished part, which holds no complete rows."""
    return file.name.startswith(".") and file.suffix == ".tmp"
