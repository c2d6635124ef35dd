"""Read several parts of a table as one stream in order of time, a few rows of each at a time.

In:  parts, each sorted by time.
Out: Arrow tables in order of time, each of a row group's size.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from apm_analytics.errors import BadInput
from apm_analytics.lake.manifest import Part
from apm_analytics.lake.parquet.reading import numbered, open_numbered
from apm_analytics.lake.parts import NO_DICTIONARY, ROWS_A_GROUP, in_order
from apm_analytics.lake.schema import TABLES, TEXT

# Rows of all open parts together; and what a table may weigh, whatever its rows hold.
ROWS_IN_MEMORY = 4 * ROWS_A_GROUP
MAX_BYTES = 256 * 1024 * 1024
BATCH_ROWS = (1024, 32 * 1024)


def in_order_of_time(lake: Path, parts: Sequence[Part]) -> Iterator[pa.Table]:
    """Merge parts of one table; text stays encoded by dictionaries.

    A part is opened when its time comes, so parts that follow each other cost the memory of one.

    Raises
    ------
    BadInput
        A part has columns that its table has not.
    OSError, pyarrow.ArrowException
        A part is missing or damaged.
    """
    return _of_group_size(_merged(lake, parts))


def _merged(lake: Path, parts: Sequence[Part]) -> Iterator[pa.Table]:
    least, most = BATCH_ROWS
    batch_rows = min(max(ROWS_IN_MEMORY // len(parts), least), most)
    waiting = sorted(parts, key=lambda part: part.first_time_ns, reverse=True)
    streams: list[_Stream] = []
    while waiting or streams:
        # Up to here every row is in memory: the earliest end of what was read of each part.
        until_ns = min((stream.last_ns for stream in streams), default=None)
        if waiting and (until_ns is None or waiting[-1].first_time_ns <= until_ns):
            part = waiting.pop()
            streams.append(_Stream(read(lake, part, batch_rows)))
            continue
        assert until_ns is not None  # a part is open, or was opened just now
        found = [stream.take(until_ns) for stream in streams]
        streams = [stream for stream in streams if not stream.ended]
        yield in_order(pa.concat_tables(found).unify_dictionaries())


def read(lake: Path, part: Part, batch_rows: int = BATCH_ROWS[1]) -> Iterator[pa.Table]:
    """Read one part piece by piece, with the columns of its table as they are today."""
    schema = TABLES[part.table]
    text = [one.name for one in schema if one.type == TEXT and one.name not in NO_DICTIONARY]
    with open_numbered(lake / part.path, text) as file:
        odd = set(file.schema_arrow.names) - set(schema.names)
        if odd:
            raise BadInput(
                f"{part.path} has columns that {part.table} has not: {sorted(odd)}; it was "
                "changed by hand or written by a later version"
            )
        for batch in file.iter_batches(batch_rows):
            yield pa.table(
                [
                    numbered(batch[one.name], _held_as(one))
                    if one.name in batch.schema.names
                    else pa.nulls(batch.num_rows, _held_as(one))
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

    @property
    def last_ns(self) -> int:
        return int(self._times[-1])

    def take(self, until_ns: int) -> pa.Table:
        """Give the rows up to a time, and read on when none is left."""
        count = int(np.searchsorted(self._times, until_ns, side="right"))
        taken = self._rows.slice(0, count)
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


def _of_group_size(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Gather small tables until they fill a row group."""
    held: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        size += table.nbytes
        if rows >= ROWS_A_GROUP or size > MAX_BYTES:
            full = pa.concat_tables(held).unify_dictionaries()
            rest = full.slice(ROWS_A_GROUP)
            yield full.slice(0, ROWS_A_GROUP)
            held, rows, size = ([rest] if rest.num_rows else []), rest.num_rows, 0
    if rows:
        yield pa.concat_tables(held).unify_dictionaries()
