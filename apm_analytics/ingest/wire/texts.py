"""Number every text of a batch once: equal texts get equal codes.

In:  texts as addresses and sizes.
Out: codes from 0 on; the texts lie behind each other in the arena, as Arrow wants them.
"""

from apm_analytics.ingest.wire.compiled import compiled
from apm_analytics.ingest.wire.fields import ODD
from apm_analytics.ingest.wire.layout import (
    ARENA,
    ENDS,
    ITEM_STAMPS,
    KEY_MARKS,
    KEY_NEW,
    NUMBER_STAMPS,
    SCRATCH,
    SLOT_MASK,
    SLOTS,
    TEXT_STAMPS,
    TEXTS,
)
from apm_analytics.ingest.wire.memory import (
    copy,
    equal,
    load8,
    load32,
    load64,
    store8,
    store32,
    store64,
)

_ODD_FACTOR = -7046029254386353131  # 2**64 divided by the golden ratio
_UPPER = -(1 << 32)
_NO_ASCII = -9187201950435737472  # the upper bit of each of 8 bytes
# Of 20 digits, sign included, is the longest 64-bit integer.
LONGEST_INTEGER = 20


@compiled
def _mix(hashed: int, piece: int) -> int:
    hashed = (hashed ^ piece) * _ODD_FACTOR
    return hashed ^ ((hashed >> 29) & 0x7FFFFFFFF)


@compiled
def _hash(at: int, size: int) -> int:
    hashed = size
    if size >= 8:
        last = at + size - 8
        while at < last:
            hashed = _mix(hashed, load64(at))
            at += 8
        hashed = _mix(hashed, load64(last))
    elif size >= 4:
        hashed = _mix(hashed, (load32(at) << 32) ^ (load32(at + size - 4) & 0xFFFFFFFF))
    elif size > 0:
        hashed = _mix(hashed, (load8(at) << 16) | load8(at + size - 1) << 8 | load8(at + size // 2))
    return _mix(hashed, size)


@compiled
def is_utf8(at: int, size: int) -> bool:
    """Tell whether bytes are UTF-8, without surrogates and overlong forms."""
    end = at + size
    while at < end:
        if end - at >= 8 and load64(at) & _NO_ASCII == 0:
            at += 8
            continue
        first = load8(at)
        at += 1
        if first < 0x80:
            continue
        if first < 0xC2 or first > 0xF4:
            return False
        more = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
        if end - at < more:
            return False
        second = load8(at)
        lowest = 0xA0 if first == 0xE0 else 0x90 if first == 0xF0 else 0x80
        highest = 0x9F if first == 0xED else 0x8F if first == 0xF4 else 0xBF
        if second < lowest or second > highest:
            return False
        for number in range(1, more):
            if load8(at + number) & 0xC0 != 0x80:
                return False
        at += more
    return True


@compiled
def intern(shared: int, at: int, size: int) -> int:
    """Give the code of a text, new or known; `ODD` where it is no UTF-8."""
    hashed = _hash(at, size)
    slots, mask = load64(shared + SLOTS), load64(shared + SLOT_MASK)
    ends, arena = load64(shared + ENDS), load64(shared + ARENA)
    place = hashed & mask
    while True:
        slot = load64(slots + 8 * place)
        if slot == 0:
            break
        if (slot ^ hashed) & _UPPER == 0:
            code = (slot & 0xFFFFFFFF) - 1
            start = load32(ends + 4 * code)
            if load32(ends + 4 * code + 4) - start == size and equal(arena + start, at, size):
                return code
        place = (place + 1) & mask
    if not is_utf8(at, size):
        return ODD
    code = load64(shared + TEXTS)
    start = load32(ends + 4 * code)
    copy(arena + start, at, size)
    store32(ends + 4 * code + 4, start + size)
    store32(load64(shared + TEXT_STAMPS) + 4 * code, -1)
    store32(load64(shared + NUMBER_STAMPS) + 4 * code, -1)
    store32(load64(shared + ITEM_STAMPS) + 4 * code, -1)
    store32(load64(shared + KEY_MARKS) + 4 * code, KEY_NEW)
    store64(slots + 8 * place, (hashed & _UPPER) | (code + 1))
    store64(shared + TEXTS, code + 1)
    return code


@compiled
def forget(shared: int, kept: int) -> None:
    """Remove all texts from code `kept` on, the newest first."""
    slots, mask = load64(shared + SLOTS), load64(shared + SLOT_MASK)
    ends, arena = load64(shared + ENDS), load64(shared + ARENA)
    code = load64(shared + TEXTS) - 1
    while code >= kept:
        start = load32(ends + 4 * code)
        place = _hash(arena + start, load32(ends + 4 * code + 4) - start) & mask
        while load64(slots + 8 * place) & 0xFFFFFFFF != code + 1:
            place = (place + 1) & mask
        store64(slots + 8 * place, 0)
        code -= 1
    store64(shared + TEXTS, kept)


@compiled
def rehash(shared: int) -> None:
    """Enter all texts into a new, empty hash table."""
    slots, mask = load64(shared + SLOTS), load64(shared + SLOT_MASK)
    ends, arena = load64(shared + ENDS), load64(shared + ARENA)
    for code in range(load64(shared + TEXTS)):
        start = load32(ends + 4 * code)
        hashed = _hash(arena + start, load32(ends + 4 * code + 4) - start)
        place = hashed & mask
        while load64(slots + 8 * place) != 0:
            place = (place + 1) & mask
        store64(slots + 8 * place, (hashed & _UPPER) | (code + 1))


@compiled
def intern_integer(shared: int, value: int) -> int:
    """Give the code of an integer's decimal text."""
    end = load64(shared + SCRATCH) + LONGEST_INTEGER
    at = end
    # Counted below zero, where the least 64-bit integer has a place too.
    rest = value if value < 0 else -value
    while True:
        quotient = -(-rest // 10) if rest > -(2**63) else -922337203685477580
        at -= 1
        store8(at, 48 + (quotient * 10 - rest))
        rest = quotient
        if rest == 0:
            break
    if value < 0:
        at -= 1
        store8(at, 45)
    return intern(shared, at, end - at)


@compiled
def small_integer(at: int, size: int) -> int:
    """Read a text of 1 to 18 decimal digits; `ODD` for any other."""
    if size < 1 or size > 18:
        return ODD
    value = 0
    for number in range(size):
        digit = load8(at + number) - 48
        if digit < 0 or digit > 9:
            return ODD
        value = 10 * value + digit
    return value
