"""Read attributes into their promoted column or into the maps of texts and numbers.

In:  a KeyValue message.
Out: the same columns and pairs as from `columns.TableBuilder` and `columns.text_pairs`.
"""

from apm_analytics.foundation.compiled import compiled_part
from apm_analytics.ingest.decode.columns import EXACT_INTEGER
from apm_analytics.ingest.wire import layout
from apm_analytics.ingest.wire.fields import ODD, read_field
from apm_analytics.ingest.wire.memory import (
    double_bits,
    load8,
    load32,
    load64,
    store32,
    store64,
)
from apm_analytics.ingest.wire.recall import (
    BOOL,
    DOUBLE,
    INTEGER,
    NOTHING,
    TEXT,
    is_known,
    note,
    place_of,
    recalled,
    tag_of,
)
from apm_analytics.ingest.wire.texts import (
    intern,
    intern_integer,
    number_value,
    same,
    small_integer,
)

_QUESTION_MARK = 63
# The promoted columns of integers, by their bit.
_INTEGER_COLUMNS = sum(
    1 << number for number, size in enumerate(layout.PROMOTED_SIZES) if size == 8
)
# A record of n bytes gives at most n texts, n rows in each frame and 2 n bytes of text: a field has
# 2 bytes at least, an attribute gives at most two pairs, an integer of n bytes 2 n digits.
_TEXTS_A_BYTE, _SPARE = 2, 64


@compiled_part
def has_room(shared: int, block: int, size: int) -> bool:
    """Return whether every buffer has room for any record of `size` bytes."""
    texts = load64(shared + layout.TEXTS)
    used = load32(load64(shared + layout.ENDS) + 4 * texts)
    enough = (
        texts + size + _SPARE <= load64(shared + layout.TEXTS_CAPACITY)
        and 2 * (load64(shared + layout.ENTERED) + size + _SPARE)
        <= load64(shared + layout.SLOT_MASK)
        and used + _TEXTS_A_BYTE * size + _SPARE <= load64(shared + layout.ARENA_CAPACITY)
    )
    for frame in layout.FRAMES:
        if load64(block + frame) + size > load64(block + frame + layout.CAPACITY):
            enough = False
    if not enough:
        store64(shared + layout.LACKING, block)
        store64(shared + layout.LACKING_SIZE, size)
    return enough


@compiled_part
def open_record(shared: int) -> None:
    """Begin the attributes of one record."""
    store64(shared + layout.MAP, load64(shared + layout.MAP) + 1)


@compiled_part
def open_item(shared: int) -> None:
    """Begin the attributes of one event, exemplar or link."""
    store64(shared + layout.ITEM_MAP, load64(shared + layout.ITEM_MAP) + 1)


@compiled_part
def _seen(shared: int, stamps: int, number: int, key: int) -> bool:
    """Return whether the current map has this key already, and add it."""
    stamp = load64(shared + stamps) + 4 * key
    present = load64(shared + number)
    if load32(stamp) == present:
        return True
    store32(stamp, present)
    return False


@compiled_part
def _put_text(shared: int, block: int, key: int, value: int) -> int:
    if _seen(shared, layout.TEXT_STAMPS, layout.MAP, key):
        return ODD
    count = load64(block + layout.TEXT_PAIR)
    store32(load64(block + layout.TEXT_KEY) + 4 * count, key)
    store32(load64(block + layout.TEXT_VALUE) + 4 * count, value)
    store64(block + layout.TEXT_PAIR, count + 1)
    return 0


@compiled_part
def _put_number(shared: int, block: int, key: int, bits: int) -> int:
    if _seen(shared, layout.NUMBER_STAMPS, layout.MAP, key):
        return ODD
    count = load64(block + layout.NUMBER_PAIR)
    store32(load64(block + layout.NUMBER_KEY) + 4 * count, key)
    store64(load64(block + layout.NUMBER_VALUE) + 8 * count, bits)
    store64(block + layout.NUMBER_PAIR, count + 1)
    return 0


@compiled_part
def _put_integer(shared: int, block: int, key: int, value: int) -> int:
    if -EXACT_INTEGER <= value <= EXACT_INTEGER:
        return _put_number(shared, block, key, double_bits(float(value)))
    return _put_text(shared, block, key, intern_integer(shared, value))


