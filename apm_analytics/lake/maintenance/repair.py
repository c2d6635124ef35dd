"""Accept the loss of damaged parts: take them out of the manifest and into quarantine.

In:  a lake.
Out: the parts that were taken out.
"""

from collections.abc import Callable
from pathlib import Path

from apm_analytics.lake import manifest, quarantine
from apm_analytics.lake.damage import DAMAGED, MISSING, LeftOut
from apm_analytics.lake.maintenance import compaction
from apm_analytics.lake.maintenance.verify import verify
from apm_analytics.lake.manifest import open_manifest, transaction


def repair(lake: Path, *, progress: Callable[[int], object] | None = None) -> list[LeftOut]:
    """Drop missing and damaged parts from the manifest; the files of the latter are set aside.

    Parameters
    ----------
    progress : called with the bytes of each part that was read.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    """
    with open_manifest(lake):
        pass
    with compaction.maintenance(lake):
        findings = verify(lake, progress=progress)
        reasons = dict.fromkeys(findings.missing, MISSING)
        reasons |= dict.fromkeys(findings.damaged, DAMAGED)
        with open_manifest(lake, create=True) as con, transaction(con):
            lost = [
                LeftOut(part, reasons[part.path])
                for part in manifest.live_parts(con)
                if part.path in reasons
            ]
            manifest.drop_parts(con, [each.part for each in lost])
            # Before the commit: if it fails, the part is missing, and the next call drops it.
            for each in lost:
                if each.reason == DAMAGED:
                    quarantine.move(lake, lake / each.part.path, quarantine.DAMAGED)
        if lost:
            manifest.back_up(lake)
    return lost
