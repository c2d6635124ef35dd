"""Query the lake: DuckDB with one view per table, and named queries from `lake/sql/<topic>/`.

In:  the folder of a lake, SQL or the name of a query with its parameters.
Out: a DuckDB connection, Polars frames.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import polars as pl

from apm_analytics.foundation.errors import BadInput, BadParameter, NotFound
from apm_analytics.lake import manifest
from apm_analytics.lake.schema import TABLES

# What other packages annotate and catch, so that only this package imports duckdb.
Connection = duckdb.DuckDBPyConnection
Relation = duckdb.DuckDBPyRelation
SqlError = duckdb.Error

SQL_FOLDER = Path(__file__).parent / "sql"
VIEWS = sorted((SQL_FOLDER / "views").glob("*.sql"))
# The name of a query is the name of its file, whatever its topic: names are unique.
QUERIES = {
    file.stem: file for file in sorted(SQL_FOLDER.glob("*/*.sql")) if file.parent.name != "views"
}


def connect(lake: Path) -> Connection:
    """Open the present snapshot of a lake; later imports do not change what it shows.

    Returns
    -------
    An in-memory DuckDB connection, time zone UTC, with a view a table of `schema.TABLES` and
    those of `lake/sql/views`: `spans` with a `sample_weight`, `entry_spans`. A table without
    parts is an empty view.

    The files stay for `manifest.GRACE_S`: a connection held longer may have to be made anew.

    Raises
    ------
    NotFound
        No lake at `lake`.
    BadInput
        A part that the manifest names is missing or damaged.

    Examples
    --------
    >>> connect(Path("data/lake")).sql("select count(*) from spans")  # doctest: +SKIP
    """
    with manifest.open_manifest(lake) as snapshot:
        parts = manifest.live_parts(snapshot)
    con = offline()
    for table, schema in TABLES.items():
        name = _stored(table)
        files = [str((lake / part.path).resolve()) for part in parts if part.table == table]
        if files:
            listed = ", ".join(_quoted(file) for file in files)
            try:
                con.execute(
                    f"create view {name} as"
                    f" select * from read_parquet([{listed}], hive_partitioning = false)"
                )
            except SqlError as error:
                raise BadInput(
                    f"a part of {table} that the manifest of {lake} names cannot be read: {error}; "
                    "restore it from a backup, or import the original files into a new lake"
                ) from error
        else:
            con.register(name, schema.empty_table())
    create_views(con, [file.stem for file in VIEWS])
    return con


def offline() -> Connection:
    """Open an empty DuckDB in memory that never asks a network, time zone UTC."""
    con = duckdb.connect()
    # Offline there is nothing to install, and a query must never wait for a network.
    con.execute("set autoinstall_known_extensions = false")
    con.execute("set autoload_known_extensions = false")
    con.execute("set timezone = 'UTC'")
    # It would write itself into answers that are piped. In Jupyter it is off, and even turning it
    # off asks for a package that nothing else needs.
    [(shown,)] = con.sql("select current_setting('enable_progress_bar')").fetchall()
    if shown:
        con.execute("set enable_progress_bar = false")
    return con


def create_views(con: Connection, wanted: Sequence[str]) -> None:
    """Make views of `lake/sql/views`; the table under one of the same name is `stored_...`."""
    # A table's own view comes before those that read it.
    for file in sorted(VIEWS, key=lambda file: file.stem not in TABLES):
        if file.stem not in wanted:
            continue
        head = f"create or replace view {file.stem} as"
        try:
            con.execute(f"{head} {file.read_text()}")
        except duckdb.BinderException:
            if file.stem not in TABLES:
                raise
            # Its columns are odd: the quality suite says which, and must be able to look.
            con.execute(f"{head} select * from {_stored(file.stem)}")


def names() -> list[str]:
    """List the named queries."""
    return sorted(QUERIES)


def text(name: str) -> str:
    """Give the SQL of a named query.

    Raises
    ------
    NotFound
        No such query; the message lists those there are.
    """
    if name not in QUERIES:
        raise NotFound(f"no named query {name!r}; there are: {', '.join(names())}")
    return QUERIES[name].read_text()


def named(con: Connection, name: str, **parameters: object) -> pl.DataFrame:
    """Run a named query with its `$parameters`.

    Raises
    ------
    NotFound
        No such query.
    BadParameter
        A parameter is missing or unknown.

    Examples
    --------
    >>> named(con, "red_by_service", window_s=300)  # doctest: +SKIP
    """
    sql = text(name)
    try:
        return frame(con, sql, parameters)
    except duckdb.InvalidInputException as error:
        raise BadParameter(
            f"query {name!r} and its parameters {sorted(parameters)} do not fit: {error}"
        ) from error


def frame(con: Connection, sql: str, parameters: dict[str, object] | None = None) -> pl.DataFrame:
    """Run one statement that has rows and give them as a Polars frame.

    Raises
    ------
    BadInput
        The statement has no rows to give, such as SET; or a file is gone: of parts that were
        replaced more than `manifest.GRACE_S` ago, or erased.
    """
    try:
        relation = con.sql(sql, params=parameters)
        if relation is None:
            raise BadInput("the statement gives no rows; ask with SELECT, DESCRIBE or SUMMARIZE")
        return pl.DataFrame(relation.to_arrow_table())
    except duckdb.IOException as error:
        raise BadInput(
            f"a file of the lake cannot be read: {error}; where parts were replaced since this "
            "connection was made, connect anew; else `apm lake verify` says what is damaged"
        ) from error


def _stored(table: str) -> str:
    """Name the view of a table's parts: the table's own name, unless a view of ours has that."""
    return f"stored_{table}" if any(file.stem == table for file in VIEWS) else table


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
