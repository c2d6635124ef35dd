"""Read the fields of a protobuf message, never beyond its end.

In:  the address of the next byte and the address behind the last one.
Out: the value and the address behind it; `ODD` in place of that address where the bytes are
     damaged or of a kind that is left to the protobuf library.
"""

from functools import partial

from apm_analytics.foundation.compiled import compiled_part
from apm_analytics.ingest.wire.memory import load8, load32, load64

# Not for the scanner: damaged, to be rejected, or rare. The library decides about the request.
ODD = -1
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_LONGEST_TAG = 5  # bytes; the library refuses longer ones
_LONGEST_VARINT = 10


@compiled_part
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


@partial(compiled_part, inline=True)
def varint(at: int, end: int) -> tuple[int, int]:
    """Read an integer; beyond 64 bits the upper ones are lost, as in the library."""
    if at >= end:
        return 0, ODD
    byte = load8(at)
    if byte < 0x80:
        return byte, at + 1
    return _long_varint(at, end)


@partial(compiled_part, inline=True)
def _short_varint(at: int, end: int) -> tuple[int, int]:
    """Read a tag or a length, which have 32 bits."""
    if at >= end:
        return 0, ODD
    byte = load8(at)
    if byte < 0x80:
        return byte, at + 1
    value, behind = _long_varint(at, end)
    if behind < 0 or behind - at > _LONGEST_TAG or value > 0xFFFFFFFF:
        return 0, ODD
    return value, behind


@partial(compiled_part, inline=True)
def read_field(at: int, end: int) -> tuple[int, int, int, int]:
    """Read one field of a message.

    Returns
    -------
    tag : field number and wire type, `number << 3 | type`.
    value : the integer of a VARINT, the bits of a FIXED64 or FIXED32, the size of a LENGTH.
    start : where the content begins.
    behind : the address behind the field, at most `end`; `ODD` for a damaged field, and for
        groups, which are left to the library.
    """
    tag, start = _short_varint(at, end)
    if start < 0 or tag < 8:  # field number 0
        return 0, 0, 0, ODD
    kind = tag & 7
    if kind == LENGTH:
        size, start = _short_varint(start, end)
        if start < 0 or size > end - start:
            return 0, 0, 0, ODD
        return tag, size, start, start + size
    if kind == VARINT:
        value, behind = varint(start, end)
        return tag, value, start, behind
    if kind == FIXED64:
        if end - start < 8:
            return 0, 0, 0, ODD
        return tag, load64(start), start, start + 8
    if kind == FIXED32 and end - start >= 4:
        return tag, load32(start), start, start + 4
    return 0, 0, 0, ODD
