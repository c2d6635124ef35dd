"""Write Arrow tables into the lake as immutable Parquet parts, all or nothing.

In:  Arrow tables with the columns of `lake.schema`, one a lake table.
Out: `<table>/date=YYYY-MM-DD/hour=HH/<part>.parquet`, UTC, sorted by time, and a new snapshot
     in the manifest that makes them visible together.
"""

import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apm_analytics.errors import ApmError, BadInput, NotFound
from apm_analytics.lake import manifest
from apm_analytics.lake.manifest import Part, open_manifest, transaction
from apm_analytics.lake.schema import TABLES

NS_PER_HOUR = 3_600 * 10**9
# Hours of one day share a part until it holds this many rows (docs/decisions/0003).
ROWS_A_PART = 50_000
# Level 1 of zstd: twice the size of a span costs less than the CPU of a higher level.
COMPRESSION_LEVEL = 1
# Readers prune by these; statistics on every column cost as much as the columns themselves.
STATISTICS = ("time", "duration_ns", "service_name", "trace_id", "name", "status_code")
# Ids never repeat, so a dictionary of them is pure loss.
NO_DICTIONARY = frozenset({"trace_id", "span_id", "parent_span_id", "time", "duration_ns"})
# A writer that was killed leaves its temporary files; after this long it is surely gone.
ABANDONED_S = 3_600.0


def append(
    lake: Path,
    tables: Mapping[str, pa.Table],
    *,
    documents: Sequence[str] = (),
    source: str = "",
) -> int:
    """Add rows to the lake as one snapshot: after a crash they are all there or none is.

    Parameters
    ----------
    lake : folder of the lake; made when missing.
    tables : lake table name -> Arrow table with exactly the columns of `schema.TABLES`.
    documents : hashes of the documents the rows came from; a document is taken once.
    source : where the rows came from, for the manifest.

    Returns
    -------
    The number of rows committed; 0 when every document was known already.

    Raises
    ------
    BadInput
        An unknown table, or columns that are not those of its schema.
    ApmError
        The disk refused (full, read-only), or another process is importing some of the same
        documents; nothing was committed and the same call may be made again.

    Examples
    --------
    >>> append(Path("data/lake"), {"logs": table}, source="app.log")  # doctest: +SKIP
    1200
    """
    checked = {name: _conform(name, table) for name, table in tables.items()}
    name = _part_name(documents)
    written: list[tuple[Path, Part]] = []
    try:
        with open_manifest(lake, create=True) as con:
            if documents and len(manifest.known_documents(con, documents)) == len(set(documents)):
                return 0
            for table_name, table in checked.items():
                written.extend(_write_parts(lake, table_name, table, name))
            with transaction(con):
                known = manifest.known_documents(con, documents)
                if known:
                    raise ApmError(
                        f"{len(known)} of {len(documents)} documents were imported by another "
                        "process meanwhile; run the same import again to add the rest"
                    )
                # Renamed inside the transaction: a crash before the commit leaves files that no
                # manifest names, and the next import of the same documents replaces them.
                for temporary, part in written:
                    os.replace(temporary, lake / part.path)
                manifest.add_snapshot(con, (part for _, part in written), documents, source)
    except OSError as error:
        raise ApmError(
            f"could not write to the lake {lake}: {error}; nothing of this batch was kept; "
            "free space or mend the disk, then run the same command again"
        ) from error
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
    return sum(part.rows for _, part in written)


def known_documents(lake: Path, hashes: Sequence[str]) -> set[str]:
    """Tell which document hashes the lake holds already; none where there is no lake yet."""
    try:
        with open_manifest(lake) as con:
            return manifest.known_documents(con, hashes)
    except NotFound:
        return set()


