"""Read Parquet with its texts numbered by dictionaries, as far as the file keeps them so.

In:  a Parquet file, the names of text columns.
Out: an open file; how it keeps its columns; columns of one type, however the file keeps them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_BY_LENGTH = "DELTA_LENGTH_BYTE_ARRAY"  # pyarrow reads it, but not into a dictionary


@dataclass(frozen=True)
class Kept:
    """How a column is kept; those of several row groups or files add up."""

    bytes: int = 0  # encoded, not compressed
    by_length: bool = False  # somewhere without a dictionary
    empty: bool = True  # no value anywhere

    def __add__(self, other: "Kept") -> "Kept":
        return Kept(
            self.bytes + other.bytes,
            self.by_length or other.by_length,
            self.empty and other.empty,
        )


def kept(metadata: pq.FileMetaData) -> dict[str, Kept]:
    """Tell how a file keeps each of its columns; what nests counts as one."""
    found: dict[str, Kept] = {}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            path = column.path_in_schema
            name = path.partition(".")[0]
            counts = column.statistics if path == name else None
            one = Kept(
                column.total_uncompressed_size,
                _BY_LENGTH in column.encodings,
                counts is not None and counts.null_count == group.num_rows,
            )
            found[name] = found.get(name, Kept()) + one
    return found


def open_numbered(file: Path, texts: Iterable[str]) -> pq.ParquetFile:
    """Open a file; it gives those of the texts as dictionaries that it keeps as such.

    Raises
    ------
    OSError, pyarrow.ArrowException
        The file is missing or damaged.
    """
    metadata = pq.read_metadata(file)
    about = kept(metadata)
    numbered = [name for name in texts if name not in about or not about[name].by_length]
    return pq.ParquetFile(file, metadata=metadata, read_dictionary=numbered)


def numbered(column: Any, kind: pa.DataType) -> Any:
    """Give an array or chunked array as a dictionary where `kind` is one."""
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(column.type):
        return column.dictionary_encode()
    return column
