"""Recall attributes that came before, key and value together.

In:  a KeyValue message.
Out: the result of reading the same bytes before, or the place where to store it.

Most attributes repeat. One look-up in a small table, which stays in the processor's cache, replaces
reading the message and two look-ups among all texts of the batch.
"""

from apm_analytics.foundation.compiled import compiled_part
from apm_analytics.ingest.wire import layout
from apm_analytics.ingest.wire.memory import copy, equal, load64, store64

# The kinds of an attribute's value.
NOTHING, TEXT, BOOL, INTEGER, DOUBLE = range(5)
# A place holds the tag of its message; the tag that was missed last; key, kind, the offset of the
# text in the message and its size; the value, or the code of the text; the message.
_TAG, _MISSED, _WHAT, _VALUE, _MESSAGE = range(0, 40, 8)
_LEAST_BYTES, _MOST_BYTES = 10, layout.RECALLED_PLACE_BYTES - _MESSAGE
_ODD_FACTOR = -7046029254386353131  # 2**64 divided by the golden ratio


@compiled_part
def tag_of(at: int, size: int) -> int:
    """Return a message's tag, made of hash and size; 0 where it is too short or too long.

    Only both ends are hashed; messages that differ in between replace each other.
    """
    if size < _LEAST_BYTES or size > _MOST_BYTES:
        return 0
    last = at + size - 8
    hashed = load64(at + 2) * _ODD_FACTOR ^ load64(last)
    if size >= 24:
        hashed ^= load64(last - 8) ^ (load64(last - 16) << 3)
    hashed = (hashed ^ (hashed >> 29) ^ size) * _ODD_FACTOR
    return (hashed ^ (hashed >> 32)) << 8 | size


@compiled_part
def place_of(shared: int, tag: int) -> int:
    """Return the address of the place for a tag."""
    number = tag >> 8 & (layout.RECALLED_PLACES - 1)
    return load64(shared + layout.RECALLED) + layout.RECALLED_PLACE_BYTES * number


@compiled_part
def is_known(place: int, tag: int, at: int, size: int) -> bool:
    """Return whether the place holds this message; equal tags imply equal sizes."""
    return load64(place + _TAG) == tag and equal(place + _MESSAGE, at, size)


@compiled_part
def recalled(place: int) -> tuple[int, int, int, int, int]:
    """Return key, kind, value or code of the text, address of the text, and its size."""
    what = load64(place + _WHAT)
    text = place + _MESSAGE + (what >> 8 & 0xFF)
    return what >> 24, what >> 16 & 0xFF, load64(place + _VALUE), text, what & 0xFF


@compiled_part
def note(
    place: int,
    tag: int,
    at: int,
    size: int,
    key: int,
    kind: int,
    value: int,
    text: int,
    length: int,
) -> None:
    """Store a message that was missed twice in a row; at its first miss, only note its tag.

    A message that comes once thus does not replace one that comes often.
    """
    if load64(place + _MISSED) != tag:
        store64(place + _MISSED, tag)
        return
    begins = text - at if kind == TEXT else 0
    store64(place + _TAG, tag)
    store64(place + _WHAT, key << 24 | kind << 16 | begins << 8 | length)
    store64(place + _VALUE, value)
    copy(place + _MESSAGE, at, size)


@compiled_part
def forget_texts(shared: int, kept: int) -> None:
    """Forget the messages with a text from code `kept` on."""
    for number in range(layout.RECALLED_PLACES):
        place = load64(shared + layout.RECALLED) + layout.RECALLED_PLACE_BYTES * number
        key, kind, value, _, _ = recalled(place)
        if key >= kept or (kind == TEXT and value >= kept):
            store64(place + _TAG, 0)