@compiled_part
def _value(at: int, end: int) -> tuple[int, int, int]:
    """Read an AnyValue: its kind, its value or address, its size; `ODD` for what is nested."""
    kind, held, size = NOTHING, 0, 0
    while at < end:
        field, value, start, at = read_field(at, end)
        if at < 0:
            return ODD, 0, 0
        if field >> 3 > 8:
            continue
        if kind != NOTHING:
            return ODD, 0, 0
        if field == 1 << 3 | 2:
            kind, held, size = TEXT, start, value
        elif field == 2 << 3:
            kind, held = BOOL, value
        elif field == 3 << 3:
            kind, held = INTEGER, value
        elif field == 4 << 3 | 1:
            kind, held = DOUBLE, value
        else:
            # Arrays, lists of pairs, bytes, indices; or a known field of another wire type.
            return ODD, 0, 0
    return kind, held, size


@compiled_part
def any_text(shared: int, field: int, at: int, end: int) -> int:
    """Return the code of an AnyValue as text, -1 for none, `ODD - 1` where the library must decide.

    `field` is that of `texts.number_value`.
    """
    kind, value, size = _value(at, end)
    if kind == NOTHING:
        return -1
    code = ODD
    if kind == TEXT:
        code = number_value(shared, field, value, size)
    elif kind == BOOL:
        code = layout.TRUE_CODE if value != 0 else layout.FALSE_CODE
    elif kind == INTEGER:
        code = intern_integer(shared, value)
    return code if code >= 0 else ODD - 1


@compiled_part
def _pair(at: int, end: int) -> tuple[int, int, int, int]:
    """Return where key and value of a KeyValue begin and their sizes."""
    key = value = at
    key_size = value_size = 0
    had_key = had_value = False
    while at < end:
        field, size, start, at = read_field(at, end)
        if at < 0:
            return ODD, 0, 0, 0
        if field == 1 << 3 | 2:
            if had_key:
                return ODD, 0, 0, 0
            key, key_size, had_key = start, size, True
        elif field == 2 << 3 | 2:
            if had_value:
                return ODD, 0, 0, 0
            value, value_size, had_value = start, size, True
    return key, key_size, value, value_size


@compiled_part
def _mark_key(shared: int, key: int) -> None:
    """Record a key that is not yet checked for privacy rules, or that has one."""
    place = load64(shared + layout.KEY_MARKS) + 4 * key
    mark = load32(place)
    if mark == layout.KEY_NEW:
        count = load64(shared + layout.ASKED_COUNT)
        store32(load64(shared + layout.ASKED) + 4 * count, key)
        store64(shared + layout.ASKED_COUNT, count + 1)
        store32(place, layout.KEY_ASKED)
    elif mark == layout.KEY_RULED:
        store64(shared + layout.UNSURE, 1)


@compiled_part
def attribute(shared: int, block: int, row: int, at: int, end: int) -> int:
    """Read one attribute of a record; `ODD` where the library must decide."""
    tag = tag_of(at, end - at)
    place = place_of(shared, tag)
    if tag != 0 and is_known(place, tag, at, end - at):
        key, kind, text, value, size = recalled(place)
        if kind != TEXT:
            value = text
    else:
        key_at, key_size, value_at, value_size = _pair(at, end)
        if key_at < 0:
            return ODD
        key = intern(shared, key_at, key_size)
        kind, value, size = _value(value_at, value_at + value_size)
        if key < 0 or kind < 0:
            return ODD
        text = value
        if kind == TEXT:
            text = number_value(shared, key, value, size)
            if text < 0:
                return ODD
        if tag != 0:
            note(place, tag, at, end - at, key, kind, text, value, size)
    _mark_key(shared, key)
    if key < layout.PLACE_COUNT:
        column = load8(load64(shared + layout.PLACE_COLUMN) + key)
        if _INTEGER_COLUMNS >> column & 1:
            whole = value
            if kind == TEXT:
                whole = small_integer(value, size)
            if kind == INTEGER or (kind == TEXT and whole >= 0):
                return _promote_integer(shared, block, row, column, key, whole, kind, text)
        elif kind == TEXT:
            return _promote_text(shared, block, row, column, key, text, value, size)
    if kind == TEXT:
        return _put_text(shared, block, key, text)
    if kind == INTEGER:
        return _put_integer(shared, block, key, value)
    if kind == DOUBLE:
        return _put_number(shared, block, key, value)
    if kind == BOOL:
        return _put_text(shared, block, key, layout.TRUE_CODE if value != 0 else layout.FALSE_CODE)
    return 0


