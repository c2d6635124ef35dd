"""Find the texts of an OTLP request that a privacy rule might change, without parsing it.

In:  the bytes of a protobuf request, what the rules look for.
Out: the places of keys and texts that must be looked at; in clean traffic there are none.

Compiled, and free of Python's lock. Conservative: what is not plain ASCII, what holds a part that
some rule needs, and what cannot be read is always reported. Nothing here reads past `end`.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

# What a field of a message is.
# ODD is a second key, which no encoder writes.
SKIP, TEXT, KEY_VALUE, ODD, FIRST_MESSAGE = 0, 1, 2, 3, 4
# Rows of the table of fields that `scan` itself knows.
REQUEST_ROW, KEY_VALUE_ROW, ANY_VALUE_ROW = 0, 1, 2
FIELDS = 32  # no OTLP message has a field number above it that holds text
MAX_DEPTH = 64
# Columns of what is found; a key without place is -1: a text of its own.
KEY_AT, KEY_SIZE, TEXT_AT, TEXT_SIZE = 0, 1, 2, 3
NOT_TEXT = -1  # as TEXT_SIZE: the value under the key is no text
# What `scan` answers besides the number of places found.
UNREADABLE, TOO_MANY = -1, -2

TRIGRAMS = 8192
KEY_SLOTS = 16384
MIN_CARD_DIGITS = 13
KNOWN_CLEAN, KNOWN_RULED = 1, 2

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


@njit(inline="always")
def _varint(data, at, end):  # type: ignore[no-untyped-def]
    """Read a length or tag; the new position is -1 where it does not end."""
    value = np.int64(0)
    shift = np.int64(0)
    while at < end and shift < 35:
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return value, np.int64(-1)


@njit(inline="always")
def _trigram(a, b, c):  # type: ignore[no-untyped-def]
    word = np.uint64(a | 0x20) | np.uint64(b | 0x20) << np.uint64(8)
    word |= np.uint64(c | 0x20) << np.uint64(16)
    return np.int64(word * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(51))


@njit(inline="always")
def _key_hash(data, at, size):  # type: ignore[no-untyped-def]
    value = np.uint64(size + 1) * np.uint64(0x9E3779B97F4A7C15)
    for place in range(at, at + size):
        value = (value ^ np.uint64(data[place])) * np.uint64(0x100000001B3)
    return value ^ (value >> np.uint64(29))


@njit(cache=True, nogil=True)
def key_hash(data, at, size):  # type: ignore[no-untyped-def]
    """Hash a key as `scan` does."""
    return _key_hash(data, at, size)


@njit(cache=True, nogil=True)
def trigram(a, b, c):  # type: ignore[no-untyped-def]
    """Give the slot of a part's first three bytes, as `scan` does."""
    return _trigram(a, b, c)


@njit(inline="always")
def _suspicious(data, at, size, first, following, parts, part_at):  # type: ignore[no-untyped-def]
    """Tell whether a text holds what some pattern needs."""
    end = at + size
    for place in range(at, end):
        byte = data[place]
        if byte >= 0x80 or byte == 0x40:
            return True
        if place + 2 < end:
            part = first[_trigram(byte, data[place + 1], data[place + 2])]
            while part >= 0:
                length = part_at[part + 1] - part_at[part]
                if place + length <= end:
                    same = True
                    for offset in range(length):
                        if data[place + offset] | 0x20 != parts[part_at[part] + offset]:
                            same = False
                            break
                    if same:
                        return True
                part = following[part]
    # A run of 13 digits, with a blank or dash between groups, covers one of these places.
    place = at + MIN_CARD_DIGITS - 1
    while place < end:
        if _in_number(data[place]):
            digits = 0
            left = place
            while left >= at and _in_number(data[left]):
                digits += data[left] >= 0x30
                left -= 1
            right = place + 1
            while right < end and _in_number(data[right]):
                digits += data[right] >= 0x30
                right += 1
            if digits >= MIN_CARD_DIGITS:
                return True
        place += MIN_CARD_DIGITS - 1
    return False


