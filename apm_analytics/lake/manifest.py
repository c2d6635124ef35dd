"""The manifest: a SQLite file that lists the parts of the current snapshot.

In:  descriptions of parts already written, hashes of the documents they came from.
Out: the live parts, the documents already imported, the unit each metric was first seen with.

Each commit of new data is a snapshot. SQLite provides atomicity, several writers and recovery
after kill -9 (docs/decisions/0001). Compaction and retention replace parts; the files of replaced
parts stay for a while, for readers that listed them before.

A manifest is never started where parts lie: every part would then look like the leftover of a
killed writer. `maintenance.rebuild` makes it again.
"""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from apm_analytics.foundation.atomic import sync_folder
from apm_analytics.foundation.errors import ApmError, NotFound

FILE_NAME = "manifest.sqlite"
BACKUP_NAME = "manifest.backup.sqlite"
# Writers hold the lock for milliseconds; after a minute something is stuck.
BUSY_TIMEOUT_S = 60.0
# Files of replaced parts stay this long, in seconds, for queries that listed them before.
GRACE_S = 3_600.0
# SQLite's default limit of bound variables in one statement is 32,766.
LOOKUP_CHUNK = 10_000

# A copy is repeated when the manifest changed meanwhile.
COPY_ATTEMPTS = 50
COPY_PAUSE_S = 0.02

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
    snapshot_id integer not null references snapshots (id),
    origin text not null,
    level integer not null,
    resolution_s integer not null
);
create table if not exists replaced_parts (
    path text primary key,
    table_name text not null,
    row_count integer not null,
    byte_count integer not null,
    first_time_ns integer not null,
    last_time_ns integer not null,
    sha256 text not null,
    snapshot_id integer not null,
    origin text not null,
    level integer not null,
    resolution_s integer not null,
    replaced_at_s real not null
);
create index if not exists parts_by_snapshot on parts (snapshot_id);
create index if not exists replaced_parts_by_snapshot on replaced_parts (snapshot_id);
create table if not exists erasures (
    id integer primary key autoincrement,
    erased_at_s real not null
);
create table if not exists documents (
    hash text primary key,
    snapshot_id integer not null references snapshots (id)
) without rowid;
create table if not exists damaged_parts (
    path text primary key,
    mtime_ns integer not null
) without rowid;
create index if not exists documents_by_snapshot on documents (snapshot_id);
create table if not exists metric_units (
    service_name text not null,
    metric_name text not null,
    unit text not null,
    primary key (service_name, metric_name)
) without rowid;
"""


_FIELDS = (
    "path, table_name, row_count, byte_count, first_time_ns, last_time_ns, sha256,"
    " snapshot_id, origin, level, resolution_s"
)


@dataclass(frozen=True)
class Part:
    """One immutable Parquet file; `path` is relative to the lake.

    `snapshot` is the newest commit whose rows are in it. `origin` is a hash of what it was made
    from; that of a compacted part is the sum over the parts that it replaced. `level` is 0 for a
    part as it arrived. `resolution_s` is 60 if metric points were rolled up.
    """

    path: str
    table: str
    rows: int
    bytes: int
    first_time_ns: int
    last_time_ns: int
    sha256: str
    snapshot: int = 0
    origin: str = ""
    level: int = 0
    resolution_s: int = 0


class LostManifest(ApmError):
    """The manifest is missing or unusable, and there are parts."""


class Manifest(sqlite3.Connection):
    """A connection that notices when its file was replaced, as `rebuild` does."""

    file: Path
    identity: tuple[int, int] | None

    def is_current(self) -> bool:
        """Return whether the path still leads to the file that was opened."""
        try:
            return _identity(self.file) == self.identity
        except FileNotFoundError:
            return False


@contextmanager
def open_manifest(lake: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the manifest in autocommit mode; writers use `transaction`.

    Raises
    ------
    NotFound
        There is no lake at `lake` and `create` is false.
    LostManifest
        The manifest is damaged, or missing or empty where parts lie.
    """
    file = lake / FILE_NAME
    if not file.exists() or not file.stat().st_size:
        _refuse_lost(lake, "missing" if not file.exists() else "empty")
        if not create:
            raise _absent(lake)
    try:
        if create:
            lake.mkdir(parents=True, exist_ok=True)
            with closing(_connected(file)) as con:
                con.execute("pragma journal_mode = wal")
                # A commit is on the disk when it returns, even if the power fails right after.
                con.execute("pragma synchronous = full")
                con.identity = _identity(file)  # the first statement has created it
                _prepare(con, lake)
                yield con
        else:
            with _reading(file) as con:
                if not _has(con, "parts"):
                    _refuse_lost(lake, "empty")
                    raise _absent(lake)  # its creator was killed before the first table
                yield con
    except sqlite3.OperationalError as error:
        if "decode" in str(error):  # the bytes of another page
            raise _lost(file, str(error)) from error
        raise ApmError(
            f"the manifest {file} could not be used: {error}; "
            "free disk space or wait for the other writer, then run the same command again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise _lost(file, str(error)) from error


@contextmanager
def transaction(con: sqlite3.Connection) -> Iterator[None]:
    """Run a block as one write transaction; roll back if it raises.

    Raises
    ------
    ApmError
        The manifest was replaced since it was opened; nothing was changed.
    """
    con.execute("begin immediate")
    try:
        if isinstance(con, Manifest) and not con.is_current():
            raise ApmError("the manifest was replaced meanwhile; run the same command again")
        yield
    except BaseException:
        con.execute("rollback")
        raise
    con.execute("commit")


def create_tables(con: sqlite3.Connection) -> None:
    """Create the tables that a manifest lacks."""
    for statement in _SCHEMA.split(";"):
        con.execute(statement)


def check(con: sqlite3.Connection) -> None:
    """Check every page of the manifest; for callers that act on what it does not name.

    Raises
    ------
    sqlite3.DatabaseError
        A page is damaged; `open_manifest` turns it into `LostManifest`.
    """
    [(said,)] = con.execute("pragma quick_check(1)").fetchall()
    if said != "ok":
        raise sqlite3.DatabaseError(str(said))


def back_up(lake: Path) -> None:
    """Copy the manifest to `BACKUP_NAME`, in one step, unless it is damaged.

    Raises
    ------
    LostManifest
        The manifest is damaged; the last backup stays.
    """
    temporary = lake / f".{BACKUP_NAME}.tmp"
    with open_manifest(lake) as con:
        check(con)
        temporary.unlink(missing_ok=True)
        with closing(sqlite3.connect(temporary)) as copy:
            con.backup(copy)
            copy.execute("pragma journal_mode = delete")
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
    os.replace(temporary, lake / BACKUP_NAME)
    sync_folder(lake)


def live_parts(con: sqlite3.Connection, table: str | None = None) -> list[Part]:
    """List the parts of the current snapshot, oldest data first."""
    rows = con.execute(
        f"select {_FIELDS} from parts where ?1 is null or table_name = ?1"
        " order by first_time_ns, path",
        (table,),
    )
    return [Part(*row) for row in rows]


def newest_snapshot(con: sqlite3.Connection) -> int:
    """Return the number of the last commit of new data; 0 before the first."""
    row = con.execute("select seq from sqlite_sequence where name = 'snapshots'").fetchone()
    return int(row[0]) if row else 0


def last_commit_s(con: sqlite3.Connection) -> float | None:
    """Return when new data was last committed, in seconds since 1970; None before the first."""
    row = con.execute(
        "select (julianday(committed_at) - 2440587.5) * 86400.0 from snapshots"
        " order by id desc limit 1"
    ).fetchone()
    return float(row[0]) if row else None


def arrived_parts(con: sqlite3.Connection, table: str, after: int) -> list[Part]:
    """List the parts that snapshots after `after` added, including those replaced since."""
    rows = con.execute(
        f"select {_FIELDS} from parts where snapshot_id > ?2 and table_name = ?1 and level = 0"
        f" union all select {_FIELDS} from replaced_parts"
        " where snapshot_id > ?2 and table_name = ?1 and level = 0",
        (table, after),
    )
    return sorted((Part(*row) for row in rows), key=lambda part: (part.snapshot, part.path))


def replaced_parts(con: sqlite3.Connection, before_s: float | None = None) -> list[Part]:
    """List replaced parts whose files exist; with `before_s`, those replaced before that time."""
    rows = con.execute(
        f"select {_FIELDS} from replaced_parts where ?1 is null or replaced_at_s < ?1", (before_s,)
    )
    return [Part(*row) for row in rows]


def replace_parts(
    con: sqlite3.Connection, old: Sequence[Part], new: Sequence[Part], now_s: float
) -> bool:
    """Replace old parts by new ones; the caller holds the transaction.

    Returns
    -------
    False, with nothing changed, if one of the old parts is no longer live.
    """
    live = [con.execute("select 1 from parts where path = ?", (p.path,)).fetchone() for p in old]
    if not all(live):
        return False
    con.executemany(
        f"insert into replaced_parts select {_FIELDS}, ? from parts where path = ?",
        [(now_s, part.path) for part in old],
    )
    con.executemany("delete from parts where path = ?", [(part.path,) for part in old])
    _insert(con, new)
    return True


def forget_replaced(con: sqlite3.Connection, gone: Sequence[Part], journal: set[str]) -> None:
    """Drop replaced parts whose files were deleted, with their documents and snapshots.

    Parameters
    ----------
    journal : documents that may be replayed and must stay known.
    """
    with transaction(con):
        con.executemany(
            "delete from replaced_parts where path = ?", [(part.path,) for part in gone]
        )
        for (snapshot,) in {(part.snapshot,) for part in gone}:
            replayable = con.execute(
                "select hash from documents where snapshot_id = ? and hash like 'journal:%'",
                (snapshot,),
            ).fetchall()
            # A replayed segment has a document per request: its own name, # and a place.
            done = [row for row in replayable if row[0].partition("#")[0] not in journal]
            con.executemany("delete from documents where hash = ?", done)
            con.execute(
                "delete from snapshots where id = ?1"
                " and not exists (select 1 from parts where snapshot_id = ?1)"
                " and not exists (select 1 from replaced_parts where snapshot_id = ?1)"
                " and not exists (select 1 from documents where snapshot_id = ?1)",
                (snapshot,),
            )


def damage_marks(con: sqlite3.Connection) -> dict[str, int]:
    """Return the parts whose content did not match their hash, with the time of that file (ns)."""
    if not _has(con, "damaged_parts"):  # a manifest of an earlier version
        return {}
    return dict(con.execute("select path, mtime_ns from damaged_parts").fetchall())


def mark_damaged(con: sqlite3.Connection, marks: Mapping[str, int]) -> None:
    """Record damaged parts, so that later readers need not find them."""
    with transaction(con):
        con.executemany("insert or replace into damaged_parts values (?, ?)", marks.items())


def drop_parts(con: sqlite3.Connection, parts: Sequence[Part]) -> None:
    """Drop live parts without replacing them; the caller holds the transaction."""
    paths = [(part.path,) for part in parts]
    con.executemany("delete from parts where path = ?", paths)
    con.executemany("delete from damaged_parts where path = ?", paths)


def erasures(con: sqlite3.Connection) -> int:
    """Return the number of erasures; readers that hold rows must reload after each."""
    return int(con.execute("select coalesce(max(id), 0) from erasures").fetchone()[0])


def known_documents(con: sqlite3.Connection, hashes: Sequence[str]) -> set[str]:
    """Return those of the document hashes that were committed before."""
    known: set[str] = set()
    for start in range(0, len(hashes), LOOKUP_CHUNK):
        chunk = hashes[start : start + LOOKUP_CHUNK]
        marks = ",".join("?" * len(chunk))
        rows = con.execute(f"select hash from documents where hash in ({marks})", chunk)
        known.update(row[0] for row in rows)
    return known


def add_snapshot(
    con: sqlite3.Connection, parts: Iterable[Part], documents: Sequence[str], source: str
) -> int:
    """Record parts and documents as one new snapshot; the caller holds the transaction."""
    snapshot = con.execute("insert into snapshots (source) values (?)", (source,)).lastrowid
    assert snapshot is not None  # an insert has a row id
    _insert(con, [replace(part, snapshot=snapshot) for part in parts])
    con.executemany("insert into documents values (?, ?)", [(h, snapshot) for h in documents])
    return snapshot


def establish_units(
    con: sqlite3.Connection, seen: Iterable[tuple[str, str, str]]
) -> dict[tuple[str, str], str]:
    """Register new (service, metric, unit); return the unit each metric was first seen with."""
    established: dict[tuple[str, str], str] = {}
    with transaction(con):
        for service, metric, unit in seen:
            con.execute(
                "insert or ignore into metric_units values (?, ?, ?)", (service, metric, unit)
            )
            row = con.execute(
                "select unit from metric_units where service_name = ? and metric_name = ?",
                (service, metric),
            ).fetchone()
            established[service, metric] = row[0]
    return established


def _connected(file: Path) -> Manifest:
    con = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None, factory=Manifest)
    con.file, con.identity = file, _identity(file) if file.exists() else None
    return con


