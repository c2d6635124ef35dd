"""One lake as an object, for notebooks: `apm_analytics.open` returns it.

In:  the folder of a lake, SQL or the name of a query.
Out: Polars frames.
"""

from pathlib import Path

import polars as pl

from apm_analytics.lake import query, snapshots


class Lake:
    """A lake; every call reads its newest snapshot.

    Raises
    ------
    NotFound
        No lake at `path`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        snapshots.status(path)

    def __repr__(self) -> str:
        return f"Lake({str(self.path)!r})"

    def query(self, sql: str, **parameters: object) -> pl.DataFrame:
        """Run a statement with its `$parameters`; the tables are those of `lake.schema.TABLES`."""
        with query.connect(self.path) as con:
            return query.frame(con, sql, parameters)

    def named(self, name: str, **parameters: object) -> pl.DataFrame:
        """Run a named query of `lake/sql/`, see `apm queries`, with its `$parameters`."""
        with query.connect(self.path) as con:
            return query.named(con, name, **parameters)

    def status(self) -> pl.DataFrame:
        """Return one row per table: parts, rows, bytes, first and last time (UTC)."""
        return snapshots.status(self.path)
