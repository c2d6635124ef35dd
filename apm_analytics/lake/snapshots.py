"""Write Arrow tables into the lake as immutable Parquet parts, atomically.

In:  Arrow tables with the columns of `lake.schema`, one per lake table.
Out: `<table>/date=YYYY-MM-DD/hour=HH/<part>.parquet`, UTC, sorted by time, and a new snapshot
     in the manifest that makes them visible together.
"""

import hashlib
import time
import uuid
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa

from apm_analytics.foundation.errors import ApmError, BadInput, NotFound
from apm_analytics.lake import damage, manifest, parts, quarantine
from apm_analytics.lake.manifest import open_manifest, transaction
from apm_analytics.lake.parquet.schemas import plain
from apm_analytics.lake.schema import TABLES

# Unnamed files older than this are from a writer that was killed.
ABANDONED_S = 3_600.0


def append(
    lake: Path,
    tables: Mapping[str, pa.Table],
    *,
    documents: Sequence[str] = (),
    source: str = "",
) -> int:
    """Add rows to the lake as one snapshot; after a crash either all are there or none.

    Parameters
    ----------
    tables : lake table name -> Arrow table with exactly the columns of `schema.TABLES`.
    documents : hashes of the documents the rows came from; each is imported once.
    source : where the rows came from, for the manifest.

    Returns
    -------
    The number of rows committed; 0 if every document was imported before.

    Raises
    ------
    BadInput
        An unknown table, or columns that are not those of its schema.
    ApmError
        The disk is full or read-only, or another process is importing some of the same
        documents; nothing was committed and the call may be repeated.
    """
    checked = {name: _conform(name, table) for name, table in tables.items()}
    filled = [name for name, table in checked.items() if table.num_rows]
    name = _part_name(documents)
    facts = parts.Facts(name, documents=tuple(documents), source=source)
    written: list[parts.Written] = []
    try:
        with open_manifest(lake, create=True) as con:
            if documents and len(manifest.known_documents(con, documents)) == len(set(documents)):
                return 0
            for table_name in filled:
                own = facts.numbered(len(written), last=table_name == filled[-1])
                written.extend(parts.write_parts(lake, table_name, checked[table_name], name, own))
            with transaction(con):
                known = manifest.known_documents(con, documents)
                if known:
                    raise ApmError(
                        f"{len(known)} of {len(documents)} documents were imported by another "
                        "process meanwhile; run the same import again to add the rest"
                    )
                manifest.add_snapshot(con, (part for _, part in written), documents, source)
                # A crash between the renames and the commit leaves files that no manifest names;
                # the next import of the same documents replaces them.
                parts.put_in_place(lake, written)
    except OSError as error:
        raise ApmError(
            f"could not write to the lake {lake}: {error}; nothing of this batch was kept; "
            "free space or repair the disk, then run the same command again"
        ) from error
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
    return sum(part.rows for _, part in written)


@contextmanager
def kept_open(lake: Path) -> Iterator[None]:
    """Hold the manifest open during many small appends.

    The last connection to close writes SQLite's log back, which takes longer than an append.
    """
    with open_manifest(lake, create=True):
        yield


def known_documents(lake: Path, hashes: Sequence[str]) -> set[str]:
    """Return the document hashes that the lake knows; none if there is no lake yet."""
    try:
        with open_manifest(lake) as con:
            return manifest.known_documents(con, hashes)
    except NotFound:
        return set()


def check_units(lake: Path, seen: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], str]:
    """Return the unit of each (service, metric) in this lake, registering new ones.

    Parameters
    ----------
    seen : (service_name, metric_name, unit) triples.

    Returns
    -------
    (service_name, metric_name) -> the unit it was first seen with.
    """
    with open_manifest(lake, create=True) as con:
        return manifest.establish_units(con, seen)


def data_hash(lake: Path) -> str:
    """Return one hash of all data that can be read; compaction does not change it."""
    readable = damage.listing(lake).parts
    return hashlib.sha256(parts.sum_of_origins(readable).encode()).hexdigest()


def status(lake: Path) -> pl.DataFrame:
    """Return one row per table with its parts, rows, bytes, and first and last time in UTC."""
    with open_manifest(lake) as con:
        live = manifest.live_parts(con)
    rows = []
    for table in TABLES:
        of_table = [part for part in live if part.table == table]
        rows.append(
            {
                "table": table,
                "parts": len(of_table),
                "rows": sum(part.rows for part in of_table),
                "bytes": sum(part.bytes for part in of_table),
                "first_time": _utc(min((part.first_time_ns for part in of_table), default=None)),
                "last_time": _utc(max((part.last_time_ns for part in of_table), default=None)),
            }
        )
    time_type = pl.Datetime("us")
    return pl.DataFrame(rows, schema_overrides={"first_time": time_type, "last_time": time_type})


