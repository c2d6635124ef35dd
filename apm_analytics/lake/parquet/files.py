"""Write Arrow tables to a Parquet file, a row group a table.

In:  something to write bytes to, tables of one schema.
Out: a Parquet file.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from apm_analytics.lake.parquet import bloom
from apm_analytics.lake.parquet.chunks import chunk
from apm_analytics.lake.parquet.levels import Leaf, leaves
from apm_analytics.lake.parquet.schemas import elements
from apm_analytics.lake.parquet.thrift import Value, i32, i64, listed, struct, text

_MAGIC = b"PAR1"
_CREATED_BY = "apm-analytics"
_BY_TYPE = struct({1: struct({})})  # how least and greatest values are ordered


@dataclass
class _Group:
    """A row group as far as it was written; its columns may lie anywhere in the file."""

    start: int
    rows: int
    columns: list[Value] = field(default_factory=list)
    raw_size: int = 0
    size: int = 0

    def described(self) -> Value:
        """Give its RowGroup for the footer."""
        about = {1: listed(self.columns), 2: i64(self.raw_size), 3: i64(self.rows)}
        return struct(about | {5: i64(self.start), 6: i64(self.size)})


class FileWriter:
    """One Parquet file: tables go in, `close` writes the footer.

    Parameters
    ----------
    write : takes the next bytes of the file.
    schema : plain types; a table's texts may be encoded by dictionaries all the same.
    statistics : columns that keep their least and greatest value.
    without_dictionary : columns of texts that hardly repeat.
    bloom_filters : columns of ids -> how many different ones a row group may hold.

    Examples
    --------
    >>> writer = FileWriter(file.write, table.schema)  # doctest: +SKIP
    >>> writer.write_table(table)  # doctest: +SKIP
    >>> writer.close()  # doctest: +SKIP
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        schema: pa.Schema,
        *,
        statistics: Collection[str] = (),
        without_dictionary: Collection[str] = (),
        bloom_filters: Mapping[str, int] | None = None,
    ) -> None:
        self._write = write
        self._schema = schema
        self._statistics = statistics
        self._without_dictionary = without_dictionary
        self._bloom_filters = bloom_filters or {}
        self._groups: list[_Group] = []
        self._at = 0
        self._put([_MAGIC])

    def write_table(self, table: pa.Table) -> None:
        """Write one row group of at least one row."""
        self.write_columns(len(self._groups), table)

    def write_columns(self, group: int, table: pa.Table) -> None:
        """Write some columns of a row group of at least one row.

        Parameters
        ----------
        group : its number; a new one is the next.
        table : of each group all columns must come, in the order of the schema.
        """
        if group == len(self._groups):
            self._groups.append(_Group(self._at, table.num_rows))
        into = self._groups[group]
        for name in table.column_names:
            kind = self._schema.field(name)
            for leaf in leaves(kind, _one_chunk(table[name])):
                made = chunk(
                    leaf,
                    self._at,
                    statistics=name in self._statistics,
                    dictionary=name not in self._without_dictionary,
                    bloom=self._bloom(leaf),
                )
                start = self._at
                self._put(made.pages)
                into.columns.append(made.metadata)
                into.raw_size += made.raw_size
                into.size += self._at - start

    def close(self) -> None:
        """Write the footer; one row group at least must have been written."""
        footer = struct(
            {
                1: i32(2),
                2: elements(self._schema),
                3: i64(sum(group.rows for group in self._groups)),
                4: listed([group.described() for group in self._groups]),
                6: text(_CREATED_BY),
                7: listed([_BY_TYPE] * len(self._groups[0].columns)),
            }
        ).content
        self._put([footer, len(footer).to_bytes(4, "little"), _MAGIC])

    def _put(self, pieces: Sequence[bytes]) -> None:
        content = b"".join(pieces)
        self._write(content)
        self._at += len(content)

    def _bloom(self, leaf: Leaf) -> bytes:
        expected = self._bloom_filters.get(".".join(leaf.path))
        ids = _ids(leaf.values) if expected else None
        return b"" if ids is None or expected is None else bloom.bloom_filter(ids, expected)


def _ids(values: pa.Array) -> NDArray[np.uint8] | None:
    """Give the characters of ids, one a row; None where one has another length."""
    if not len(values) or not pa.types.is_string(values.type):
        return None
    places = np.frombuffer(values.buffers()[1], np.int32)
    starts = places[values.offset : values.offset + len(values) + 1]
    if not np.all(starts[1:] - starts[:-1] == bloom.ID_BYTES):
        return None
    content = np.frombuffer(values.buffers()[2], np.uint8)[starts[0] : starts[-1]]
    return content.reshape(-1, bloom.ID_BYTES)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks()
