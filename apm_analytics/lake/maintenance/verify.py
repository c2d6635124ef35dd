"""Verify that every part of the lake exists and is unchanged.

In:  a lake.
Out: parts that are missing or damaged, files that the manifest does not name.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from apm_analytics.lake import damage, manifest
from apm_analytics.lake.manifest import Part, open_manifest
from apm_analytics.lake.schema import TABLES

# A writer renames its files shortly before it commits them to the manifest.
YOUNG_S = 60.0


@dataclass
class Findings:
    """Paths relative to the lake; `stray` files of a killed writer belong to no part."""

    parts: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether no file is missing, damaged or stray."""
        return not (self.missing or self.damaged or self.stray)


def verify(
    lake: Path, *, now_s: float | None = None, progress: Callable[[int], object] | None = None
) -> Findings:
    """Compare every part with its hash in the manifest, and every file with the list of parts.

    Parameters
    ----------
    now_s : the current time, in seconds since 1970; files younger than a minute are never stray.
    progress : called with the bytes of each part that was read.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    """
    now_s = time.time() if now_s is None else now_s
    live = _parts(lake)
    findings = Findings(parts=len(live))
    for part in live.values():
        try:
            sound = damage.sha256(lake / part.path) == part.sha256
        except FileNotFoundError:
            sound = None
        # A part that was replaced meanwhile may be gone.
        if not sound and part.path in _parts(lake):
            (findings.missing if sound is None else findings.damaged).append(part.path)
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
            findings.stray.append(path)
    return findings


def _parts(lake: Path, *, replaced: bool = False) -> dict[str, Part]:
    with open_manifest(lake) as con:
        parts = manifest.live_parts(con) + (manifest.replaced_parts(con) if replaced else [])
    return {part.path: part for part in parts}
