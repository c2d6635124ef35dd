"""Make Arrow arrays over NumPy's memory, without a copy.

In:  values, and which of them are valid.
Out: Arrow arrays; texts encoded by a dictionary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from apm_analytics.lake.schema import TEXT

ENCODED = pa.dictionary(pa.int32(), TEXT)


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


def dictionary(codes: NDArray[np.int32], words: pa.Array, missing: int | bool) -> pa.Array:
    valid = bitmap(codes >= 0) if missing else None
    return pa.DictionaryArray.from_arrays(fixed(pa.int32(), codes, valid), words, safe=False)


def over_words(words: Sequence[str | None], codes: NDArray[np.int32]) -> pa.Array:
    """Encode a column of few distinct words; code -1 is null."""
    if not len(words):
        return pa.nulls(len(codes), ENCODED)
    return dictionary(codes, pa.array(words, TEXT), bool((codes < 0).any()))
