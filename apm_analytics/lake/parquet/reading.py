"""Read Parquet with its texts numbered by dictionaries, as far as the file keeps them so.

In:  a Parquet file, the names of text columns.
Out: an open file; columns of one type, however the file keeps them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_BY_LENGTH = "DELTA_LENGTH_BYTE_ARRAY"  # pyarrow reads it, but not into a dictionary


def kept_by_length(metadata: pq.FileMetaData) -> set[str]:
    """Name the columns of which some row group is kept without a dictionary, by length."""
    found = set()
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in range(group.num_columns):
            about = group.column(column)
            if _BY_LENGTH in about.encodings:
                found.add(about.path_in_schema)
    return found


def open_numbered(file: Path, texts: Iterable[str]) -> pq.ParquetFile:
    """Open a file; it gives those of the texts as dictionaries that it keeps as such.

    Raises
    ------
    OSError, pyarrow.ArrowException
        The file is missing or damaged.
    """
    metadata = pq.read_metadata(file)
    plain = kept_by_length(metadata)
    numbered = [name for name in texts if name not in plain]
    return pq.ParquetFile(file, metadata=metadata, read_dictionary=numbered)


def numbered(column: Any, kind: pa.DataType) -> Any:
    """Give an array or chunked array as a dictionary where `kind` is one."""
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(column.type):
        return column.dictionary_encode()
    return column
