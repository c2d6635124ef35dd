"""Read several parts of a table as one stream in order of time, a row group at a time.

In:  parts, each sorted by time.
Out: Arrow tables in order of time, each of a row group's size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from apm_analytics.errors import BadInput
from apm_analytics.lake.manifest import Part
from apm_analytics.lake.parquet.reading import kept_by_length
from apm_analytics.lake.parts import NO_DICTIONARY, ROWS_A_GROUP, in_order
from apm_analytics.lake.schema import TABLES, TEXT

# Rows of all open parts together; and what a table may weigh, whatever its rows hold.
ROWS_IN_MEMORY = ROWS_A_GROUP
MAX_BYTES = 128 * 1024 * 1024
BATCH_ROWS = (1024, 32 * 1024)


@dataclass(frozen=True)
class _Sources:
    """What is known of parts before their rows are read."""

    times: NDArray[np.int64]  # of all rows, in order
    bytes: int  # of all rows, once decompressed
    by_length: frozenset[str]  # texts that some part keeps without a dictionary


def in_order_of_time(lake: Path, parts: Sequence[Part]) -> Iterator[pa.Table]:
    """Merge parts of one table; text stays encoded by dictionaries where all parts have it so.

    A part is opened when its time comes, so parts that follow each other cost the memory of one.

    Raises
    ------
    BadInput
        A part has columns that its table has not.
    OSError, pyarrow.ArrowException
        A part is missing or damaged.
    """
    sources = _look_at(lake, parts)
    rows_a_group = max(min(ROWS_A_GROUP, MAX_BYTES * len(sources.times) // sources.bytes), 1)
    batch_rows = min(
        max(min(ROWS_IN_MEMORY, rows_a_group) // len(parts), BATCH_ROWS[0]), BATCH_ROWS[1]
    )
    waiting = sorted(parts, key=lambda part: part.first_time_ns, reverse=True)
    streams: list[_Stream] = []
    for until_ns in _ends(sources.times, rows_a_group):
        while waiting and waiting[-1].first_time_ns <= until_ns:
            rows = read(lake, waiting.pop(), batch_rows, plain=sources.by_length)
            streams.append(_Stream(rows))
        found = [table for stream in streams for table in stream.take(until_ns)]
        streams = [stream for stream in streams if not stream.ended]
        yield in_order(pa.concat_tables(found).unify_dictionaries())


def _look_at(lake: Path, parts: Sequence[Part]) -> _Sources:
    times: list[NDArray[np.int64]] = []
    by_length: set[str] = set()
    size = 1
    for part in parts:
        with pq.ParquetFile(lake / part.path) as file:
            times.append(np.asarray(file.read(["time"])["time"].cast(pa.int64()), np.int64))
            by_length |= kept_by_length(file.metadata)
            groups = range(file.metadata.num_row_groups)
            size += sum(file.metadata.row_group(group).total_byte_size for group in groups)
    # Runs that are sorted already are merged, not sorted.
    return _Sources(np.sort(np.concatenate(times), kind="stable"), size, frozenset(by_length))


def _ends(times: NDArray[np.int64], rows: int) -> list[int]:
    """Give the last times of groups of about so many rows; equal times stay together."""
    return sorted({*times[rows - 1 :: rows].tolist(), int(times[-1])})


def read(
    lake: Path, part: Part, batch_rows: int, plain: frozenset[str] = frozenset()
) -> Iterator[pa.Table]:
    """Read one part piece by piece, with the columns of its table as they are today."""
    schema = pa.schema(
        [
            one.with_type(_held_as(one)) if one.name not in plain else one
            for one in TABLES[part.table]
        ]
    )
    text = [one.name for one in schema if pa.types.is_dictionary(one.type)]
    with pq.ParquetFile(lake / part.path, read_dictionary=text) as file:
        odd = set(file.schema_arrow.names) - set(schema.names)
        if odd:
            raise BadInput(
                f"{part.path} has columns that {part.table} has not: {sorted(odd)}; it was "
                "changed by hand or written by a later version"
            )
        for batch in file.iter_batches(batch_rows):
            yield pa.table(
                [
                    batch[one.name]
                    if one.name in batch.schema.names
                    else pa.nulls(batch.num_rows, one.type)
                    for one in schema
                ],
                names=schema.names,
            )


def _held_as(field: pa.Field) -> pa.DataType:
    if field.type == TEXT and field.name not in NO_DICTIONARY:
        return pa.dictionary(pa.int32(), TEXT)
    return field.type


class _Stream:
    """What has been read of one part and was not taken yet."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._rows: pa.Table = None
        self._times = np.empty(0, np.int64)
        self.ended = False
        self._advance()

    def take(self, until_ns: int) -> list[pa.Table]:
        """Give the rows up to a time."""
        taken = []
        while not self.ended and self._times[0] <= until_ns:
            count = int(np.searchsorted(self._times, until_ns, side="right"))
            taken.append(self._rows.slice(0, count))
            self._rows, self._times = self._rows.slice(count), self._times[count:]
            if not len(self._times):
                self._advance()
        return taken

    def _advance(self) -> None:
        rows = next(self._tables, None)
        if rows is None:
            self.ended = True
            return
        # Sorted when written; a file from elsewhere that is not would lose its order only.
        self._rows = in_order(rows)
        self._times = np.asarray(self._rows["time"].cast(pa.int64()), np.int64)
