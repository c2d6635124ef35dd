"""Find the texts of an OTLP request that a privacy rule might change, without parsing it.

In:  the bytes of a protobuf request, the parts and keys that the rules look for.
Out: the places of keys and texts that must be checked; none in clean traffic.

Compiled code that runs without the interpreter's lock. It reports texts that are not plain ASCII,
texts with a part that some rule needs, and requests that it cannot read. Nothing is read past the
request's end: `wire.fields` checks that every field ends within its message.
"""

from collections.abc import Callable

from apm_analytics.foundation.compiled import compiled, compiled_part
from apm_analytics.ingest.wire.entries import sources_hash
from apm_analytics.ingest.wire.fields import LENGTH, read_field
from apm_analytics.ingest.wire.memory import load8, load32, load64, store64

# The kinds of fields of a message. No encoder writes a second key.
SKIP, TEXT, KEY_VALUE, SECOND_KEY, FIRST_MESSAGE = 0, 1, 2, 3, 4
# Rows of the table of fields that `scan` itself knows.
REQUEST_ROW, KEY_VALUE_ROW, ANY_VALUE_ROW = 0, 1, 2
FIELDS = 32  # no OTLP message has a field number above it that holds text
MAX_DEPTH = 64
# Columns of a reported place; KEY_AT is -1 for a text without a key.
KEY_AT, KEY_SIZE, TEXT_AT, TEXT_SIZE = 0, 1, 2, 3
NOT_TEXT = -1  # as TEXT_SIZE: the value of the key is not a text
# Results of `scan` besides the number of places.
UNREADABLE, TOO_MANY, CROWDED = -1, -2, -3

TRIGRAMS = 8192
_PAIR = 0x7F7F  # two bytes of ASCII
PAIRS = _PAIR + 1
KEY_SLOTS = 16384
MIN_CARD_DIGITS = 13
# Attributes of one record, or entries of one value; SDKs send at most 128 by default.
MAX_PAIRS = 10_000
KEY_TAG = 1 << 3 | LENGTH
FRAME = 48  # bytes of one stack frame
KNOWN_CLEAN, KNOWN_RULED = 1, 2

_HIGH_BITS = -0x7F7F7F7F7F7F7F80  # 0x80 in every byte
_AT_SIGNS = 0x4040404040404040
_BLANKS = 0x2020202020202020  # set in a letter, it makes it lower-case
_ONES = 0x0101010101010101


@compiled_part
def _slot(three: int) -> int:
    """Hash three bytes in lower case."""
    return (three * 0x9E3779B1 >> 19) & (TRIGRAMS - 1)


@compiled()
def slot(three: int) -> int:
    """Return the slot of a part's first three bytes."""
    return _slot(three)


@compiled_part
def _key_hash(at: int, size: int) -> int:
    hashed = size * 0x9E3779B97F4A7C1
    while size >= 8:
        hashed = (hashed ^ load64(at)) * 0x2545F4914F6CDD1D
        hashed ^= hashed >> 31
        at += 8
        size -= 8
    for place in range(at, at + size):
        hashed = (hashed ^ load8(place)) * 0x100000001B3
    hashed ^= hashed >> 29
    return hashed


@compiled()
def key_hash(at: int, size: int) -> int:
    """Return the hash of a key."""
    return _key_hash(at, size)


@compiled_part
def _holds_part(place: int, end: int, first: int, tables: int) -> bool:
    """Return whether one of the parts of a slot is at a place.

    `first` is the first part of the slot; for `tables` see `_scan`.
    """
    following, parts, part_at = load64(tables + 16), load64(tables + 24), load64(tables + 32)
    part = first
    while part >= 0:
        start = load64(part_at + 8 * part)
        length = load64(part_at + 8 * part + 8) - start
        if place + length <= end:
            same = 0
            while same < length and load8(place + same) | 0x20 == load8(parts + start + same):
                same += 1
            if same == length:
                return True
        part = load64(following + 8 * part)
    return False


