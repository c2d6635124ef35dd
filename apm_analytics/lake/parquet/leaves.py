"""Split nested columns into Parquet's leaves: values without nulls, and their levels.

In:  a field and its array; maps, lists and structs nest to any depth.
Out: one `Leaf` per column of primitive values.

A definition level counts the optional and repeated parents of a value that are present; a
repetition level says which list continues [1]_. Levels that are equal in all rows are held as one
number, so a column without values costs nothing.

References
----------
.. [1] Melnik et al., Dremel: Interactive Analysis of Web-Scale Datasets, 2010.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Levels = NDArray[np.uint8]


class Leaf(NamedTuple):
    """A column of primitive values; `slots` counts values, nulls and empty lists."""

    path: tuple[str, ...]
    values: pa.Array
    slots: int
    definition: Levels | int
    repetition: Levels | int
    most_defined: int
    most_repeated: int


class _Place(NamedTuple):
    """The levels of a nesting depth; slots with definition `defined` have an entry in its array."""

    path: tuple[str, ...]
    definition: Levels | int
    repetition: Levels | int
    slots: int
    defined: int = 0
    repeated: int = 0


def leaves(field: pa.Field, array: pa.Array) -> Iterator[Leaf]:
    """Yield the leaves of one column.

    Parameters
    ----------
    array : one chunk; text may be dictionary-encoded.
    """
    rows = len(array)
    if field.nullable and array.null_count == rows:
        for leaf in _empty_leaves(field):
            yield leaf._replace(slots=rows)
    else:
        yield from _leaves(field, array, _Place((field.name,), 0, 0, rows))


@lru_cache(1024)
def _empty_leaves(field: pa.Field) -> tuple[Leaf, ...]:
    """Return the leaves of a column without rows; only `slots` differs for one of nulls."""
    return tuple(_leaves(field, pa.array([], field.type), _Place((field.name,), 0, 0, 0)))


def _leaves(field: pa.Field, array: pa.Array, place: _Place) -> Iterator[Leaf]:
    if field.nullable:
        array, place = _without_nulls(array, place)
    kind = field.type
    if pa.types.is_map(kind):
        first, last = (int(array.offsets[at].as_py()) for at in (0, len(array)))
        inner = _repeated(array, place, "key_value")
        for name, child, values in (
            ("key", kind.key_field, array.keys),
            ("value", kind.item_field, array.items),
        ):
            yield from _leaves(child, values[first:last], _below(inner, name))
    elif pa.types.is_list(kind):
        inner = _repeated(array, place, "list")
        yield from _leaves(kind.value_field, array.flatten(), _below(inner, "element"))
    elif pa.types.is_struct(kind):
        for number, child in enumerate(kind):
            yield from _leaves(child, array.field(number), _below(place, child.name))
    else:
        yield Leaf(
            place.path,
            array,
            place.slots,
            place.definition,
            place.repetition,
            place.defined,
            place.repeated,
        )


def _below(place: _Place, name: str) -> _Place:
    return place._replace(path=(*place.path, name))


def _without_nulls(array: pa.Array, place: _Place) -> tuple[pa.Array, _Place]:
    """Drop the nulls of an optional field, and raise the definition of the other slots."""
    missing = array.null_count
    definition: Levels | int
    if missing == 0 or missing == len(array):
        # Without entries no definition level rises.
        more = 0 if missing or not len(array) else 1
        definition = _deeper(place, more)
        array = array[:0] if missing else array
    else:
        valid = array.is_valid()
        definition = _deeper(place, valid.to_numpy(zero_copy_only=False))
        array = array.filter(valid)
    return array, place._replace(definition=definition, defined=place.defined + 1)


def _deeper(place: _Place, more: "NDArray[np.bool_] | int") -> Levels | int:
    """Raise the definition of the slots that have an entry."""
    if isinstance(place.definition, int):
        if place.definition < place.defined:
            return place.definition
        if isinstance(more, int):
            return place.definition + more
        return more.astype(np.uint8) + np.uint8(place.defined)
    definition = place.definition.copy()
    definition[place.definition == place.defined] += more
    return definition


def _repeated(array: Any, place: _Place, name: str) -> _Place:
    """Descend into lists or maps: one slot per entry, and one per empty list."""
    path = (*place.path, name)
    if not len(array):
        return place._replace(path=path, defined=place.defined + 1, repeated=place.repeated + 1)
    offsets = array.offsets.to_numpy(zero_copy_only=False)
    lengths = np.diff(offsets)
    counts = np.ones(place.slots, np.int64)
    filled = np.zeros(place.slots, np.uint8)
    present = (
        slice(None)
        if isinstance(place.definition, int)
        else np.flatnonzero(place.definition == place.defined)
    )
    counts[present] = np.maximum(lengths, 1)
    filled[present] = lengths > 0
    slots = int(counts.sum())
    starts = np.cumsum(counts) - counts
    definition: Levels | int
    if isinstance(place.definition, int) and filled.all():
        definition = place.definition + 1
    else:
        definition = np.repeat(place.definition + filled, counts).astype(np.uint8, copy=False)
    repetition: Levels | int = place.repetition
    if slots > place.slots:
        repetition = np.full(slots, place.repeated + 1, np.uint8)
        repetition[starts] = place.repetition
    return _Place(path, definition, repetition, slots, place.defined + 1, place.repeated + 1)