@njit(inline="always")
def _in_number(byte):  # type: ignore[no-untyped-def]
    return (0x30 <= byte <= 0x39) or byte == 0x20 or byte == 0x2D


@njit(cache=True, nogil=True)
def scan(data, fields, first, following, parts, part_at, key_hashes, key_known, found):  # type: ignore[no-untyped-def]
    """Walk one request; the roots of the messages are in `fields`, row 0 the request itself.

    Parameters
    ----------
    data : the request.
    fields : (messages, FIELDS): SKIP, TEXT, KEY_VALUE, or FIRST_MESSAGE + the row of a message.
    first, following, parts, part_at : needed parts by the hash of their first three bytes.
    key_hashes, key_known : what is known of keys, see `Redactor`.
    found : (places, 4), filled.

    Returns
    -------
    The number of places found, UNREADABLE, or TOO_MANY.
    """
    ends = np.empty(MAX_DEPTH, np.int64)
    rows = np.empty(MAX_DEPTH, np.int64)
    keys = np.empty((MAX_DEPTH, 3), np.int64)  # place, size, what is known of it
    depth = 0
    ends[0] = len(data)
    rows[0] = REQUEST_ROW
    keys[0, 0] = -1
    keys[0, 1] = -1
    keys[0, 2] = KNOWN_CLEAN
    count = 0
    at = np.int64(0)
    while True:
        if at >= ends[depth]:
            if at > ends[depth]:
                return UNREADABLE
            if depth == 0:
                return count
            depth -= 1
            continue
        end = ends[depth]
        tag, at = _varint(data, at, end)
        if at < 0:
            return UNREADABLE
        kind = tag & 7
        number = tag >> 3
        what = fields[rows[depth], number] if number < FIELDS else SKIP
        size = np.int64(0)
        if kind == 2:
            size, at = _varint(data, at, end)
            if at < 0 or size > end - at or what == ODD:
                return UNREADABLE
        elif what != SKIP:
            return UNREADABLE
        ruled = keys[depth, 2] != KNOWN_CLEAN
        if what == KEY_VALUE or what >= FIRST_MESSAGE:
            if depth + 1 >= MAX_DEPTH:
                return UNREADABLE
            report = ruled and rows[depth] == ANY_VALUE_ROW  # a list under a key
        else:
            report = ruled or (
                what == TEXT and _suspicious(data, at, size, first, following, parts, part_at)
            )
        if report:
            if count == len(found):
                return TOO_MANY
            found[count, KEY_AT] = keys[depth, 0]
            found[count, KEY_SIZE] = keys[depth, 1]
            found[count, TEXT_AT] = at
            found[count, TEXT_SIZE] = size if what == TEXT else NOT_TEXT
            count += 1
        if what == KEY_VALUE:
            stop = at + size
            # The key comes first in what every known encoder writes.
            if size < 2 or data[at] != 0x0A:
                return UNREADABLE
            length, start = _varint(data, at + 1, stop)
            if start < 0 or length > stop - start:
                return UNREADABLE
            hashed = _key_hash(data, start, length)
            slot = np.int64(hashed & np.uint64(KEY_SLOTS - 1))
            while key_known[slot] != 0 and key_hashes[slot] != hashed:
                slot = (slot + 1) & (KEY_SLOTS - 1)
            depth += 1
            ends[depth] = stop
            rows[depth] = KEY_VALUE_ROW
            keys[depth, 0] = start
            keys[depth, 1] = length
            keys[depth, 2] = key_known[slot]
            at = start + length
        elif what >= FIRST_MESSAGE:
            depth += 1
            ends[depth] = at + size
            rows[depth] = what - FIRST_MESSAGE
            keys[depth, 0] = keys[depth - 1, 0]
            keys[depth, 1] = keys[depth - 1, 1]
            keys[depth, 2] = keys[depth - 1, 2]
        elif kind == 2:
            at += size
        elif kind == 0:
            while at < end and data[at] >= 0x80:
                at += 1
            at += 1
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        else:
            return UNREADABLE
