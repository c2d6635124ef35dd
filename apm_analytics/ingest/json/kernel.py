"""Read OTLP JSON and write it as protobuf, in compiled code.

In:  the text; the fields of all messages as arrays, see `transcode`.
Out: the request's bytes and the places of doubles, which the caller fills in; or `UNUSUAL`.

Every access to an array is checked and raises IndexError beyond its end. Lengths are always written
with four bytes, as protobuf allows, so that one pass suffices.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from apm_analytics.foundation.compiled import compiled, compiled_part

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

TEXT, HEX, BOOL, INTEGER, COUNT, SHORT, ZIGZAG, FIXED32, FIXED64, SIGNED64, DOUBLE = range(11)
MESSAGE, ENUM = 11, 12
# Columns of a field's row: its message, its name, how it is written, the message or enum in it. The
# values of an enum are rows as well: fields of the enum, with their number as tag.
OWNER, NAME, NAME_SIZE, KIND, REPEATED, TAG, SEEN, CHILD = range(8)
COLUMNS = 8
SLOTS = 1024  # of the hash table from names to fields
LENGTH_BYTES = 4  # up to 2^28 bytes
MAX_DEPTH = 32
UNUSUAL = -1

_QUOTE, _ESCAPE, _COMMA, _COLON, _MINUS, _ZERO, _NINE = (ord(sign) for sign in '"\\,:-09')
_OPEN, _CLOSE, _LIST, _LIST_END, _N, _U = (ord(sign) for sign in "{}[]nu")
_PLUS, _DOT, _E, _LARGE_E, _SPACE = (ord(sign) for sign in "+.eE ")
_LARGEST = 2**63 - 1
_TRUE, _FALSE, _NULL = (np.frombuffer(word, np.uint8) for word in (b"true", b"false", b"null"))
# The character that one after a backslash stands for; 0 for none.
_ESCAPES = np.zeros(256, np.uint8)
_ESCAPES[list(b'ntrbf"\\/')] = list(b'\n\t\r\b\f"\\/')
_compiled = partial(compiled_part, checked=True)


def first_slot(text: Bytes | bytes, start: int, end: int, message: int) -> int:
    """Return the first slot of the name of a message's field."""
    hashed = message + 1
    for at in range(start, end):
        hashed = (hashed * 31 + text[at]) & 0xFFFFFFFF
    return (hashed ^ hashed >> 10) % SLOTS


_first_slot = _compiled(first_slot)


@_compiled
def _behind_space(text: Bytes, at: int) -> int:
    while text[at] == _SPACE or 9 <= text[at] <= 10 or text[at] == 13:
        at += 1
    return at


@_compiled
def _is_word(text: Bytes, at: int, word: Bytes) -> bool:
    for place in range(word.size):  # noqa: SIM110 (compiled code has no generators)
        if text[at + place] != word[place]:
            return False
    return True


@_compiled
def _field(
    text: Bytes, start: int, end: int, fields: Ints, names: Bytes, slots: Ints, message: int
) -> int:
    slot = _first_slot(text, start, end, message)
    while slots[slot] >= 0:
        number = int(slots[slot])
        if fields[number, OWNER] == message and fields[number, NAME_SIZE] == end - start:
            name = fields[number, NAME]
            same = True
            for place in range(end - start):
                same = same and names[name + place] == text[start + place]
            if same:
                return number
        slot = (slot + 1) % SLOTS
    return UNUSUAL


@_compiled
def _varint(out: Bytes, to: int, value: int) -> int:
    while value & ~0x7F:
        out[to] = value & 0x7F | 0x80
        value = value >> 7 & 0x01FFFFFFFFFFFFFF
        to += 1
    out[to] = value
    return to + 1


@_compiled
def _set_length(out: Bytes, slot: int, size: int) -> bool:
    """Write a size into the four bytes at a slot; return whether it fits."""
    for place in range(LENGTH_BYTES - 1):
        out[slot + place] = size >> 7 * place & 0x7F | 0x80
    out[slot + LENGTH_BYTES - 1] = size >> 7 * (LENGTH_BYTES - 1) & 0x7F
    return size < 1 << 7 * LENGTH_BYTES


@_compiled
def _hex_digit(sign: int) -> int:
    if _ZERO <= sign <= _NINE:
        return sign - _ZERO
    low = sign | 0x20
    return low - 87 if 97 <= low <= 102 else UNUSUAL


