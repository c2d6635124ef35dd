"""Which parts make up the lake now: one SQLite file that every reader and writer agrees on.

In:  descriptions of parts already written, hashes of the documents they came from.
Out: the live parts, the documents already imported, the unit each metric was first seen with.

A snapshot is one commit here. SQLite gives it atomicity, several writers and recovery after
kill -9 without a line of ours (docs/decisions/0001).
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from apm_analytics.errors import ApmError, BadInput, NotFound

FILE_NAME = "manifest.sqlite"
# Another importer holds the write lock for milliseconds; a minute means something is stuck.
BUSY_TIMEOUT_S = 60.0
# SQLite's default limit of bound variables in one statement is 32,766.
LOOKUP_CHUNK = 10_000

_SCHEMA = """
create table if not exists snapshots (
    id integer primary key autoincrement,
    committed_at text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    source text not null
);
create table if not exists parts (
    path text primary key,
    table_name text not null,
    row_count integer not null,
    byte_count integer not null,
    first_time_ns integer not null,
    last_time_ns integer not null,
    sha256 text not null,
    snapshot_id integer not null references snapshots (id)
);
create table if not exists documents (
    hash text primary key,
    snapshot_id integer not null references snapshots (id)
) without rowid;
create table if not exists metric_units (
    service_name text not null,
    metric_name text not null,
    unit text not null,
    primary key (service_name, metric_name)
) without rowid;
"""


@dataclass(frozen=True)
class Part:
    """One immutable Parquet file; `path` is relative to the lake."""

    path: str
    table: str
    rows: int
    bytes: int
    first_time_ns: int
    last_time_ns: int
    sha256: str


@contextmanager
def open_manifest(lake: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the manifest in autocommit mode; writers start their transaction themselves.

    Raises
    ------
    NotFound
        There is no lake at `lake` and `create` is false.
    BadInput
        The manifest is no SQLite file.
    """
    file = lake / FILE_NAME
    missing = NotFound(
        f"no lake at {lake} (no {FILE_NAME} in it); "
        "import telemetry with `apm import PATH --lake DIR` or run `apm simulate`"
    )
    if not create and not file.exists():
        raise missing
    if create:
        lake.mkdir(parents=True, exist_ok=True)
    con = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        # A read-only lake has no write-ahead log to switch to; reading works all the same.
        if create:
            con.execute("pragma journal_mode = wal")
            con.executescript(_SCHEMA)
        elif not con.execute("select 1 from sqlite_master where name = 'parts'").fetchone():
            raise missing  # whoever made the file was stopped before its first table
        yield con
    except sqlite3.OperationalError as error:
        raise ApmError(
            f"the manifest {file} could not be used: {error}; "
            "free disk space or wait for the other writer, then run the same command again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise BadInput(
            f"{file} is no usable manifest: {error}; "
            "restore it from a backup, or import the original files into a new lake"
        ) from error
    finally:
        con.close()


@contextmanager
def transaction(con: sqlite3.Connection) -> Iterator[None]:
    """Hold the write lock for a block; commit at its end, roll back when it raises."""
    con.execute("begin immediate")
    try:
        yield
    except BaseException:
        con.execute("rollback")
        raise
    con.execute("commit")


def live_parts(con: sqlite3.Connection, table: str | None = None) -> list[Part]:
    """List the parts of the present snapshot, oldest data first."""
    rows = con.execute(
        "select path, table_name, row_count, byte_count, first_time_ns, last_time_ns, sha256"
        " from parts where ?1 is null or table_name = ?1 order by first_time_ns, path",
        (table,),
    )
    return [Part(*row) for row in rows]


def known_documents(con: sqlite3.Connection, hashes: Sequence[str]) -> set[str]:
    """Tell which of the documents were committed before."""
    known: set[str] = set()
    for start in range(0, len(hashes), LOOKUP_CHUNK):
        chunk = hashes[start : start + LOOKUP_CHUNK]
        marks = ",".join("?" * len(chunk))
        found = con.execute(f"select hash from documents where hash in ({marks})", chunk)
        known.update(row[0] for row in found)
    return known


def add_snapshot(
    con: sqlite3.Connection, parts: Iterable[Part], documents: Sequence[str], source: str
) -> int:
    """Record parts and documents as one new snapshot; the caller holds the transaction."""
    snapshot = con.execute("insert into snapshots (source) values (?)", (source,)).lastrowid
    assert snapshot is not None  # an insert without conflict clause always has a row id
    con.executemany(
        "insert into parts values (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (p.path, p.table, p.rows, p.bytes, p.first_time_ns, p.last_time_ns, p.sha256, snapshot)
            for p in parts
        ],
    )
    con.executemany("insert into documents values (?, ?)", [(h, snapshot) for h in documents])
    return snapshot


def establish_units(
    con: sqlite3.Connection, seen: Iterable[tuple[str, str, str]]
) -> dict[tuple[str, str], str]:
    """Register (service, metric, unit) where new; give the unit each metric was first seen with."""
    established: dict[tuple[str, str], str] = {}
    with transaction(con):
        for service, metric, unit in seen:
            con.execute(
                "insert or ignore into metric_units values (?, ?, ?)", (service, metric, unit)
            )
            found = con.execute(
                "select unit from metric_units where service_name = ? and metric_name = ?",
                (service, metric),
            ).fetchone()
            established[service, metric] = found[0]
    return established
