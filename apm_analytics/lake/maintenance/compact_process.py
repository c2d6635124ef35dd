"""Compact a lake as a process that takes little memory and yields to all others.

In:  `python -m apm_analytics.lake.maintenance.compact_process LAKE`.
Out: on standard output, how many parts were merged.
"""

import os
import sys
from pathlib import Path

from apm_analytics.foundation.errors import ApmError
from apm_analytics.lake.maintenance import lean

NICENESS = 10


def main(lake: Path) -> int:
    """Merge once; gives what the process exits with."""
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
