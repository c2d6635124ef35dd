"""Loops that NumPy has no word for, compiled: for processes that have loaded a compiler anyway.

In:  arrays of unsigned words.
Out: the same, mixed or packed.

numba takes half a second and 40 MB to load: too much for the processes that merge and query parts.
A receiver calls `load` before it serves; everybody else does without, by NumPy or by zstd.
"""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
_loaded: Any = None


def load() -> None:
    """Load the compiled loops, and compile them where that was not done yet."""
    global _loaded
    _loaded = importlib.import_module("apm_analytics.lake.parquet.compiled")


def loaded() -> bool:
    """Tell whether this process has them; who has not may call none of those below."""
    return _loaded is not None


def set_bits(words: Words, bits: NDArray[np.uint32], salt: NDArray[np.uint32]) -> None:
    """Enter texts of 32 bytes into a Bloom filter; see `bloom`.

    Parameters
    ----------
    words : array of shape (4 n,), the texts.
    bits : array of shape (8 blocks,), the filter.
    salt : array of shape (8,), odd numbers.
    """
    _loaded.set_bits(words, bits, salt)


def pack_digits(digits: Words, packed: NDArray[np.uint32]) -> bool:
    """Turn lower-case hex digits into the bytes that they stand for, the last one first.

    Parameters
    ----------
    digits : array of shape (n,), of 8 digits each.
    packed : array of shape (n,), filled.

    Returns
    -------
    False where something else was among them; `packed` holds nothing of use then.
    """
    return bool(_loaded.pack_digits(digits, packed))