def check_units(lake: Path, seen: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], str]:
    """Give the unit that each (service, metric) has in this lake, registering new ones.

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
    """Give one hash for all data of the present snapshot: equal parts, equal hash."""
    with open_manifest(lake) as con:
        digest = hashlib.sha256()
        for part in sorted(manifest.live_parts(con), key=lambda part: part.path):
            digest.update(f"{part.path}\0{part.sha256}\n".encode())
    return digest.hexdigest()


def status(lake: Path) -> pl.DataFrame:
    """Sum up the lake: one row a table with parts, rows, bytes and its span of time, UTC."""
    with open_manifest(lake) as con:
        parts = manifest.live_parts(con)
    rows = []
    for table in TABLES:
        own = [part for part in parts if part.table == table]
        rows.append(
            {
                "table": table,
                "parts": len(own),
                "rows": sum(part.rows for part in own),
                "bytes": sum(part.bytes for part in own),
                "first_time": _utc(min((part.first_time_ns for part in own), default=None)),
                "last_time": _utc(max((part.last_time_ns for part in own), default=None)),
            }
        )
    time_type = pl.Datetime("us")
    return pl.DataFrame(rows, schema_overrides={"first_time": time_type, "last_time": time_type})


def sweep(lake: Path) -> int:
    """Remove what killed writers left: files no snapshot names, older than an hour.

    Returns
    -------
    The number of files removed.
    """
    with open_manifest(lake) as con:
        live = {part.path for part in manifest.live_parts(con)}
    limit = time.time() - ABANDONED_S
    removed = 0
    for table in TABLES:
        for file in (lake / table).glob("date=*/hour=*/*"):
            if str(file.relative_to(lake)) not in live and file.stat().st_mtime < limit:
                file.unlink(missing_ok=True)
                removed += 1
    return removed


def _conform(name: str, table: pa.Table) -> pa.Table:
    """Give `table` in the schema's column order and types, or say what does not fit."""
    if name not in TABLES:
        raise BadInput(f"no lake table is called {name!r}; there are {', '.join(TABLES)}")
    schema = TABLES[name]
    if set(table.column_names) != set(schema.names):
        odd = sorted(set(table.column_names) ^ set(schema.names))
        raise BadInput(f"columns of {name} do not fit its schema, see lake/schema.py: {odd}")
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, ValueError) as error:
        raise BadInput(f"rows of {name} do not fit its schema: {error}") from error


def _part_name(documents: Sequence[str]) -> str:
    """Name parts after their documents, so that a repeated import meets its own leftovers."""
    if not documents:
        return uuid.uuid4().hex
    return hashlib.blake2b("\n".join(sorted(documents)).encode(), digest_size=16).hexdigest()


def _write_parts(
    lake: Path, table_name: str, table: pa.Table, name: str
) -> Iterator[tuple[Path, Part]]:
    """Write one temporary file a part; give it with the part it will become."""
    times = table["time"].cast(pa.int64()).to_numpy()
    if len(times) > 1 and np.any(np.diff(times) < 0):
        table = table.take(pc.sort_indices(table, sort_keys=[("time", "ascending")]))
        times = table["time"].cast(pa.int64()).to_numpy()
    hours = times // NS_PER_HOUR
    starts = _part_starts(hours)
    for start, stop in zip(starts, [*starts[1:], len(times)], strict=True):
        hour = datetime.fromtimestamp(int(hours[start]) * 3_600, UTC)
        folder = lake / table_name / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.parquet"
        # The dot hides it from every engine that globs for Parquet.
        temporary = folder / f".{name}.{os.getpid()}.tmp"
        rows = table.slice(start, stop - start)
        try:
            sha256 = _write_file(temporary, rows)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        yield (
            temporary,
            Part(
                path=str(file.relative_to(lake)),
                table=table_name,
                rows=rows.num_rows,
                bytes=temporary.stat().st_size,
                first_time_ns=int(times[start]),
                last_time_ns=int(times[stop - 1]),
                sha256=sha256,
            ),
        )


def _part_starts(hours: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[int]:
    """Give the first row of each part: a part ends with its day, or full with an hour."""
    starts: list[int] = []
    for first in np.flatnonzero(np.diff(hours, prepend=hours[:1] - 1)).tolist():
        new_day = not starts or hours[first] // 24 != hours[starts[-1]] // 24
        if new_day or first - starts[-1] >= ROWS_A_PART:
            starts.append(first)
    return starts


def _write_file(file: Path, rows: pa.Table) -> str:
    """Write one Parquet file through to the disk and give its SHA-256."""
    columns = rows.column_names
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows,
        sink,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=[
            column
            for column in columns
            if column not in NO_DICTIONARY and pa.types.is_string(rows.schema.field(column).type)
        ],
        write_statistics=[column for column in STATISTICS if column in columns],
        column_encoding={"time": "DELTA_BINARY_PACKED"},
        # Sized by the rows: the default filter is made for a million ids and costs 30 ms a part.
        bloom_filter_options=(
            {"trace_id": {"ndv": rows.num_rows, "fpp": 0.01}} if "trace_id" in columns else None
        ),
    )
    content = sink.getvalue()
    with open(file, "wb") as out:
        out.write(content)
        out.flush()
        os.fdatasync(out.fileno())
    return hashlib.sha256(content).hexdigest()


def _utc(time_ns: int | None) -> datetime | None:
    if time_ns is None:
        return None
    return datetime.fromtimestamp(time_ns / 1e9, UTC).replace(tzinfo=None)
