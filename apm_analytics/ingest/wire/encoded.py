"""Encode the texts of decoded tables by dictionaries, except ids.

In:  the name of a lake table; a table that the library decoded.
Out: the schema of decoded tables; the same rows in it.
"""

from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from apm_analytics.ingest.wire.arrays import ENCODED
from apm_analytics.lake.schema import NUMBER_MAP, TABLES, TEXT, TEXT_MAP

_IDS = ("trace_id", "span_id", "parent_span_id")
ENCODED_MAPS = {
    TEXT_MAP: pa.map_(ENCODED, ENCODED),
    NUMBER_MAP: pa.map_(ENCODED, pa.float64()),
}


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
