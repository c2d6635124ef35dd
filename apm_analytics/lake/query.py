"""Query the lake: DuckDB with one view per table, and named queries from `lake/sql/<topic>/`.

In:  the folder of a lake; SQL, or the name of a query and its parameters.
Out: a DuckDB connection, Polars frames.
"""

import re
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

_PATTERN = re.compile(r"[*?[]")
SQL_FOLDER = Path(__file__).parent / "sql"
VIEWS = sorted((SQL_FOLDER / "views").glob("*.sql"))
# The name of a query is the name of its file, whatever its topic: names are unique.
QUERIES = {
    file.stem: file for file in sorted(SQL_FOLDER.glob("*/*.sql")) if file.parent.name != "views"
}


def connect(lake: Path) -> Connection:
    """Open the current snapshot of a lake; later imports do not change what it shows.

    Returns
    -------
    An in-memory DuckDB connection, time zone UTC, with one view per table of `schema.TABLES` and
    those of `lake/sql/views`: `spans` with a `sample_weight`, `entry_spans`. A table without
    parts is an empty view.

    Files of replaced parts stay for `manifest.GRACE_S`; after that, open a new connection.

    Raises
    ------
    NotFound
        No lake at `lake`.
    BadInput
        A part that the manifest names is missing or damaged.
    """
    with manifest.open_manifest(lake) as snapshot:
        parts = manifest.live_parts(snapshot)
    con = offline()
    for table, schema in TABLES.items():
        name = _stored(table)
        files = [literally(lake / part.path) for part in parts if part.table == table]
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


def literally(file: Path) -> str:
    """Return a path for `read_parquet`, which takes `*`, `?` and `[` for a pattern.

    A pattern that is not meant as one reads another lake's files, if their names match.

    Raises
    ------
    BadParameter
        The path has such a character and a backslash, which DuckDB cannot escape.
    """
    path = str(file.resolve())
    escaped = _PATTERN.sub(r"[\g<0>]", path)
    if escaped != path and "\\" in path:
        raise BadParameter(
            f"{path} has a backslash and one of * ? [ in it, which DuckDB cannot read; "
            "move the lake to a folder without them"
        )
    return escaped


def offline() -> Connection:
    """Open an empty in-memory DuckDB that never uses the network, time zone UTC."""
    con = duckdb.connect()
    # A query must not wait for the download of an extension.
    con.execute("set autoinstall_known_extensions = false")
    con.execute("set autoload_known_extensions = false")
    con.execute("set timezone = 'UTC'")
    # The progress bar would end up in piped output. In Jupyter it is off already, and setting it
    # there needs a package that nothing else needs.
    [(shown,)] = con.sql("select current_setting('enable_progress_bar')").fetchall()
    if shown:
        con.execute("set enable_progress_bar = false")
    return con


def create_views(con: Connection, views: Sequence[str]) -> None:
    """Create views of `lake/sql/views`; a view named like a table reads `stored_<table>`."""
    # The view of a table comes before the views that read it.
    for file in sorted(VIEWS, key=lambda file: file.stem not in TABLES):
        if file.stem not in views:
            continue
        head = f"create or replace view {file.stem} as"
        try:
            con.execute(f"{head} {file.read_text()}")
        except duckdb.BinderException:
            if file.stem not in TABLES:
                raise
            # The stored columns do not fit; the quality suite must be able to read and report them.
            con.execute(f"{head} select * from {_stored(file.stem)}")


def names() -> list[str]:
    """List the named queries."""
    return sorted(QUERIES)


def text(name: str) -> str:
    """Return the SQL of a named query.

    Raises
    ------
    NotFound
        No such query; the message lists the existing ones.
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
    """
    sql = text(name)
    try:
        return frame(con, sql, parameters)
    except duckdb.InvalidInputException as error:
        raise BadParameter(
            f"query {name!r} and its parameters {sorted(parameters)} do not fit: {error}"
        ) from error


def frame(con: Connection, sql: str, parameters: dict[str, object] | None = None) -> pl.DataFrame:
    """Run one statement and return its rows as a Polars frame.

    Raises
    ------
    BadInput
        The statement returns no rows, such as SET; or a part's file was removed, because it was
        replaced more than `manifest.GRACE_S` ago or erased.
    """
    try:
        relation = con.sql(sql, params=parameters)
        if relation is None:
            raise BadInput("the statement returns no rows; use SELECT, DESCRIBE or SUMMARIZE")
        return pl.DataFrame(relation.to_arrow_table())
    except duckdb.IOException as error:
        raise BadInput(
            f"a file of the lake cannot be read: {error}; if parts were replaced since this "
            "connection was opened, connect again; else `apm lake verify` lists what is damaged"
        ) from error


def _stored(table: str) -> str:
    """Return the name of the view of a table's parts, `stored_<table>` if a view has its name."""
    return f"stored_{table}" if any(file.stem == table for file in VIEWS) else table


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
