"""Application performance monitoring as a Jupyter workspace.

In:  the folder of a lake.
Out: `open`, for notebooks; the packages below do the work.

>>> import apm_analytics as apm
>>> lake = apm.open("data/lake")  # doctest: +SKIP
>>> lake.named("slowest_operations", count=5, min_requests=100)  # doctest: +SKIP

Watched services import this package through `instrument`, so it loads nothing by itself.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apm_analytics.lake.handle import Lake

__version__ = "0.1.0"


def open(lake: str | Path) -> "Lake":
    """Open a lake for queries.

    Raises
    ------
    NotFound
        No lake at `lake`.
    """
    from apm_analytics.lake.handle import Lake

    return Lake(Path(lake))
