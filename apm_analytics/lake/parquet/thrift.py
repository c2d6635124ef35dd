"""Write Thrift's compact protocol, which encodes Parquet's page headers and footer.

In:  integers, texts, structs and lists of them.
Out: bytes.

Structs that occur in every page and column are written by filling a template.
"""

from collections.abc import Iterable
from typing import NamedTuple

from apm_analytics.foundation import varint

_TRUE, _FALSE, I32, I64, BINARY, LIST, STRUCT = 1, 2, 5, 6, 8, 9, 12
END = b"\0"  # of a struct
_SHORT = 15  # lists and steps between field numbers below it take one byte


class Value(NamedTuple):
    """An encoded value and its wire type."""

    kind: int
    content: bytes


# Most numbers are small: sizes of small pages.
_SMALL = [varint.encode(2 * number) for number in range(1024)]


def zigzag(number: int) -> bytes:
    """Encode a signed 64-bit number."""
    if 0 <= number < len(_SMALL):
        return _SMALL[number]
    return varint.encode((number << 1) ^ (number >> 63))


def template(kinds: dict[int, int], after: int = 0) -> bytes:
    """Return a bytes template of a struct's fields for `%`; it does not include `END`.

    Parameters
    ----------
    kinds : field number -> type, in ascending order.
    after : number of the field before the first.

    Examples
    --------
    >>> (template({1: I32, 3: I32}) % (zigzag(1), zigzag(7)) + END).hex()
    '1502250e00'
    """
    written = []
    for number, kind in kinds.items():
        written.append(_head(number - after, number, kind).replace(b"%", b"%%") + b"%b")
        after = number
    return b"".join(written)


def i32(number: int) -> Value:
    return Value(I32, zigzag(number))


def i64(number: int) -> Value:
    return Value(I64, zigzag(number))


def truth(value: bool) -> Value:
    return Value(_TRUE if value else _FALSE, b"")


def binary(content: bytes) -> Value:
    return Value(BINARY, varint.encode(len(content)) + content)


def text(content: str) -> Value:
    return binary(content.encode())


def struct(fields: dict[int, Value]) -> Value:
    """Encode a struct; `fields` are in ascending order of their numbers.

    Examples
    --------
    >>> struct({1: i32(1), 3: text("a")}).content.hex()
    '150228016100'
    """
    written: list[bytes] = []
    before = 0
    for number, value in fields.items():
        written += (_head(number - before, number, value.kind), value.content)
        before = number
    return Value(STRUCT, b"".join(written) + END)


def listed(values: Iterable[Value]) -> Value:
    """Encode a non-empty list of values of one type."""
    items = list(values)
    kind = items[0].kind
    head = len(items) << 4 | kind
    start = head.to_bytes(1) if len(items) < _SHORT else (0xF0 | kind).to_bytes(1)
    if len(items) >= _SHORT:
        start += varint.encode(len(items))
    return Value(LIST, start + b"".join(item.content for item in items))


def _head(step: int, number: int, kind: int) -> bytes:
    return (step << 4 | kind).to_bytes(1) if step <= _SHORT else kind.to_bytes(1) + zigzag(number)