@contextmanager
def _reading(file: Path) -> Iterator[Manifest]:
    """Open a manifest that this process may not be allowed to write.

    SQLite reads a write-ahead log with the help of an index file. Where there is none and it may
    not create one, no other process has the manifest open, and a copy is read.
    """
    with ExitStack() as stack:
        con = stack.enter_context(closing(_connected(file)))
        try:
            _has(con, "parts")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (
                sqlite3.SQLITE_CANTOPEN,
                sqlite3.SQLITE_READONLY,
            ):
                raise
            folder = stack.enter_context(TemporaryDirectory(prefix="apm-manifest-"))
            copy = _copied(file, Path(folder))
            if copy is None:
                raise
            con = stack.enter_context(closing(_connected(copy)))
        yield con


def _copied(file: Path, folder: Path) -> Path | None:
    """Copy a manifest with its logs; None while another process keeps changing it."""
    sources = [file.with_name(file.name + ending) for ending in ("", "-wal", "-journal")]
    for _ in range(COPY_ATTEMPTS):
        before = [_version(source) for source in sources]
        for source, version in zip(sources, before, strict=True):
            copy = folder / source.name
            copy.unlink(missing_ok=True)
            if version is not None:
                copy.write_bytes(source.read_bytes())
        if before == [_version(source) for source in sources]:
            return folder / file.name
        time.sleep(COPY_PAUSE_S)
    return None


