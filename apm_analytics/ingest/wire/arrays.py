"""Make Arrow arrays over NumPy's memory, with texts other than ids encoded by dictionaries.

In:  values, and which of them are valid; texts and maps that many rows share.
Out: Arrow arrays without a copy; arrays in which a shared text is stored once.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from apm_analytics.lake.schema import ENCODED, ENCODED_TYPES, TABLES, TEXT, TEXT_MAP

Codes = NDArray[np.int32]
_IDS = ("trace_id", "span_id", "parent_span_id")


def fixed(kind: pa.DataType, values: NDArray[Any], valid: pa.Buffer | None = None) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(values)])


def bitmap(valid: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def masked(kind: pa.DataType, values: NDArray[Any], valid: NDArray[np.bool_]) -> pa.Array:
    if valid.all():
        return fixed(kind, values)
    values[~valid] = 0
    return fixed(kind, values, bitmap(valid))


def not_zero(kind: pa.DataType, values: NDArray[np.int64]) -> pa.Array:
    return masked(kind, values, values != 0)


def dictionary(codes: Codes, words: pa.Array, missing: int | bool) -> pa.Array:
    valid = bitmap(codes >= 0) if missing else None
    return pa.DictionaryArray.from_arrays(fixed(pa.int32(), codes, valid), words, safe=False)


def over_words(words: Sequence[str | None], codes: Codes) -> pa.Array:
    """Encode a column of few distinct words; code -1 is null."""
    if not len(words):
        return pa.nulls(len(codes), ENCODED)
    return dictionary(codes, pa.array(words, TEXT), bool((codes < 0).any()))


def repeated_texts(texts: Sequence[str | None], where: Codes) -> pa.Array:
    """Return the text of each row, which is the number of one of a few texts."""
    words: dict[str, int] = {}
    codes = [-1 if text is None else words.setdefault(text, len(words)) for text in texts]
    return over_words([*words], np.array(codes, np.int32)[where])


def repeated_maps(maps: Sequence[Any], where: Codes) -> pa.Array:
    """Return the map of each row, which is the number of one of a few maps of texts.

    The texts are stored once; a row takes 8 bytes per pair.
    """
    keys: dict[str, int] = {}
    values: dict[str, int] = {}
    pairs = [
        (keys.setdefault(key, len(keys)), values.setdefault(value, len(values)))
        for few in maps
        for key, value in few or ()
    ]
    codes = np.array(pairs, np.int32).reshape(-1, 2)
    counts = np.array([len(few or ()) for few in maps], np.int32)
    starts, sizes = (np.cumsum(counts, dtype=np.int32) - counts)[where], counts[where]
    offsets = np.zeros(len(where) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    places = np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1], dtype=np.int32)
    absent = np.array([few is None for few in maps])[where]
    return pa.MapArray.from_arrays(
        pa.array(offsets),
        over_words([*keys], codes[places, 0]),
        over_words([*values], codes[places, 1]),
        type=ENCODED_TYPES[TEXT_MAP],
        mask=pa.array(absent) if absent.any() else None,
    )


@cache
def encoded_schema(table: str) -> pa.Schema:
    """Return the schema of a decoded table: the lake's, with texts other than ids encoded."""
    return pa.schema([field.with_type(_encoded_type(field)) for field in TABLES[table]])


def _encoded_type(field: pa.Field) -> pa.DataType:
    return field.type if field.name in _IDS else ENCODED_TYPES.get(field.type, field.type)
