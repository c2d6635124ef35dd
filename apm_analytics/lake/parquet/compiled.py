"""What `loops` offers, as numba compiles it: on import, or from the cache that it keeps beside.

In:  arrays, whose sizes fit each other.
Out: filled arrays.

All numbers are unsigned, also the indices: numba would ask of each signed one whether it counts
from the end, and then not use the wide instructions of the processor.
"""

from typing import Any, cast

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from apm_analytics.foundation.compiled import Function, compiled
from apm_analytics.lake.parquet.bloom import P1, P2, P3, P4

_Words = NDArray[np.uint64]
_Halves = NDArray[np.uint32]
_U64 = np.uint64
# Also those that belong to someone who may not change them.
_WORDS_READ = types.Array(types.uint64, 1, "C", readonly=True)
_HALVES_READ = types.Array(types.uint32, 1, "C", readonly=True)
_HALVES = types.Array(types.uint32, 1, "C")
_ONE, _FOUR, _EIGHT = _U64(1), _U64(4), _U64(8)


def _part(function: Function) -> Function:
    compile_: Any = njit  # its types leave this option out
    return cast(Function, compile_(inline="always")(function))


@_part
def _rotated(word: Any, by: Any) -> Any:
    return (word << by) | (word >> (_U64(64) - by))


@_part
def _rounded(seed: Any, word: Any) -> Any:
    return _rotated(seed + word * P2, _U64(31)) * P1


@compiled(types.void(_WORDS_READ, _HALVES, _HALVES_READ))
def set_bits(words: _Words, bits: _Halves, salt: _Halves) -> None:
    """Enter texts of 32 bytes, by XXH64; see `loops.set_bits`."""
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


@compiled(types.uint64(_WORDS_READ, _HALVES))
def pack_digits(digits: _Words, packed: _Halves) -> Any:
    """Pack hex digits, the last ones first; 0 where others were among them."""
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