def _version(file: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written; None without the file."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _insert(con: sqlite3.Connection, parts: Iterable[Part]) -> None:
    # A part of the same name has the same documents: it was taken in by `rebuild`.
    con.executemany(
        f"insert or replace into parts ({_FIELDS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [astuple(part) for part in parts],
    )


def _prepare(con: sqlite3.Connection, lake: Path) -> None:
    """Create the tables of a new manifest, and those that an earlier version did not have."""
    if _has(con, "damaged_parts"):
        return
    with transaction(con):
        if not _has(con, "parts"):
            _refuse_lost(lake, "empty")
        create_tables(con)


def _has(con: sqlite3.Connection, table: str) -> bool:
    named = con.execute("select 1 from sqlite_master where name = ?", (table,)).fetchone()
    return named is not None


def _identity(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_dev, found.st_ino


def _refuse_lost(lake: Path, state: str) -> None:
    """Raise if parts lie in a lake without a manifest."""
    if next(lake.glob("*/date=*/hour=*/*.parquet"), None) is not None:
        raise _lost(lake / FILE_NAME, f"it is {state}, and there are parts beside it")


def _lost(file: Path, reason: str) -> LostManifest:
    return LostManifest(
        f"{file} is not a usable manifest: {reason}; `apm lake rebuild` makes it again from the "
        "parts and its last backup"
    )


def _absent(lake: Path) -> NotFound:
    return NotFound(
        f"no lake at {lake} (no {FILE_NAME} in it); "
        "import telemetry with `apm import PATH --lake DIR` or run `apm simulate`"
    )