def newest(lake: Path) -> int:
    """Return the number of the last commit of new data; 0 if there is no lake yet."""
    try:
        with open_manifest(lake) as con:
            return manifest.newest_snapshot(con)
    except NotFound:
        return 0


def set_leftovers_aside(lake: Path, documents: Collection[str]) -> None:
    """Move the parts of a killed append to quarantine, before its documents are appended again.

    The manifest forgets the documents of a journal in time, and `rebuild` would count rows twice.
    """
    with open_manifest(lake) as con:
        named = {part.path for part in manifest.live_parts(con) + manifest.replaced_parts(con)}
    unnamed = [
        file
        for table in TABLES
        for file in (lake / table).glob("date=*/hour=*/*.parquet")
        if str(file.relative_to(lake)) not in named
    ]
    commits = set()
    for file in unnamed:
        facts = parts.read_facts(file)
        # A segment that is replayed has the documents `<its own>#<place>`.
        if facts and any(name.partition("#")[0] in documents for name in facts.documents):
            commits.add(facts.commit)
    for file in unnamed:
        if file.stem in commits:
            quarantine.move(lake, file, quarantine.REPLACED)


def sweep(lake: Path, *, now_s: float | None = None) -> int:
    """Move files that no snapshot names, and are older than an hour, to quarantine.

    They are leftovers of killed writers, or the manifest is not the newest one. Temporary files are
    removed, and so is what has been in quarantine for `quarantine.KEPT_DAYS`.

    Returns
    -------
    The number of files moved or removed.
    """
    now_s = time.time() if now_s is None else now_s
    with open_manifest(lake) as con:
        manifest.check(con)
        named = {part.path for part in manifest.live_parts(con) + manifest.replaced_parts(con)}
    limit = now_s - ABANDONED_S
    unknown = [
        file
        for table in TABLES
        for file in (lake / table).rglob("*")
        if file.is_file()
        and str(file.relative_to(lake)) not in named
        and file.stat().st_mtime < limit
    ]
    moved = 0
    for file in unknown:
        if quarantine.is_temporary(file):
            file.unlink(missing_ok=True)
        else:
            quarantine.move(lake, file, quarantine.UNKNOWN, now_s=now_s)
            moved += 1
    if moved:
        warnings.warn(
            f"{moved:,} files that the manifest of {lake} does not name were moved to quarantine; "
            "if the manifest was restored from an older copy, `apm lake rebuild` takes them in",
            damage.PartsLeftOut,
            stacklevel=2,
        )
    return len(unknown) + quarantine.expire(lake, now_s=now_s)


def _conform(name: str, table: pa.Table) -> pa.Table:
    """Return `table` in the column order and types of its schema."""
    if name not in TABLES:
        raise BadInput(f"no lake table is called {name!r}; there are {', '.join(TABLES)}")
    schema = TABLES[name]
    if table.schema.names != schema.names and set(table.column_names) != set(schema.names):
        odd = sorted(set(table.column_names) ^ set(schema.names))
        raise BadInput(f"columns of {name} do not fit its schema, see lake/schema.py: {odd}")
    return pa.table([_column(name, table[field.name], field) for field in schema], schema.names)


def _column(table_name: str, values: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return a column in its type; text may stay dictionary-encoded, also inside maps."""
    if values.type != field.type and plain(values.type) != field.type:
        try:
            values = values.cast(field.type)
        except pa.ArrowException as error:
            raise BadInput(
                f"column {field.name} of {table_name} is not {field.type}: {error}"
            ) from error
    if not field.nullable and values.null_count:
        raise BadInput(
            f"column {field.name} of {table_name} is null in {values.null_count} rows, "
            "and is required; see lake/schema.py"
        )
    return values


def _part_name(documents: Sequence[str]) -> str:
    """Name parts after their documents, so that a repeated import replaces its leftovers."""
    if not documents:
        return uuid.uuid4().hex
    return hashlib.blake2b("\n".join(sorted(documents)).encode(), digest_size=16).hexdigest()


def _utc(time_ns: int | None) -> datetime | None:
    if time_ns is None:
        return None
    return datetime.fromtimestamp(time_ns / 1e9, UTC).replace(tzinfo=None)
