"""Write rows as immutable Parquet parts: sorted by time, zstd, with what readers prune by.

In:  an Arrow table with the columns of one lake table, or a stream of them in order of time.
Out: temporary files, one a part, each with the `Part` that it becomes by a rename.
"""

import hashlib
import io
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apm_analytics.atomic import sync_folder
from apm_analytics.lake.manifest import Part

NS_PER_HOUR = 3_600 * 10**9
# Hours of one day share a part until it holds this many rows (docs/decisions/0003).
ROWS_A_PART = 50_000
# Enough to compress well; a row group in memory is some tens of megabytes.
ROWS_A_GROUP = 128 * 1024
# Level 1 of zstd: twice the size of a span costs less than the CPU of a higher level.
COMPRESSION_LEVEL = 1
# Readers prune by these; statistics on every column cost as much as the columns themselves.
STATISTICS = frozenset(
    {"time", "duration_ns", "service_name", "trace_id", "name", "status_code", "trace_state"}
)
# Ids never repeat, so a dictionary of them is pure loss.
NO_DICTIONARY = frozenset({"trace_id", "span_id", "parent_span_id", "time", "duration_ns"})
# Above this share of different texts among the rows, their dictionary costs more than it saves.
VARIED = 0.5

Written = tuple[Path, Part]


class PartWriter:
    """One part that is being written: tables in order of time go in, `finish` gives the part.

    Parameters
    ----------
    rows : how many rows will come at most; the bloom filter is sized by them.

    Leaving its block by an error removes the temporary file.
    """

    def __init__(self, lake: Path, table_name: str, name: str, start_ns: int, rows: int) -> None:
        start = datetime.fromtimestamp(start_ns // NS_PER_HOUR * 3_600, UTC)
        self._lake = lake
        self._table_name = table_name
        folder = lake / table_name / f"date={start:%Y-%m-%d}" / f"hour={start:%H}"
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            for parent in folder.parents[:3]:
                sync_folder(parent)
        self._file = folder / f"{name}.parquet"
        # The dot hides it from every engine that globs for Parquet.
        self._temporary = folder / f".{name}.{os.getpid()}.tmp"
        self._ids = max(min(rows, ROWS_A_GROUP), 1)
        self._sink = _HashingFile(self._temporary)
        self._writer: Any = None
        self._varied: list[str] = []
        self.rows = 0
        self._times_ns = (0, 0)

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.discard()

    def discard(self) -> None:
        """Remove what was written."""
        with suppress(OSError, pa.ArrowException):
            if self._writer is not None:
                self._writer.close()
        self._sink.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, rows: pa.Table) -> None:
        """Add at least one row, each no older than those before."""
        if self._writer is None:
            self._varied = _varied(rows)
            rows = _plainly(rows, self._varied)
            self._writer = _parquet_writer(self._sink, rows.schema, self._ids, self._varied)
        else:
            rows = _plainly(rows, self._varied)
        self._writer.write_table(rows, row_group_size=ROWS_A_GROUP)
        first_ns, last_ns = rows["time"][0].value, rows["time"][-1].value
        self._times_ns = (self._times_ns[0] if self.rows else first_ns, last_ns)
        self.rows += rows.num_rows

    def finish(self) -> Written:
        """Write it through to the disk; give the temporary file and what it becomes."""
        self._writer.close()
        sha256 = self._sink.finish()
        part = Part(
            path=str(self._file.relative_to(self._lake)),
            table=self._table_name,
            rows=self.rows,
            bytes=self._sink.size,
            first_time_ns=self._times_ns[0],
            last_time_ns=self._times_ns[1],
            sha256=sha256,
            origin=sha256,
        )
        return self._temporary, part


