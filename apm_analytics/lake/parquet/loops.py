"""The two loops of the Parquet writer that NumPy has no function for, compiled by numba.

In:  arrays of unsigned words.
Out: filled arrays.

Loading numba takes half a second and 40 MB, too much for processes that merge or query parts. A
receiver calls `load` before it serves; every other process uses NumPy or zstd instead.

All numbers are unsigned, indices too: for a signed index numba adds a test for negative values,
which keeps it from using vector instructions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Halves = NDArray[np.uint32]
# The primes of XXH64.
P1, P2, P3, P4 = (
    np.uint64(0x9E3779B185EBCA87),
    np.uint64(0xC2B2AE3D27D4EB4F),
    np.uint64(0x165667B19E3779F9),
    np.uint64(0x85EBCA77C2B2AE63),
)
_U64 = np.uint64
_ONE, _FOUR, _EIGHT = _U64(1), _U64(4), _U64(8)


@dataclass(frozen=True)
class Loops:
    """The compiled loops.

    `set_bits(words, bits, salt)` enters texts of 32 bytes, `words` of shape (4 n,), into the Bloom
    filter `bits` of shape (8 blocks,); `salt` is 8 odd numbers.

    `pack_digits(digits, packed)` writes the bytes that lower-case hex digits stand for, in reverse
    order. Both arrays have shape (n,), a word of `digits` being 8 digits. It returns 0, and
    `packed` is unusable, where other characters are among the digits.
    """

    set_bits: Callable[[Words, Halves, Halves], None]
    pack_digits: Callable[[Words, Halves], int]


_loaded: Loops | None = None


def loaded() -> Loops | None:
    """Return the compiled loops, None in a process that did not call `load`."""
    return _loaded


def load() -> None:
    """Compile the loops, or read them from numba's cache; a second call does nothing."""
    global _loaded
    if _loaded is not None:
        return
    from numba import types
    from numba.extending import register_jitable

    from apm_analytics.foundation.compiled import compiled

    # Readonly arrays include those that the caller may change.
    words = types.Array(types.uint64, 1, "C", readonly=True)
    salt = types.Array(types.uint32, 1, "C", readonly=True)
    halves = types.Array(types.uint32, 1, "C")
    for function in (_rotated, _rounded):
        register_jitable(inline="always")(function)
    _loaded = Loops(
        set_bits=compiled(types.void(words, halves, salt))(_set_bits),
        pack_digits=compiled(types.uint64(words, halves))(_pack_digits),
    )


def _rotated(word: Any, by: Any) -> Any:
    return (word << by) | (word >> (_U64(64) - by))


def _rounded(seed: Any, word: Any) -> Any:
    return _rotated(seed + word * P2, _U64(31)) * P1


def _set_bits(words: Words, bits: Halves, salt: Halves) -> None:
    blocks = _U64(bits.size) // _EIGHT
    for text in range(_U64(words.size) // _FOUR):
        at = text * _FOUR
        one = _rounded(P1 + P2, words[at])
        two = _rounded(P2, words[at + _ONE])
        three = _rounded(_U64(0), words[at + _U64(2)])
        four = _rounded(_U64(0) - P1, words[at + _U64(3)])
        hashed = _rotated(one, _ONE) + _rotated(two, _U64(7))
        hashed += _rotated(three, _U64(12)) + _rotated(four, _U64(18))
        for lane in (one, two, three, four):
            hashed = (hashed ^ _rounded(_U64(0), lane)) * P1 + P4
        hashed += _U64(32)
        hashed = (hashed ^ (hashed >> _U64(33))) * P2
        hashed = (hashed ^ (hashed >> _U64(29))) * P3
        hashed ^= hashed >> _U64(32)
        block = (((hashed >> _U64(32)) * blocks) >> _U64(32)) * _EIGHT
        low = np.uint32(hashed)
        for word in range(_EIGHT):
            bits[block + word] |= np.uint32(1) << (np.uint32(low * salt[word]) >> np.uint32(27))


def _pack_digits(digits: Words, packed: Halves) -> Any:
    ones = _U64(0x0101010101010101)
    odd = _U64(0)
    size = _U64(digits.size)
    for at in range(size):
        eight = digits[at]
        value = (eight & (ones * _U64(15))) + ((eight >> _U64(6)) & ones) * _U64(9)
        letter = ((value + ones * _U64(6)) >> _U64(4)) & ones
        odd |= (value + ones * _U64(48) + letter * _U64(39)) ^ eight | value & (ones * _U64(240))
        pairs = ((value & _U64(0x000F000F000F000F)) << _U64(4)) | (
            (value >> _U64(8)) & _U64(0x000F000F000F000F)
        )
        packed[size - _ONE - at] = np.uint32(
            (pairs & _U64(0xFF)) << _U64(24)
            | (pairs & _U64(0xFF0000))
            | (pairs >> _U64(24)) & _U64(0xFF00)
            | pairs >> _U64(48)
        )
    return _ONE if odd == _U64(0) else _U64(0)
