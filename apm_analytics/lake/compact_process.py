"""Compact a lake as a process that takes little memory and yields to all others.

In:  `python -m apm_analytics.lake.compact_process LAKE`.
Out: on standard output, how many parts were merged.
"""

import os
import sys
from pathlib import Path

import pyarrow as pa

from apm_analytics.errors import ApmError
from apm_analytics.lake import compaction

NICENESS = 10


def main(lake: Path) -> int:
    """Merge once; gives what the process exits with."""
    os.nice(NICENESS)
    # One thread, and what is free goes back to the system.
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        print(compaction.compact(lake).merged)
    except ApmError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