def write_parts(lake: Path, table_name: str, table: pa.Table, name: str) -> Iterator[Written]:
    """Write one temporary file a part; give it with the part it will become."""
    if not table.num_rows:
        return
    table = in_order(table)
    times_ns = _times_ns(table)
    starts = _part_starts(times_ns // NS_PER_HOUR)
    for start, stop in zip(starts, [*starts[1:], len(times_ns)], strict=True):
        rows = table.slice(start, stop - start)
        with PartWriter(lake, table_name, name, int(times_ns[start]), rows.num_rows) as part:
            part.write(rows)
            written = part.finish()
        yield written


def put_in_place(lake: Path, written: Iterable[Written]) -> None:
    """Give parts their names, so that they are found there also after the power failed."""
    folders: set[Path] = set()
    for temporary, part in written:
        file = lake / part.path
        os.replace(temporary, file)
        folders.add(file.parent)
    for folder in folders:
        sync_folder(folder)


def sum_of_origins(parts: Iterable[Part]) -> str:
    """Add up what parts were made from: in any order, and however they were merged, the same."""
    return f"{sum(int(part.origin, 16) for part in parts) % 2**256:064x}"


def in_order(table: pa.Table) -> pa.Table:
    """Sort rows by time, where they are not."""
    if np.all(np.diff(_times_ns(table)) >= 0):
        return table
    order = pc.sort_indices(table, sort_keys=[("time", "ascending")])
    # Half of all columns hold nothing; nulls in another order are the same, and cost as much.
    full = [name for name in table.column_names if table[name].null_count < len(table)]
    ordered = table.select(full).take(order)
    columns = [ordered[name] if name in full else table[name] for name in table.column_names]
    return pa.table(columns, schema=table.schema)


def _times_ns(table: pa.Table) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    times: np.ndarray[tuple[int], np.dtype[np.int64]] = table["time"].cast(pa.int64()).to_numpy()
    return times


def _part_starts(hours: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[int]:
    """Give the first row of each part: a part ends with its day, or full with an hour."""
    starts: list[int] = []
    for first in np.flatnonzero(np.diff(hours, prepend=hours[:1] - 1)).tolist():
        new_day = not starts or hours[first] // 24 != hours[starts[-1]] // 24
        if new_day or first - starts[-1] >= ROWS_A_PART:
            starts.append(first)
    return starts


def _varied(rows: pa.Table) -> list[str]:
    """Name the encoded columns of which hardly two rows are alike: a dictionary is loss there."""
    found = []
    for name in rows.column_names:
        column = rows[name]
        if not pa.types.is_dictionary(column.type):
            continue
        least = len(column) * VARIED
        # A slice of a larger table has all of its words, needed or not.
        if sum(len(chunk.dictionary) for chunk in column.chunks) > least:
            words = sum(pc.count_distinct(chunk.indices).as_py() for chunk in column.chunks)
            if words > least:
                found.append(name)
    return found


def _plainly(rows: pa.Table, names: list[str]) -> pa.Table:
    """Decode columns that are encoded by a dictionary."""
    for name in names:
        if pa.types.is_dictionary(rows[name].type):
            rows = rows.set_column(
                rows.column_names.index(name), name, rows[name].cast(rows[name].type.value_type)
            )
    return rows


def _parquet_writer(
    sink: "_HashingFile", schema: pa.Schema, ids: int, varied: Collection[str]
) -> Any:
    columns = schema.names
    return pq.ParquetWriter(
        pa.PythonFile(sink, "w"),
        schema,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=[
            *(
                field.name
                for field in schema
                if field.name not in NO_DICTIONARY
                and field.name not in varied
                and _is_text(field.type)
            ),
            *_repeated_leaves(schema),
        ],
        write_statistics=[column for column in columns if column in STATISTICS],
        column_encoding={"time": "DELTA_BINARY_PACKED"},
        # Sized by the rows: the default filter is made for a million ids and costs 30 ms a part.
        bloom_filter_options=(
            {"trace_id": {"ndv": ids, "fpp": 0.01}} if "trace_id" in columns else None
        ),
        # Arrow's own copy of the schema is 10 kB a part, and would bring its dictionaries back.
        store_schema=False,
    )


def _repeated_leaves(schema: pa.Schema) -> Iterator[str]:
    """Name the texts within maps and events of which few are different."""
    for field in schema:
        if pa.types.is_map(field.type):
            yield from (f"{field.name}.key_value.{part}" for part in ("key", "value"))
        elif field.name == "events":
            inner = f"{field.name}.list.element"
            yield from (f"{inner}.name", f"{inner}.attributes.key_value.key")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_dictionary(kind))


class _HashingFile(io.RawIOBase):
    """A file that is hashed while it is written; made at the first byte."""

    def __init__(self, file: Path) -> None:
        self._file = open(file, "wb", buffering=1024 * 1024)  # noqa: SIM115
        self._digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def finish(self) -> str:
        """Sync the file to the disk, close it, and give its SHA-256."""
        self._file.flush()
        os.fdatasync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()
        super().close()