@_compiled
def _text(text: Bytes, at: int, out: Bytes, to: int) -> tuple[int, int]:
    """Write a text up to its closing quote; return the next places in both buffers."""
    slot = to
    to += LENGTH_BYTES
    while True:
        sign = text[at]
        at += 1
        if sign == _QUOTE:
            break
        if sign < _SPACE:
            return UNUSUAL, to
        if sign == _ESCAPE:
            sign = text[at]
            at += 1
            if _ESCAPES[sign] > 0:
                sign = _ESCAPES[sign]
            elif sign == _U:
                # Some encoders write <, > and & like this; escapes beyond ASCII are unusual.
                high, low = _hex_digit(text[at + 2]), _hex_digit(text[at + 3])
                if text[at] != _ZERO or text[at + 1] != _ZERO or not 0 <= high < 8 or low < 0:
                    return UNUSUAL, to
                sign = 16 * high + low
                at += 4
            else:
                return UNUSUAL, to
        out[to] = sign
        to += 1
    return at if _set_length(out, slot, to - slot - LENGTH_BYTES) else UNUSUAL, to


@_compiled
def _hex(text: Bytes, at: int, out: Bytes, to: int) -> tuple[int, int]:
    """Write an id of 16 or 32 hex digits, or an empty one."""
    start = at
    slot = to
    to += LENGTH_BYTES
    while text[at] != _QUOTE:
        high, low = _hex_digit(text[at]), _hex_digit(text[at + 1])
        if high < 0 or low < 0:
            return UNUSUAL, to
        out[to] = 16 * high + low
        to += 1
        at += 2
    size = at - start
    whole = size == 0 or size == 16 or size == 32
    return at + 1 if whole and _set_length(out, slot, size // 2) else UNUSUAL, to


@_compiled
def _integer(text: Bytes, at: int) -> tuple[int, int]:
    """Read an integer, with or without quotes; return its end and its value."""
    quoted = text[at] == _QUOTE
    at += quoted
    negative = text[at] == _MINUS
    at += negative
    start = at
    value = 0
    while _ZERO <= text[at] <= _NINE:
        digit = int(text[at]) - _ZERO
        if value > (_LARGEST - digit) // 10:
            return UNUSUAL, 0
        value = value * 10 + digit
        at += 1
    if at == start or (not quoted and text[start] == _ZERO and at > start + 1):
        return UNUSUAL, 0
    if quoted:
        if text[at] != _QUOTE:
            return UNUSUAL, 0
        at += 1
    return at, -value if negative else value


@_compiled
def _digits(text: Bytes, at: int) -> int:
    """Return the end of some digits; UNUSUAL when there are none."""
    start = at
    while _ZERO <= text[at] <= _NINE:
        at += 1
    return at if at > start else UNUSUAL


@_compiled
def _number(text: Bytes, at: int) -> int:
    """Return the end of a number; UNUSUAL when there is none."""
    at += text[at] == _MINUS
    start = at
    at = _digits(text, at)
    if at < 0 or (text[start] == _ZERO and at > start + 1):
        return UNUSUAL
    if text[at] == _DOT:
        at = _digits(text, at + 1)
        if at < 0:
            return UNUSUAL
    if text[at] == _E or text[at] == _LARGE_E:
        at += 1
        at += text[at] == _PLUS or text[at] == _MINUS
        at = _digits(text, at)
    return at


@_compiled
def _scalar(text: Bytes, at: int, out: Bytes, to: int, kind: int) -> tuple[int, int]:
    """Write one value after its tag; return the next places in both buffers."""
    if kind in (TEXT, HEX):
        if text[at] != _QUOTE:
            return UNUSUAL, to
        if kind == TEXT:
            return _text(text, at + 1, out, to)
        return _hex(text, at + 1, out, to)
    if kind == BOOL:
        if _is_word(text, at, _TRUE):
            return at + 4, _varint(out, to, 1)
        if _is_word(text, at, _FALSE):
            return at + 5, _varint(out, to, 0)
        return UNUSUAL, to
    at, value = _integer(text, at)
    if at < 0:
        return UNUSUAL, to
    if kind == INTEGER:
        return at, _varint(out, to, value)
    if kind == ZIGZAG:
        if not -0x80000000 <= value < 0x80000000:
            return UNUSUAL, to
        return at, _varint(out, to, value * 2 if value >= 0 else -value * 2 - 1)
    if kind != SIGNED64 and value < 0:
        return UNUSUAL, to
    if kind == COUNT:
        return at, _varint(out, to, value)
    if kind in (SHORT, ENUM, FIXED32):
        if value >= 0x80000000:
            return UNUSUAL, to
        if kind != FIXED32:
            return at, _varint(out, to, value)
    size = 4 if kind == FIXED32 else 8
    for place in range(size):
        out[to + place] = value >> 8 * place & 0xFF
    return at, to + size


@compiled(boundscheck=True)
def transcode(
    text: Bytes,
    out: Bytes,
    doubles: Ints,
    fields: Ints,
    names: Bytes,
    slots: Ints,
    message: int,
) -> tuple[int, int]:
    """Write the object in `text` as the message of this number.

    Parameters
    ----------
    out : filled with the request.
    doubles : filled, one row per double: its place in `out`, begin and end of its digits.
    fields, names, slots : see `transcode`.

    Returns
    -------
    The number of bytes written, or UNUSUAL; the number of doubles.
    """
    # Of each open object: its field, the place of its length, the message around it, and the bits
    # of the fields that it had.
    opened = np.empty(MAX_DEPTH, np.int64)
    length = np.empty(MAX_DEPTH, np.int64)
    holder = np.empty(MAX_DEPTH, np.int64)
    seen = np.zeros(MAX_DEPTH, np.int64)
    depth = to = count = 0
    at = _behind_space(text, 0)
    if text[at] != _OPEN:
        return UNUSUAL, 0
    at = _behind_space(text, at + 1)
    first = True
    while True:
        if text[at] == _CLOSE:
            at += 1
            if depth == 0:
                break
            if not _set_length(out, length[depth], to - length[depth] - LENGTH_BYTES):
                return UNUSUAL, 0
            at = _behind_space(text, at)
            field = opened[depth]
            if fields[field, REPEATED]:
                if text[at] == _COMMA:
                    at = _behind_space(text, at + 1)
                    if text[at] != _OPEN:
                        return UNUSUAL, 0
                    at = _behind_space(text, at + 1)
                    to = _varint(out, to, fields[field, TAG])
                    length[depth] = to
                    to += LENGTH_BYTES
                    seen[depth] = 0
                    first = True
                    continue
                if text[at] != _LIST_END:
                    return UNUSUAL, 0
                at = _behind_space(text, at + 1)
            message = holder[depth]
            depth -= 1
            first = False
            continue
        if not first:
            if text[at] != _COMMA:
                return UNUSUAL, 0
            at = _behind_space(text, at + 1)
        first = False
        if text[at] != _QUOTE:
            return UNUSUAL, 0
        at += 1
        start = at
        while text[at] != _QUOTE:
            at += 1
        field = _field(text, start, at, fields, names, slots, message)
        if field < 0:
            return UNUSUAL, 0
        bit = np.int64(1) << fields[field, SEEN]
        if seen[depth] & bit:
            return UNUSUAL, 0
        seen[depth] |= bit
        at = _behind_space(text, at + 1)
        if text[at] != _COLON:
            return UNUSUAL, 0
        at = _behind_space(text, at + 1)
        kind = fields[field, KIND]
        if text[at] == _N:
            if not _is_word(text, at, _NULL):
                return UNUSUAL, 0
            at = _behind_space(text, at + 4)
            continue
        repeated = fields[field, REPEATED]
        if repeated:
            if text[at] != _LIST:
                return UNUSUAL, 0
            at = _behind_space(text, at + 1)
            if text[at] == _LIST_END:
                at = _behind_space(text, at + 1)
                continue
        to = _varint(out, to, fields[field, TAG])
        if kind == MESSAGE:
            if text[at] != _OPEN:
                return UNUSUAL, 0
            at = _behind_space(text, at + 1)
            depth += 1
            opened[depth] = field
            length[depth] = to
            holder[depth] = message
            seen[depth] = 0
            to += LENGTH_BYTES
            message = fields[field, CHILD]
            first = True
            continue
        slot = to
        to += LENGTH_BYTES * repeated
        while True:
            if kind == DOUBLE:
                end = _number(text, at)
                doubles[count, 0], doubles[count, 1], doubles[count, 2] = to, at, end
                count += 1
                at = end
                to += 8
            elif kind == ENUM and text[at] == _QUOTE and text[at + 1] > _NINE:
                start = at + 1
                at = start
                while text[at] != _QUOTE:
                    at += 1
                value = _field(text, start, at, fields, names, slots, fields[field, CHILD])
                if value < 0:
                    return UNUSUAL, 0
                to = _varint(out, to, fields[value, TAG])
                at += 1
            else:
                at, to = _scalar(text, at, out, to, kind)
            if at < 0:
                return UNUSUAL, 0
            at = _behind_space(text, at)
            if not repeated:
                break
            if text[at] == _LIST_END:
                at = _behind_space(text, at + 1)
                if not _set_length(out, slot, to - slot - LENGTH_BYTES):
                    return UNUSUAL, 0
                break
            if text[at] != _COMMA:
                return UNUSUAL, 0
            at = _behind_space(text, at + 1)
    # Only white space may follow the document.
    while at < text.size:
        if text[at] != _SPACE and not 9 <= text[at] <= 10 and text[at] != 13:
            return UNUSUAL, 0
        at += 1
    if to > out.size:
        return UNUSUAL, 0
    return to, count