@compiled_part
def _suspicious_word(place: int, end: int, tables: int) -> bool:
    """Return whether a part begins in the first six of eight bytes, or one is "@" or not ASCII."""
    word = load64(place)
    other = word ^ _AT_SIGNS
    if word & _HIGH_BITS or (other - _ONES) & ~other & _HIGH_BITS:
        return True
    lower = word | _BLANKS
    # Any three successive bytes contain one of these three pairs.
    pairs = load64(tables + 64)
    if not (
        load8(pairs + (lower >> 8 & _PAIR))
        | load8(pairs + (lower >> 24 & _PAIR))
        | load8(pairs + (lower >> 40 & _PAIR))
    ):
        return False
    marks, first = load64(tables), load64(tables + 8)
    for byte in range(6):
        part_slot = _slot(lower >> 8 * byte & 0xFFFFFF)
        if load8(marks + part_slot) and _holds_part(
            place + byte, end, load64(first + 8 * part_slot), tables
        ):
            return True
    return False


@compiled_part
def _suspicious(at: int, size: int, tables: int) -> bool:
    """Return whether a text contains what some pattern needs."""
    end = at + size
    if size >= 8:
        place = at
        while place + 8 < end:
            if _suspicious_word(place, end, tables):
                return True
            place += 6
        if _suspicious_word(end - 8, end, tables):
            return True
    else:
        marks, first = load64(tables), load64(tables + 8)
        for place in range(at, end):
            byte = load8(place)
            if byte >= 0x80 or byte == 0x40:
                return True
            if place + 2 < end:
                three = byte | load8(place + 1) << 8 | load8(place + 2) << 16
                part_slot = _slot(three | 0x202020)
                part = load64(first + 8 * part_slot)
                if load8(marks + part_slot) and _holds_part(place, end, part, tables):
                    return True
    # A run of 13 digits, with a blank or dash between groups, covers one of these places.
    place = at + MIN_CARD_DIGITS - 1
    while place < end:
        if _in_number(load8(place)) and _digits_around(place, at, end) >= MIN_CARD_DIGITS:
            return True
        place += MIN_CARD_DIGITS - 1
    return False


@compiled_part
def _in_number(byte: int) -> bool:
    return (0x30 <= byte <= 0x39) or byte == 0x20 or byte == 0x2D


@compiled_part
def _digits_around(place: int, at: int, end: int) -> int:
    digits = 0
    left = place
    while left >= at and _in_number(load8(left)):
        digits += load8(left) >= 0x30
        left -= 1
    right = place + 1
    while right < end and _in_number(load8(right)):
        digits += load8(right) >= 0x30
        right += 1
    return digits


