"""Write Arrow tables to a Parquet file, one row group per table.

In:  a function that writes bytes, tables of one schema.
Out: a Parquet file.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from apm_analytics.lake.parquet import bloom, encodings
from apm_analytics.lake.parquet.chunks import chunk
from apm_analytics.lake.parquet.leaves import Leaf, leaves
from apm_analytics.lake.parquet.schemas import elements
from apm_analytics.lake.parquet.thrift import Value, i32, i64, listed, struct, text

_MAGIC = b"PAR1"
CREATED_BY = "apm-analytics"
# Most columns take a few bytes, so they are hashed and written together.
_WRITTEN_AT_ONCE = 256 * 1024
_BY_TYPE = struct({1: struct({})})  # the order of least and greatest values


@dataclass
class _Group:
    """A row group being written; its columns may lie anywhere in the file."""

    start: int
    rows: int
    columns: list[Value] = field(default_factory=list)
    raw_size: int = 0
    size: int = 0

    def described(self) -> Value:
        """Return its RowGroup for the footer."""
        about = {1: listed(self.columns), 2: i64(self.raw_size), 3: i64(self.rows)}
        return struct(about | {5: i64(self.start), 6: i64(self.size)})


class FileWriter:
    """Writer of one Parquet file; `close` writes the footer.

    Parameters
    ----------
    write : called with the next bytes of the file.
    schema : plain types; text in the tables may still be dictionary-encoded.
    statistics : columns whose least and greatest values are stored.
    without_dictionary : text columns that hardly repeat.
    bloom_filters : column of ids -> expected number of distinct ids per row group.
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
        self._at = self._pending_size = 0
        self._pending: list[bytes] = []
        self._put([_MAGIC])

    def write_table(self, table: pa.Table) -> None:
        """Write a row group of one or more rows."""
        self.write_columns(len(self._groups), table)

    def write_columns(self, group: int, table: pa.Table) -> None:
        """Write some columns of a row group of one or more rows.

        Parameters
        ----------
        group : number of the row group; the next number starts a new one.
        table : the columns. Over all calls, each group gets all columns in schema order.
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

    def close(
        self,
        metadata: Mapping[str, str] | None = None,
        seal: Callable[[bytes], bytes] = bytes,
    ) -> None:
        """Write the footer; at least one row group must have been written.

        Parameters
        ----------
        metadata : for the footer.
        seal : called once all rows are written; takes the footer and returns one of equal length.
        """
        self._write_pending()
        fields = {
            1: i32(2),
            2: elements(self._schema),
            3: i64(sum(group.rows for group in self._groups)),
            4: listed([group.described() for group in self._groups]),
        }
        if metadata:
            fields[5] = listed([struct({1: text(k), 2: text(v)}) for k, v in metadata.items()])
        fields[6] = text(CREATED_BY)
        fields[7] = listed([_BY_TYPE] * len(self._groups[0].columns))
        footer = seal(struct(fields).content)
        self._put([footer, len(footer).to_bytes(4, "little"), _MAGIC])
        self._write_pending()

    def _put(self, pieces: Sequence[bytes]) -> None:
        self._pending += pieces
        size = sum(map(len, pieces))
        self._at += size
        self._pending_size += size
        if self._pending_size >= _WRITTEN_AT_ONCE:
            self._write_pending()

    def _write_pending(self) -> None:
        self._write(b"".join(self._pending))
        self._pending, self._pending_size = [], 0

    def _bloom(self, leaf: Leaf) -> bytes:
        expected = self._bloom_filters.get(".".join(leaf.path))
        ids = encodings.alike(leaf.values, bloom.ID_BYTES) if expected else None
        return b"" if ids is None or expected is None else bloom.bloom_filter(ids, expected)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks()
