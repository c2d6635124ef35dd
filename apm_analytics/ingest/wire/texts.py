"""Number the texts of a batch; equal texts get equal codes, except values that hardly repeat.

In:  texts as addresses and sizes.
Out: codes from 0 on; the texts lie one after another in the arena, as Arrow needs them.

Looking up a new text waits for memory, the longer the larger the hash table. Values of fields that
hardly repeat (ids, paths) are therefore mostly appended without a look-up.
"""

from apm_analytics.foundation.compiled import compiled_part
from apm_analytics.ingest.wire import layout
from apm_analytics.ingest.wire.fields import ODD
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
from apm_analytics.ingest.wire.recall import forget_texts

_ODD_FACTOR = -7046029254386353131  # 2**64 divided by the golden ratio
_UPPER = -(1 << 32)
_NO_ASCII = -9187201950435737472  # the upper bit of each of 8 bytes
# Characters of the longest 64-bit integer, sign included.
LONGEST_INTEGER = 20
# A field counts as hardly repeating once it had _NOVEL more new texts than repeated ones, where a
# repeated text counts _HIT times. If that difference would fall below 0, the field counts as
# repeating for the rest of the batch.
_NOVEL, _HIT, _SETTLED = 64, 8, -1
# One in 16 of its texts is looked up nevertheless, to notice when they begin to repeat.
_TRIED = 15
# Bytes; shorter texts repeat sooner or later.
_SHORT = 8


@compiled_part
def _mix(hashed: int, piece: int) -> int:
    hashed = (hashed ^ piece) * _ODD_FACTOR
    return hashed ^ ((hashed >> 29) & 0x7FFFFFFFF)


@compiled_part
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


@compiled_part
def is_utf8(at: int, size: int) -> bool:
    """Return whether bytes are UTF-8, without surrogates and overlong forms."""
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


@compiled_part
def intern(shared: int, at: int, size: int) -> int:
    """Return the code of a text, new or known; `ODD` where it is not UTF-8."""
    hashed = _hash(at, size)
    slots, mask = load64(shared + layout.SLOTS), load64(shared + layout.SLOT_MASK)
    ends, arena = load64(shared + layout.ENDS), load64(shared + layout.ARENA)
    place = _home(hashed, mask)
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
    code = _append(shared, at, size)
    if code >= 0:
        store64(slots + 8 * place, (hashed & _UPPER) | (code + 1))
        store64(shared + layout.ENTERED, load64(shared + layout.ENTERED) + 1)
    return code


@compiled_part
def optional(code: int) -> int:
    """Return a text's code, -1 where the text is empty."""
    return code if code != layout.EMPTY_CODE else -1


@compiled_part
def _home(slot: int, mask: int) -> int:
    """Return where the search for a hash, or for the hash in a slot, begins."""
    return (slot >> 32) & mask


@compiled_part
def _append(shared: int, at: int, size: int) -> int:
    if not is_utf8(at, size):
        return ODD
    code = load64(shared + layout.TEXTS)
    ends = load64(shared + layout.ENDS)
    start = load32(ends + 4 * code)
    copy(load64(shared + layout.ARENA) + start, at, size)
    store32(ends + 4 * code + 4, start + size)
    store32(load64(shared + layout.TEXT_STAMPS) + 4 * code, -1)
    store32(load64(shared + layout.NUMBER_STAMPS) + 4 * code, -1)
    store32(load64(shared + layout.ITEM_STAMPS) + 4 * code, -1)
    store32(load64(shared + layout.KEY_MARKS) + 4 * code, layout.KEY_NEW)
    store64(shared + layout.TEXTS, code + 1)
    return code


@compiled_part
def number_value(shared: int, field: int, at: int, size: int) -> int:
    """Return a code of a value of a field of `layout.NOVELTY`; compare such codes with `same`."""
    if field > layout.BODIES:
        return intern(shared, at, size)
    novelty = load64(shared + layout.NOVELTY) + 4 * field
    if load32(novelty) == _SETTLED:
        return intern(shared, at, size)
    return _number_novel(shared, novelty, at, size)


