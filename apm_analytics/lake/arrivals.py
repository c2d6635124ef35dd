"""Is this lake fed live, or is it a recording of the past?

In:  a lake; how late data of a live system may arrive.
Out: yes or no.

A recording may be years old on the day it is imported, and nothing is wrong with it. Where spans
once arrived fresh, however, an old newest span means that an exporter has stalled.
"""

from pathlib import Path

from apm_analytics.lake.manifest import open_manifest

# A sender's clock that runs ahead of ours by less is still taken for a live one.
MAX_LEAD_S = 3_600.0
_DELAYS = """
select (julianday(committed_at) - 2440587.5) * 86400.0 - last_time_ns / 1e9
from parts join snapshots on snapshots.id = parts.snapshot_id
where table_name = 'spans'
"""


def is_live(lake: Path, *, max_delay_s: float) -> bool:
    """Tell whether spans have ever arrived within `max_delay_s` after they happened.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    """
    with open_manifest(lake) as con:
        return any(-MAX_LEAD_S <= delay <= max_delay_s for (delay,) in con.execute(_DELAYS))
