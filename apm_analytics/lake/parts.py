"""Write rows as immutable Parquet parts: sorted by time, zstd, with what readers prune by.

In:  an Arrow table with the columns of one lake table.
Out: temporary files, one a part, each with the `Part` that it becomes by a rename.
"""

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apm_analytics.lake.manifest import Part

NS_PER_HOUR = 3_600 * 10**9
# Hours of one day share a part until it holds this many rows (docs/decisions/0003).
ROWS_A_PART = 50_000
# Level 1 of zstd: twice the size of a span costs less than the CPU of a higher level.
COMPRESSION_LEVEL = 1
# Readers prune by these; statistics on every column cost as much as the columns themselves.
STATISTICS = ("time", "duration_ns", "service_name", "trace_id", "name", "status_code")
# Ids never repeat, so a dictionary of them is pure loss.
NO_DICTIONARY = frozenset({"trace_id", "span_id", "parent_span_id", "time", "duration_ns"})


def write_parts(
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