@compiled_part
def _number_novel(shared: int, novelty: int, at: int, size: int) -> int:
    novel = load32(novelty)
    if novel >= _NOVEL and novel & _TRIED != 0 and size >= _SHORT:
        store32(novelty, novel + 1)
        return _append(shared, at, size)
    count = load64(shared + layout.TEXTS)
    code = intern(shared, at, size)
    if code >= count:
        store32(novelty, novel + 1)
    elif novel >= _HIT:
        store32(novelty, min(novel, _NOVEL) - _HIT)
    else:
        store32(novelty, _SETTLED)
    return code


@compiled_part
def same(shared: int, one: int, other: int) -> bool:
    """Return whether two codes, -1 for none, stand for equal texts."""
    if one == other or one < 0 or other < 0:
        return one == other
    ends, arena = load64(shared + layout.ENDS), load64(shared + layout.ARENA)
    start, second = load32(ends + 4 * one), load32(ends + 4 * other)
    size = load32(ends + 4 * one + 4) - start
    return load32(ends + 4 * other + 4) - second == size and equal(
        arena + start, arena + second, size
    )


@compiled_part
def forget(shared: int, kept: int) -> None:
    """Remove all texts from code `kept` on."""
    slots, mask = load64(shared + layout.SLOTS), load64(shared + layout.SLOT_MASK)
    ends, arena = load64(shared + layout.ENDS), load64(shared + layout.ARENA)
    for code in range(kept, load64(shared + layout.TEXTS)):
        start = load32(ends + 4 * code)
        place = _home(_hash(arena + start, load32(ends + 4 * code + 4) - start), mask)
        slot = load64(slots + 8 * place)
        while slot != 0 and slot & 0xFFFFFFFF != code + 1:
            place = (place + 1) & mask
            slot = load64(slots + 8 * place)
        if slot != 0:
            _take_out(slots, mask, place)
            store64(shared + layout.ENTERED, load64(shared + layout.ENTERED) - 1)
    store64(shared + layout.TEXTS, kept)
    forget_texts(shared, kept)


@compiled_part
def _take_out(slots: int, mask: int, hole: int) -> None:
    """Empty a slot, and move up the entries that a search would no longer reach."""
    place = (hole + 1) & mask
    slot = load64(slots + 8 * place)
    while slot != 0:
        if (place - _home(slot, mask)) & mask >= (place - hole) & mask:
            store64(slots + 8 * hole, slot)
            hole = place
        place = (place + 1) & mask
        slot = load64(slots + 8 * place)
    store64(slots + 8 * hole, 0)


@compiled_part
def rehash(shared: int, old: int, old_slots: int) -> None:
    """Enter the texts of another hash table into the present one, which is empty.

    Parameters
    ----------
    old, old_slots : address and number of slots of the other table.
    """
    slots, mask = load64(shared + layout.SLOTS), load64(shared + layout.SLOT_MASK)
    for number in range(old_slots):
        slot = load64(old + 8 * number)
        if slot != 0:
            place = _home(slot, mask)
            while load64(slots + 8 * place) != 0:
                place = (place + 1) & mask
            store64(slots + 8 * place, slot)


@compiled_part
def intern_integer(shared: int, value: int) -> int:
    """Return the code of an integer's decimal text."""
    end = load64(shared + layout.SCRATCH) + LONGEST_INTEGER
    at = end
    # Negative, because the least 64-bit integer has no positive counterpart.
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


@compiled_part
def small_integer(at: int, size: int) -> int:
    """Return the value of a text of 1 to 18 decimal digits; `ODD` for any other text."""
    if size < 1 or size > 18:
        return ODD
    value = 0
    for number in range(size):
        digit = load8(at + number) - 48
        if digit < 0 or digit > 9:
            return ODD
        value = 10 * value + digit
    return value