@compiled_part
def _comes_first(shared: int, key: int, holder: int) -> bool:
    """Return whether a value takes precedence over the one that came under the name `holder`."""
    current = load64(shared + layout.PLACE_CURRENT)
    return key == holder or (load8(current + key) != 0 and load8(current + holder) == 0)


@compiled_part
def _promote_text(
    shared: int, block: int, row: int, column: int, key: int, text: int, at: int, size: int
) -> int:
    fitted = text
    if key == layout.TARGET_CODE:
        path = 0
        while path < size and load8(at + path) != _QUESTION_MARK:
            path += 1
        if path < size:
            if _put_text(shared, block, key, text) < 0:
                return ODD
            fitted = intern(shared, at, path)
            if fitted < 0:
                return ODD
    words = block + layout.FIRST_PROMOTED + layout.PROMOTED_WORDS * column
    cell = load64(words) + 4 * row
    filled = load64(words + layout.FILLED)
    if filled <= row:
        empty = load64(words) + 4 * filled
        while empty < cell:
            store32(empty, -1)
            empty += 4
        store32(cell, fitted)
        store64(words + layout.FILLED, row + 1)
        store64(words + layout.HOLDER, key)
        return 0
    prior, holder = load32(cell), load64(words + layout.HOLDER)
    if _comes_first(shared, key, holder):
        store32(cell, fitted)
        store64(words + layout.HOLDER, key)
        if key != holder or not same(shared, prior, fitted):
            return _put_text(shared, block, holder, prior)
    elif not same(shared, prior, fitted):
        return _put_text(shared, block, key, text)
    return 0


@compiled_part
def _promote_integer(
    shared: int, block: int, row: int, column: int, key: int, whole: int, kind: int, text: int
) -> int:
    words = block + layout.FIRST_PROMOTED + layout.PROMOTED_WORDS * column
    cell = load64(words) + 8 * row
    present = load64(block + layout.PRESENT) + 8 * row
    bit = 1 << (layout.FIRST_PROMOTED_BIT + column)
    if load64(present) & bit == 0:
        store64(cell, whole)
        store64(present, load64(present) | bit)
        store64(words + layout.HOLDER, key)
        store64(words + layout.FILLED, row + 1)
        return 0
    prior, holder = load64(cell), load64(words + layout.HOLDER)
    if _comes_first(shared, key, holder):
        store64(cell, whole)
        store64(words + layout.HOLDER, key)
        if key != holder or prior != whole:
            return _put_integer(shared, block, holder, prior)
    elif prior != whole:
        if kind == TEXT:
            return _put_text(shared, block, key, text)
        return _put_integer(shared, block, key, whole)
    return 0


@compiled_part
def item_attribute(shared: int, block: int, at: int, end: int) -> int:
    """Read one attribute of an event, exemplar or link; every value becomes text."""
    key_at, key_size, value_at, value_size = _pair(at, end)
    if key_at < 0:
        return ODD
    key = intern(shared, key_at, key_size)
    if key < 0:
        return ODD
    _mark_key(shared, key)
    value = any_text(shared, key, value_at, value_at + value_size)
    if value < -1 or _seen(shared, layout.ITEM_STAMPS, layout.ITEM_MAP, key):
        return ODD
    count = load64(block + layout.ITEM_PAIR)
    store32(load64(block + layout.PAIR_KEY) + 4 * count, key)
    store32(
        load64(block + layout.PAIR_VALUE) + 4 * count, value if value >= 0 else layout.NULL_CODE
    )
    store64(block + layout.ITEM_PAIR, count + 1)
    return 0
