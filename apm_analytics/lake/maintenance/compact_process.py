"""Compact a lake in a process of low priority and little memory.

In:  `python -m apm_analytics.lake.maintenance.compact_process LAKE`.
Out: the number of merged parts, on standard output.
"""

import os
import sys
from pathlib import Path

from apm_analytics.foundation.errors import ApmError
from apm_analytics.lake.maintenance import lean

NICENESS = 10


def main(lake: Path) -> int:
    """Compact once; return the exit code."""
    os.nice(NICENESS)
    lean.take_little()
    from apm_analytics.lake.maintenance import compaction  # loads pyarrow

    try:
        print(compaction.compact(lake).merged)
    except ApmError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
