"""Make Arrow arrays over NumPy's memory, and encode texts other than ids by dictionaries.

In:  values, and which of them are valid; a table that the library decoded.
Out: Arrow arrays without a copy; the same table with the schema of the scanner's tables.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from apm_analytics.lake.schema import NUMBER_MAP, TABLES, TEXT, TEXT_MAP

ENCODED = pa.dictionary(pa.int32(), TEXT)
_IDS = ("trace_id", "span_id", "parent_span_id")
ENCODED_MAPS = {
    TEXT_MAP: pa.map_(ENCODED, ENCODED),
    NUMBER_MAP: pa.map_(ENCODED, pa.float64()),
}


def fixed(kind: pa.DataType, values: NDArray[Any], valid: pa.Buffer | None = None) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(values)])


def bitmap(valid: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def masked(kind: pa.DataType, values: NDArray[Any], valid: NDArray[np.bool_]) -> pa.Array:
    if valid.all():
        return fixed(kind, values)
    values[~valid] = 0
    return fixed(kind, values, bitmap(valid))


def not_zero(kind: pa.DataType, values: NDArray[np.int64]) -> pa.Array:
    return masked(kind, values, values != 0)


def dictionary(codes: NDArray[np.int32], words: pa.Array, missing: int | bool) -> pa.Array:
    valid = bitmap(codes >= 0) if missing else None
    return pa.DictionaryArray.from_arrays(fixed(pa.int32(), codes, valid), words, safe=False)


def over_words(words: Sequence[str | None], codes: NDArray[np.int32]) -> pa.Array:
    """Encode a column of few distinct words; code -1 is null."""
    if not len(words):
        return pa.nulls(len(codes), ENCODED)
    return dictionary(codes, pa.array(words, TEXT), bool((codes < 0).any()))


@cache
def encoded_schema(table: str) -> pa.Schema:
    """Return the schema of a decoded table: the lake's, with texts other than ids encoded."""
    return pa.schema([field.with_type(_encoded_type(field)) for field in TABLES[table]])


def _encoded_type(field: pa.Field) -> pa.DataType:
    if field.name in ("attributes", "attributes_num"):
        return ENCODED_MAPS[field.type]
    return ENCODED if field.type == TEXT and field.name not in _IDS else field.type


def encoded(name: str, table: pa.Table) -> pa.Table:
    """Encode a table that the library decoded, so that it can be joined to the scanner's."""
    schema = encoded_schema(name)
    columns = [_encoded_like(table[field.name], field.type) for field in schema]
    return pa.table(columns, schema=schema)


def _encoded_like(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    if kind == ENCODED:
        return column.dictionary_encode()
    whole = column.combine_chunks()
    first, last = whole.offsets[0].as_py(), whole.offsets[len(whole)].as_py()
    values = whole.items[first:last]
    return pa.chunked_array(
        [
            pa.MapArray.from_arrays(
                pc.subtract(whole.offsets[: len(whole) + 1], first),
                whole.keys[first:last].dictionary_encode(),
                values.dictionary_encode() if kind.item_type == ENCODED else values,
                type=kind,
                mask=whole.is_null(),
            )
        ]
    )
