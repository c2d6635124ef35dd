"""Is every part of the lake there, and as it was written?

In:  a lake.
Out: parts that are missing or damaged, files that no manifest names.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from apm_analytics.lake import manifest
from apm_analytics.lake.manifest import Part, open_manifest
from apm_analytics.lake.schema import TABLES

# A writer gives its files their names moments before the manifest knows them.
YOUNG_S = 60.0
READ_BYTES = 1024 * 1024


@dataclass
class Findings:
    """Paths relative to the lake; `stray` files are of no part: a killed writer left them."""

    parts: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not (self.missing or self.damaged or self.stray)


def verify(
    lake: Path, *, now_s: float | None = None, progress: Callable[[int], object] | None = None
) -> Findings:
    """Compare every part with its hash in the manifest, and every file with the list of parts.

    Parameters
    ----------
    now_s : files younger than a minute at this time are not called stray; seconds since 1970.
    progress : called with the bytes of each part that was read.

    Raises
    ------
    NotFound
        There is no lake at `lake`.

    Examples
    --------
    >>> verify(Path("data/lake")).sound  # doctest: +SKIP
    True
    """
    now_s = time.time() if now_s is None else now_s
    live = _parts(lake)
    found = Findings(parts=len(live))
    for part in live.values():
        try:
            sound = _sha256(lake / part.path) == part.sha256
        except FileNotFoundError:
            sound = None
        # What compaction replaced while we read may be gone, rightly.
        if not sound and part.path in _parts(lake):
            (found.missing if sound is None else found.damaged).append(part.path)
        if progress is not None:
            progress(part.bytes)
    files = [file for table in TABLES for file in (lake / table).rglob("*") if file.is_file()]
    named = set(_parts(lake, replaced=True))
    for file in files:
        path = str(file.relative_to(lake))
        try:
            young = now_s - file.stat().st_mtime < YOUNG_S
        except FileNotFoundError:
            continue
        if path not in named and not young:
            found.stray.append(path)
    return found


def _parts(lake: Path, *, replaced: bool = False) -> dict[str, Part]:
    with open_manifest(lake) as con:
        parts = manifest.live_parts(con) + (manifest.replaced_parts(con) if replaced else [])
    return {part.path: part for part in parts}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while block := content.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
