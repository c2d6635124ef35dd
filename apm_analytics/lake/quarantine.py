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
# Why a file is here: its content has changed; the manifest does not name it; its rows are in other
# parts; it is a manifest that was lost.
DAMAGED, UNKNOWN, REPLACED, MANIFEST = "damaged", "unknown", "replaced", "manifest"
# Those of parts.
REASONS = DAMAGED, UNKNOWN, REPLACED


def move(lake: Path, file: Path, reason: str, *, now_s: float | None = None) -> Path:
    """Move a file of the lake, or of another folder of the quarantine; return its new path."""
    day = datetime.fromtimestamp(time.time() if now_s is None else now_s, UTC).date()
    path = origin(lake, file).relative_to(lake)
    into = lake / FOLDER / day.isoformat() / reason / path
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
    """Return where a file was before it was moved; the same path for one that was not."""
    if not file.is_relative_to(lake / FOLDER):
        return file
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