@compiled_part
def _scan(start: int, size: int, tables: int, stack: int, reported: int, places: int) -> int:
    """Scan one request.

    Parameters
    ----------
    start, size : address of the request, and its bytes.
    tables : address of the addresses of nine tables. Of needed parts: marks (one byte per slot),
        the first part of each slot, the next part of the same slot, the bytes of all parts,
        where each begins. Of keys: their hashes, KNOWN_CLEAN or KNOWN_RULED. Of messages: the
        kinds of their fields, FIELDS per message. Of needed parts: marks of the two pairs in
        the first three bytes of each.
    stack : address of MAX_DEPTH times FRAME bytes of working memory.
    reported : address of `places` times KEY_AT, KEY_SIZE, TEXT_AT, TEXT_SIZE, filled.

    Returns
    -------
    The number of places, or UNREADABLE, TOO_MANY (places), CROWDED (too many attributes).
    """
    hashes, known_keys, fields = load64(tables + 40), load64(tables + 48), load64(tables + 56)
    # The innermost message; those around it are on the stack.
    end = start + size
    row = REQUEST_ROW
    key_at = key_size = -1
    known = KNOWN_CLEAN
    depth = 0
    pairs = 0
    count = 0
    at = start
    while True:
        if at >= end:
            if depth == 0:
                return count
            depth -= 1
            frame = stack + FRAME * depth
            end, row, pairs = load64(frame), load64(frame + 8), load64(frame + 40)
            key_at, key_size, known = load64(frame + 16), load64(frame + 24), load64(frame + 32)
            continue
        tag, size, at, behind = read_field(at, end)
        if behind < 0:
            return UNREADABLE
        number = tag >> 3
        what = load64(fields + 8 * (FIELDS * row + number)) if number < FIELDS else SKIP
        if what == SECOND_KEY or (what != SKIP and tag & 7 != LENGTH):
            return UNREADABLE
        ruled = known != KNOWN_CLEAN
        nested = what == KEY_VALUE or what >= FIRST_MESSAGE
        if nested:
            report = ruled and row == ANY_VALUE_ROW  # a list under a key
        else:
            report = ruled or (what == TEXT and _suspicious(at, size, tables))
        if report:
            if count == places:
                return TOO_MANY
            place = reported + 32 * count
            store64(place, key_at - start if key_at >= 0 else -1)
            store64(place + 8, key_size)
            store64(place + 16, at - start)
            store64(place + 24, size if what == TEXT else NOT_TEXT)
            count += 1
        if nested:
            if depth == MAX_DEPTH:
                return UNREADABLE
            frame = stack + FRAME * depth
            store64(frame, end)
            store64(frame + 8, row)
            store64(frame + 16, key_at)
            store64(frame + 24, key_size)
            store64(frame + 32, known)
            if what == KEY_VALUE:
                pairs += 1
                if pairs > MAX_PAIRS:
                    return CROWDED
            store64(frame + 40, pairs)
            pairs = 0
            depth += 1
            end = behind
            if what != KEY_VALUE:
                row = what - FIRST_MESSAGE
                continue
            # Every known encoder writes the key first.
            if size < 2 or load8(at) != KEY_TAG:
                return UNREADABLE
            row = KEY_VALUE_ROW
            _, key_size, key_at, at = read_field(at, end)
            if at < 0:
                return UNREADABLE
            hashed = _key_hash(key_at, key_size)
            key_slot = hashed & (KEY_SLOTS - 1)
            known = load64(known_keys + 8 * key_slot)
            while known != 0 and load64(hashes + 8 * key_slot) != hashed:
                key_slot = (key_slot + 1) & (KEY_SLOTS - 1)
                known = load64(known_keys + 8 * key_slot)
        else:
            at = behind


@compiled_part
def _screen(
    starts: int, content: int, first: int, last: int, tables: int, reported: int, places: int
) -> int:
    """Find texts that some pattern might change, among texts that lie one after another.

    Parameters
    ----------
    starts, content : addresses of where each text begins (int32), and of the bytes of all.
    first, last : the numbers of the first text and of the one behind the last.
    tables : as for `scan`.
    reported : address of `places` integers, filled with the numbers of the texts reported.

    Returns
    -------
    The number of texts reported, or TOO_MANY.
    """
    count = 0
    for number in range(first, last):
        at = load32(starts + 4 * number)
        if _suspicious(content + at, load32(starts + 4 * number + 4) - at, tables):
            if count == places:
                return TOO_MANY
            store64(reported + 8 * count, number)
            count += 1
    return count


_Scan = Callable[[int, int, int, int, int, int], int]
_Screen = Callable[[int, int, int, int, int, int, int], int]


def _compile(version: int) -> tuple[_Scan, _Screen]:
    # `version` is never 0; see `entries.sources_hash`.

    @compiled()
    def scan(start: int, size: int, tables: int, stack: int, reported: int, places: int) -> int:
        """Scan one request; see `_scan`."""
        return _scan(start, size, tables, stack, reported, places) if version else 0

    @compiled()
    def screen(
        starts: int, content: int, first: int, last: int, tables: int, reported: int, places: int
    ) -> int:
        """Find texts that some pattern might change; see `_screen`."""
        return _screen(starts, content, first, last, tables, reported, places) if version else 0

    return scan, screen


scan, screen = _compile(sources_hash())
