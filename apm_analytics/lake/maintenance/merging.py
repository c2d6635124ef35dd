"""Merge several parts of a table in order of time, a few columns at a time.

In:  parts, each sorted by time.
Out: for every column, the row groups of the merged part.

The times of all rows are read first; they determine the order of the rows. Then columns are read
one after the other, small ones together, so that memory holds a few megabytes of one column and
never all columns of a row group. Larger columns are read in several stretches of time; row groups
at the border of two stretches are decoded twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from apm_analytics.foundation.errors import BadInput
from apm_analytics.lake.manifest import Part
from apm_analytics.lake.parquet.reading import Kept, kept, numbered, text_leaves
from apm_analytics.lake.parts import NO_DICTIONARY
from apm_analytics.lake.schema import ENCODED_TYPES, TABLES

# Fewer than in a fresh part, because a merge holds several copies of the columns of a group.
ROWS_A_GROUP = 48 * 1024
# Upper bound of one column of a row group.
GROUP_BYTES = 4 * 1024 * 1024
# Columns of less than this in total are read together, because each read costs 0.1 ms.
TOGETHER_BYTES = 2 * 1024 * 1024
# Bounds of what is decoded of a column at once, if that is more than one row group.
STRETCH_BYTES = 2 * 1024 * 1024
STRETCH_ROWS = 256 * 1024
BATCH_ROWS = 4 * 1024
CODE_BYTES = 4
# Most columns have the same stretches, so their plans are cached.
PLANS = 8


class Columns(NamedTuple):
    """Some columns of one row group of the merged part."""

    group: int
    rows: pa.Table


def in_order_of_time(lake: Path, parts: Sequence[Part]) -> Iterator[Columns]:
    """Merge parts of one table; text stays dictionary-encoded, also inside maps.

    Yields
    ------
    All row groups of the first columns, then all of the next ones, in the order of the table's
    schema.

    Raises
    ------
    BadInput
        A part has unknown columns.
    OSError, pyarrow.ArrowException
        A part is missing or damaged.
    """
    merge = _Merge(lake, sorted(parts, key=lambda part: part.first_time_ns))
    for names in merge.batches():
        yield from merge.columns(names)


@dataclass(frozen=True)
class _Group:
    """A row group of one of the parts."""

    file: Path
    metadata: pq.FileMetaData
    about: dict[str, Kept]  # the columns that the file has
    number: int
    rows: int


# Ranges of rows in row groups, and the order in which to take these rows; None keeps their order.
_Plan = tuple[list[tuple[_Group, int, int]], pa.Array | None]


class _Merge:
    """The metadata of all parts and the order of their rows.

    Rows are numbered through all row groups of all parts, one after the other.
    """

    def __init__(self, lake: Path, parts: Sequence[Part]) -> None:
        table = TABLES[parts[0].table]
        self._groups: list[_Group] = []
        times: list[NDArray[np.int64]] = []
        for part in parts:
            with pq.ParquetFile(lake / part.path) as file:
                about = _look_at(part, file.metadata, table)
                for number in range(file.metadata.num_row_groups):
                    rows = file.metadata.row_group(number).num_rows
                    group = _Group(lake / part.path, file.metadata, about, number, rows)
                    self._groups.append(group)
                time = file.read(["time"], use_threads=False)["time"]
                times.append(np.asarray(time.cast(pa.int64()), np.int64))
        self._about = _together([group.about for group in self._groups if group.number == 0])
        self._schema = pa.schema([field.with_type(_held_as(field)) for field in table])
        self._texts = {
            leaf
            for field in self._schema
            if field.type != table.field(field.name).type
            for leaf in text_leaves(field.name, field.type)
        }
        rows = np.array([group.rows for group in self._groups])
        self._starts = np.cumsum(rows) - rows
        self._rows = int(rows.sum())
        self._order = _order(np.concatenate(times))
        self._plans: dict[tuple[int, int], _Plan] = {}
        largest = max(column.bytes for column in self._about.values())
        most = max(min(ROWS_A_GROUP, GROUP_BYTES * self._rows // max(largest, 1)), 1)
        # Equal groups, instead of full ones and one of a few rows.
        self._rows_a_group = -(-self._rows // max(round(self._rows / most), 1))

    def batches(self) -> Iterator[list[str]]:
        """Yield the names of columns that are read together."""
        names: list[str] = []
        size = 0
        for name in self._schema.names:
            about = self._about.get(name)
            bytes_ = about.bytes + CODE_BYTES * self._rows if about and not about.empty else 0
            if names and size + bytes_ > TOGETHER_BYTES:
                yield names
                names, size = [], 0
            names.append(name)
            size += bytes_
        yield names

    def columns(self, names: list[str]) -> Iterator[Columns]:
        """Yield all row groups of some columns."""
        at = group = 0
        count = self._rows_a_group
        while at < self._rows:
            until = min(at + count, self._rows)
            rows = self._stretch(at, until, names)
            for start in range(0, until - at, self._rows_a_group):
                yield Columns(group, rows.slice(start, self._rows_a_group))
                group += 1
            fitting = min(STRETCH_BYTES * rows.num_rows // max(rows.nbytes, 1), STRETCH_ROWS)
            count = max(fitting // self._rows_a_group, 1) * self._rows_a_group
            at = until

    def _stretch(self, at: int, until: int, names: list[str]) -> pa.Table:
        """Return some columns of a range of rows in order of time."""
        if (at, until) not in self._plans:
            while len(self._plans) >= PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[at, until] = self._plan(at, until)
        pieces, places = self._plans[at, until]
        read: list[pa.Table] = []
        for path, of_file in groupby(pieces, lambda piece: piece[0].file):
            ranges = list(of_file)
            # Opened each time, because an open file keeps the pages that it read last.
            of = ranges[0][0]
            texts = self._texts.difference(*(column.by_length for column in of.about.values()))
            with pq.ParquetFile(path, metadata=of.metadata, read_dictionary=[*texts]) as file:
                read += [self._read(file, names, *range_) for range_ in ranges]
        rows = pa.concat_tables(read)
        del read
        rows = rows.unify_dictionaries()
        if places is None:
            return rows
        rows = rows.combine_chunks()  # frees the chunks before the next copy
        return rows.take(places)

    def _plan(self, at: int, until: int) -> _Plan:
        chosen = np.arange(at, until) if self._order is None else self._order[at:until]
        of = (np.searchsorted(self._starts, chosen, side="right") - 1).astype(np.int32)
        places = np.empty(len(chosen), np.int32)
        pieces: list[tuple[_Group, int, int]] = []
        before = 0
        for number in np.unique(of):
            of_group = np.flatnonzero(of == number)
            rows = chosen[of_group] - self._starts[number]
            first, last = int(rows.min()), int(rows.max()) + 1
            places[of_group] = rows - first + before
            before += last - first
            pieces.append((self._groups[number], first, last))
        if np.all(np.diff(places) == 1):
            return pieces, None
        return pieces, pa.array(places)

    def _read(
        self, file: pq.ParquetFile, names: list[str], group: _Group, first: int, last: int
    ) -> pa.Table:
        stored = [name for name in names if name in group.about and not self._about[name].empty]
        if any(pa.types.is_nested(self._schema.field(name).type) for name in stored):
            # Decoded nested columns are many times larger than stored ones.
            rows = _some(file.iter_batches(BATCH_ROWS, [group.number], stored), first, last)
        else:
            rows = file.read_row_group(group.number, columns=stored, use_threads=False)
            rows = rows.slice(first, last - first)
            if stored and last - first <= group.rows // 2:
                rows = rows.take(pa.array(np.arange(last - first)))  # frees the rest of the group
        kinds = {name: self._schema.field(name).type for name in names}
        return pa.table(
            {
                name: numbered(rows[name], kind) if name in stored else pa.nulls(last - first, kind)
                for name, kind in kinds.items()
            }
        )


def _held_as(field: pa.Field) -> pa.DataType:
    """Return the type in which a merge holds a column: texts that may repeat are encoded."""
    return field.type if field.name in NO_DICTIONARY else ENCODED_TYPES.get(field.type, field.type)


def _some(batches: Iterator[pa.RecordBatch], first: int, last: int) -> pa.Table:
    """Return the rows from `first` to before `last`; memory does not hold the others."""
    kept_ = []
    at = 0
    for batch in batches:
        if at >= last:
            break
        if at + batch.num_rows > first:
            start = max(first - at, 0)
            kept_.append(batch.slice(start, min(last - at, batch.num_rows) - start))
        at += batch.num_rows
    return pa.Table.from_batches(kept_)


def _look_at(part: Part, metadata: pq.FileMetaData, table: pa.Schema) -> dict[str, Kept]:
    about = kept(metadata)
    odd = sorted(about.keys() - set(table.names))
    if odd:
        raise BadInput(
            f"{part.path} has columns that {part.table} does not have: {odd}; it was changed by "
            "hand or written by a later version"
        )
    return about


def _together(files: Sequence[dict[str, Kept]]) -> dict[str, Kept]:
    names = {name for columns in files for name in columns}
    return {name: sum((file[name] for file in files if name in file), Kept()) for name in names}


def _order(times: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """Return the numbers of the rows in order of time; None if they are in order."""
    if np.all(times[1:] >= times[:-1]):
        return None
    # The stable sort merges sorted runs.
    return np.argsort(times, kind="stable").astype(np.int32)
