"""Decide whether a lake receives live telemetry or holds a recording of the past.

In:  a lake; how late data of a live system may arrive.
Out: true or false.

A recording may be years old when it is imported. In a live lake an old newest span means that an
exporter has stalled.
"""

from pathlib import Path

from apm_analytics.lake.manifest import open_manifest

# Spans count as live up to this far in the future, because a sender's clock may run ahead.
MAX_LEAD_S = 3_600.0
_DELAYS = """
select (julianday(committed_at) - 2440587.5) * 86400.0 - last_time_ns / 1e9
from parts join snapshots on snapshots.id = parts.snapshot_id
where table_name = 'spans'
"""


def is_live(lake: Path, *, max_delay_s: float) -> bool:
    """Return whether spans have ever arrived within `max_delay_s` after they happened.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    """
    with open_manifest(lake) as con:
        return any(-MAX_LEAD_S <= delay <= max_delay_s for (delay,) in con.execute(_DELAYS))
