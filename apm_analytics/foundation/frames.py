"""Read Parquet files by their path, whatever characters it has.

In:  a path.
Out: a Polars frame.

Polars takes `*`, `?` and `[` in a path for a pattern, which matches nothing or another file.
"""

from pathlib import Path

import polars as pl


def read_parquet(file: Path) -> pl.DataFrame:
    """Read one Parquet file."""
    return pl.read_parquet(file, glob=False)
