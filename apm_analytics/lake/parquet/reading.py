"""Read Parquet with text columns as dictionaries where the file stores them so.

In:  a Parquet file, the names of text columns.
Out: an open file; how each column is stored; columns of one type, however they are stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_BY_LENGTH = "DELTA_LENGTH_BYTE_ARRAY"  # pyarrow does not read it into a dictionary


@dataclass(frozen=True)
class Kept:
    """How a column is stored; `+` combines row groups or files."""

    bytes: int = 0  # encoded, not compressed
    by_length: bool = False  # without a dictionary in some row group
    empty: bool = True  # without a value

    def __add__(self, other: "Kept") -> "Kept":
        return Kept(
            self.bytes + other.bytes,
            self.by_length or other.by_length,
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
                _BY_LENGTH in column.encodings,
                counts is not None and counts.null_count == group.num_rows,
            )
            columns[name] = columns.get(name, Kept()) + leaf
    return columns


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


def numbered(column: Any, kind: pa.DataType) -> Any:
    """Return an array or chunked array dictionary-encoded if `kind` is a dictionary."""
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(column.type):
        return column.dictionary_encode()
    return column
