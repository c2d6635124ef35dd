"""Read the fields of a protobuf message, never beyond its end.

In:  the address of the next byte and the address behind the last one.
Out: the value and the address behind it; `ODD` in place of that address where the bytes are
     damaged or of a kind that is left to the protobuf library.
"""

from apm_analytics.ingest.wire.compiled import compiled
from apm_analytics.ingest.wire.memory import load8

# Not for the scanner: damaged, to be rejected, or rare. The library decides about the request.
ODD = -1
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_LONGEST_TAG = 5  # bytes; the library refuses longer ones
_LONGEST_VARINT = 10


@compiled
def _long_varint(at: int, end: int) -> tuple[int, int]:
    value = 0
    shift = 0
    for _ in range(_LONGEST_VARINT):
        if at >= end:
            return 0, ODD
        byte = load8(at)
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, ODD


@compiled
def varint(at: int, end: int) -> tuple[int, int]:
    """Read an integer; beyond 64 bits the upper ones are lost, as in the library."""
    if at >= end:
        return 0, ODD
    byte = load8(at)
    if byte < 0x80:
        return byte, at + 1
    return _long_varint(at, end)


@compiled
def _long_tag(at: int, end: int) -> tuple[int, int]:
    value, behind = _long_varint(at, end)
    if behind < 0 or behind - at > _LONGEST_TAG or value > 0xFFFFFFFF:
        return 0, ODD
    return value, behind


@compiled
def tag(at: int, end: int) -> tuple[int, int]:
    """Read a field's number and wire type; the caller has seen that `at` is before `end`."""
    byte = load8(at)
    if byte < 0x80:
        return byte, at + 1
    return _long_tag(at, end)


@compiled
def length(at: int, end: int) -> tuple[int, int]:
    """Read the length of a text or message that ends inside of this one."""
    if at >= end:
        return 0, ODD
    size = load8(at)
    behind = at + 1
    if size >= 0x80:
        size, behind = _long_tag(at, end)
        if behind < 0:
            return 0, ODD
    if size > end - behind:
        return 0, ODD
    return size, behind


@compiled
def skip(field: int, at: int, end: int) -> int:
    """Give the address behind a field that nobody knows; groups are left to the library."""
    if field < 8:  # number 0
        return ODD
    kind = field & 7
    if kind == VARINT:
        _, at = varint(at, end)
        return at
    if kind == LENGTH:
        size, at = length(at, end)
        return at + size if at >= 0 else ODD
    if kind == FIXED64:
        return at + 8 if end - at >= 8 else ODD
    if kind == FIXED32:
        return at + 4 if end - at >= 4 else ODD
    return ODD
