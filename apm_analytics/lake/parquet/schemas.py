"""Translate Arrow schemas into Parquet schemas.

In:  an Arrow schema of text, 64-bit integers and floats, booleans, times; maps, lists, structs.
Out: the elements of a Parquet schema, and the physical type of each Arrow type.
"""

from collections.abc import Iterator
from functools import cache

import pyarrow as pa

from apm_analytics.lake.parquet.thrift import Value, i32, listed, struct, text, truth

BOOLEAN, INT64, DOUBLE, BYTE_ARRAY = 0, 2, 5, 6
_REQUIRED, _OPTIONAL, _REPEATED = 0, 1, 2
_UTF8, _MAP, _LIST = 0, 1, 3  # converted types, for old readers
_NOTHING = struct({})
_TIME = struct({8: struct({1: truth(False), 2: struct({3: _NOTHING})})})  # local, nanoseconds

_PHYSICAL = {
    pa.string().id: BYTE_ARRAY,
    pa.int64().id: INT64,
    pa.timestamp("ns").id: INT64,
    pa.float64().id: DOUBLE,
    pa.bool_().id: BOOLEAN,
}


def plain(kind: pa.DataType) -> pa.DataType:
    """Return a type with every dictionary replaced by the type of its values."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_type), plain(kind.item_type))
    if pa.types.is_list(kind):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain(field.type)) for field in kind])
    return kind


def physical(kind: pa.DataType) -> int:
    """Return the physical type of values.

    Raises
    ------
    TypeError
        No column of the lake is of this type.
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if kind.id not in _PHYSICAL:
        raise TypeError(
            f"cannot write {kind}; columns are text, int64, float64, booleans and times in ns"
        )
    return _PHYSICAL[kind.id]


@cache
def elements(schema: pa.Schema) -> Value:
    """Return the list of a schema's elements: the root, then each group before its children."""
    described = [struct({4: text("schema"), 5: i32(len(schema))})]
    for field in schema:
        described += _elements(field.name, field.type, field.nullable)
    return listed(described)


def _elements(name: str, kind: pa.DataType, nullable: bool) -> Iterator[Value]:
    repetition = i32(_OPTIONAL if nullable else _REQUIRED)
    if pa.types.is_map(kind):
        yield _group(name, repetition, 1, _MAP, 2)
        yield _group("key_value", i32(_REPEATED), 2)
        yield from _elements("key", kind.key_type, False)
        yield from _elements("value", kind.item_type, kind.item_field.nullable)
    elif pa.types.is_list(kind):
        yield _group(name, repetition, 1, _LIST, 3)
        yield _group("list", i32(_REPEATED), 1)
        yield from _elements("element", kind.value_type, kind.value_field.nullable)
    elif pa.types.is_struct(kind):
        yield _group(name, repetition, kind.num_fields)
        for field in kind:
            yield from _elements(field.name, field.type, field.nullable)
    else:
        fields = {1: i32(physical(kind)), 3: repetition, 4: text(name)}
        if physical(kind) == BYTE_ARRAY:
            fields |= {6: i32(_UTF8), 10: struct({1: _NOTHING})}
        elif pa.types.is_timestamp(kind):
            fields |= {10: _TIME}
        yield struct(fields)


def _group(
    name: str, repetition: Value, children: int, converted: int = -1, logical: int = 0
) -> Value:
    fields = {3: repetition, 4: text(name), 5: i32(children)}
    if logical:
        fields |= {6: i32(converted), 10: struct({logical: _NOTHING})}
    return struct(fields)
