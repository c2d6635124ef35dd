"""Write Thrift's compact protocol, in which Parquet keeps everything but values.

In:  integers, texts, structs and lists of them.
Out: bytes.
"""

from collections.abc import Iterable
from typing import NamedTuple

from apm_analytics import varint

_TRUE, _FALSE, _I32, _I64, _BINARY, _LIST, _STRUCT = 1, 2, 5, 6, 8, 9, 12
_SHORT = 15  # lists and steps between field numbers below it take one byte


class Value(NamedTuple):
    """A value as it is written, and its type on the wire."""

    kind: int
    content: bytes


def zigzag(number: int) -> bytes:
    """Write a signed 64-bit number."""
    return varint.encode((number << 1) ^ (number >> 63))


def i32(number: int) -> Value:
    return Value(_I32, zigzag(number))


def i64(number: int) -> Value:
    return Value(_I64, zigzag(number))


def truth(value: bool) -> Value:
    return Value(_TRUE if value else _FALSE, b"")


def binary(content: bytes) -> Value:
    return Value(_BINARY, varint.encode(len(content)) + content)


def text(content: str) -> Value:
    return binary(content.encode())


def struct(fields: dict[int, Value]) -> Value:
    """Write a struct; fields come by number, in order.

    Examples
    --------
    >>> struct({1: i32(1), 3: text("a")}).content.hex()
    '150228016100'
    """
    written = []
    before = 0
    for number, value in fields.items():
        step = number - before
        if step <= _SHORT:
            written.append((step << 4 | value.kind).to_bytes(1))
        else:
            written += (value.kind.to_bytes(1), zigzag(number))
        written.append(value.content)
        before = number
    return Value(_STRUCT, b"".join(written) + b"\0")


def listed(values: Iterable[Value]) -> Value:
    """Write a list of values of one type, one at least."""
    items = list(values)
    kind = items[0].kind
    head = len(items) << 4 | kind
    start = head.to_bytes(1) if len(items) < _SHORT else (0xF0 | kind).to_bytes(1)
    if len(items) >= _SHORT:
        start += varint.encode(len(items))
    return Value(_LIST, start + b"".join(item.content for item in items))
