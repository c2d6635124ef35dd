"""Query the lake: DuckDB with one view per table, and named queries from `lake/sql/<topic>/`.

In:  the folder of a lake; SQL, or the name of a query and its parameters.
Out: a DuckDB connection, Polars frames.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import duckdb
import polars as pl
import pyarrow as pa

from apm_analytics.foundation.errors import BadInput, BadParameter, NotFound
from apm_analytics.lake import damage
from apm_analytics.lake.damage import LeftOut, Listing
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


# A query is asked again when parts were replaced meanwhile, and once per newly found damage.
RENEWALS = 10
# The view of the parts that are left out of a connection.
MISSING_PARTS = "missing_parts"
_MISSING_COLUMNS = pa.schema(
    {
        "table_name": pa.string(),
        "path": pa.string(),
        "reason": pa.string(),
        "row_count": pa.int64(),
        "first_time": pa.timestamp("us"),
        "last_time": pa.timestamp("us"),
    }
)
_LAKE = "apm_lake"  # DuckDB variable of a connection
_Result = TypeVar("_Result")


def connect(lake: Path) -> Connection:
    """Open the current snapshot of a lake; later imports do not change what it shows.

    Parts that are missing or damaged are left out with the warning `damage.PartsLeftOut`. When
    parts were replaced more than `manifest.GRACE_S` ago or erased, the queries of this module
    renew the snapshot.

    Returns
    -------
    An in-memory DuckDB connection, time zone UTC, with one view per table of `schema.TABLES` and
    those of `lake/sql/views`: `spans` with a `sample_weight`, `entry_spans`. A table without
    parts is an empty view. `missing_parts` lists the parts that are left out.

    Raises
    ------
    NotFound
        No lake at `lake`.
    LostManifest
        The manifest is missing or damaged.
    BadInput
        A part cannot be read, although it is as it was written.
    """
    con = offline()
    con.execute(f"set variable {_LAKE} = $lake", {"lake": str(lake.resolve())})
    try:
        attempt(con, lambda: _show(con, lake))
    except SqlError as error:
        raise BadInput(
            f"a part of {lake} cannot be read: {error}; see that this user may read the files and "
            "open enough of them"
        ) from error
    return con


def attempt(con: Connection, ask: Callable[[], _Result]) -> _Result:
    """Call `ask`; while it fails because of parts, renew what the connection shows and repeat.

    Parameters
    ----------
    con : from `connect`; on others `ask` is called once.
    ask : reads from `con`; changes nothing if it fails.
    """
    for _ in range(RENEWALS):
        try:
            return ask()
        except (SqlError, RuntimeError) as error:
            [(lake,)] = con.execute(f"select getvariable('{_LAKE}')").fetchall()
            if lake is None or not damage.explains(Path(lake), error):
                raise
            _renew(con, Path(lake))
    return ask()


def _renew(con: Connection, lake: Path) -> None:
    try:
        _show(con, lake)
    except (SqlError, RuntimeError) as error:
        # The next attempt fails too, and leaves out what is damaged.
        if not damage.explains(lake, error):
            raise


def _show(con: Connection, lake: Path) -> None:
    """Create the views of a lake, without parts that cannot be read."""
    listing = damage.listing(lake)
    for table in TABLES:
        _show_table(con, lake, table, listing)
    con.register(MISSING_PARTS, _missing(listing.left_out))
    create_views(con, [file.stem for file in VIEWS])
    damage.warn(lake, listing.left_out)


def _show_table(con: Connection, lake: Path, table: str, listing: Listing) -> None:
    name = _stored(table)
    files = [literally(lake / part.path) for part in listing.parts if part.table == table]
    if files:
        listed = ", ".join(_quoted(file) for file in files)
        con.execute(
            f"create or replace temp view {name} as"
            f" select * from read_parquet([{listed}], hive_partitioning = false)"
        )
    else:
        con.register(name, TABLES[table].empty_table())


def _missing(left_out: Sequence[LeftOut]) -> pa.Table:
    rows = [
        (
            each.part.table,
            each.part.path,
            each.reason,
            each.part.rows,
            each.part.first_time_ns // 1000,
            each.part.last_time_ns // 1000,
        )
        for each in left_out
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(_MISSING_COLUMNS)
    return pa.table(
        [pa.array(list(v), f.type) for v, f in zip(columns, _MISSING_COLUMNS, strict=True)],
        schema=_MISSING_COLUMNS,
    )


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
    """Run one statement and return its rows as a Polars frame; see `attempt`.

    Raises
    ------
    BadInput
        The statement returns no rows, such as SET; or a file cannot be read.
    """

    def ask() -> pl.DataFrame:
        relation = con.sql(sql, params=parameters)
        if relation is None:
            raise BadInput("the statement returns no rows; use SELECT, DESCRIBE or SUMMARIZE")
        return pl.DataFrame(relation.to_arrow_table())

    try:
        return attempt(con, ask)
    except duckdb.IOException as error:
        raise BadInput(
            f"a file cannot be read: {error}; see that this user may read it and open enough files"
        ) from error


def execute(con: Connection, sql: str, parameters: dict[str, object] | None = None) -> Connection:
    """Run one statement, such as CREATE TEMP TABLE, and return its result; see `attempt`."""
    return attempt(con, lambda: con.execute(sql, parameters))


def _stored(table: str) -> str:
    """Return the name of the view of a table's parts, `stored_<table>` if a view has its name."""
    return f"stored_{table}" if any(file.stem == table for file in VIEWS) else table


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
