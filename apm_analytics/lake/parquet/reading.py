"""Read Parquet with texts as dictionaries where the file stores them so, also inside maps.

In:  a Parquet file, the names of columns of texts or of maps.
Out: an open file; how each column is stored; columns of one type, however they are stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apm_analytics.lake.parquet.schemas import plain
from apm_analytics.lake.schema import TEXT

_BY_LENGTH = "DELTA_LENGTH_BYTE_ARRAY"  # pyarrow does not read it into a dictionary


@dataclass(frozen=True)
class Kept:
    """How a column is stored; `+` combines row groups or files."""

    bytes: int = 0  # encoded, not compressed
    by_length: frozenset[str] = frozenset()  # leaves without a dictionary in some row group
    empty: bool = True  # without a value

    def __add__(self, other: "Kept") -> "Kept":
        return Kept(
            self.bytes + other.bytes,
            self.by_length | other.by_length,
            self.empty and other.empty,
        )


def kept(metadata: pq.FileMetaData) -> dict[str, Kept]:
    """Return how a file stores each column; a nested column counts as one."""
    columns: dict[str, Kept] = {}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            path = column.path_in_schema
            name = path.partition(".")[0]
            counts = column.statistics if path == name else None
            leaf = Kept(
                column.total_uncompressed_size,
                frozenset([path]) if _BY_LENGTH in column.encodings else frozenset(),
                counts is not None and counts.null_count == group.num_rows,
            )
            columns[name] = columns.get(name, Kept()) + leaf
    return columns


def text_leaves(name: str, kind: pa.DataType) -> list[str]:
    """Return the leaves of texts of a column of texts or of a map."""
    if not pa.types.is_map(kind):
        return [name]
    leaves = ("key", kind.key_type), ("value", kind.item_type)
    return [f"{name}.key_value.{leaf}" for leaf, of in leaves if plain(of) == TEXT]


def open_numbered(file: Path, texts: Iterable[str]) -> pq.ParquetFile:
    """Open a file that returns text columns as dictionaries where it stores them so.

    Raises
    ------
    OSError, pyarrow.ArrowException
        The file is missing or damaged.
    """
    metadata = pq.read_metadata(file)
    about = kept(metadata)
    numbered = [name for name in texts if name not in about or not about[name].by_length]
    return pq.ParquetFile(file, metadata=metadata, read_dictionary=numbered)


def numbered(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return a column in the type `kind`: the column's own, or with texts encoded."""
    if column.type == kind:
        return column
    return pa.chunked_array([_numbered(chunk, kind) for chunk in column.chunks], kind)


def _numbered(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if not pa.types.is_map(kind):
        return array.dictionary_encode()
    first, last = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
    return pa.MapArray.from_arrays(
        pc.subtract(array.offsets[: len(array) + 1], first),
        _numbered(array.keys[first:last], kind.key_type),
        _numbered(array.items[first:last], kind.item_type),
        type=kind,
        mask=array.is_null() if array.null_count else None,
    )
