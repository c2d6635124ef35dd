"""Split-block Bloom filters of ids: a look-up by trace id opens only the parts that may hold it.

In:  ids of 32 characters.
Out: the filter as Parquet stores it [1]_.

References
----------
.. [1] Apache Parquet, Bloom Filter (parquet-format, BloomFilter.md); its hash is XXH64 with seed 0.
"""

import numpy as np
from numpy.typing import NDArray

from apm_analytics.lake.parquet import loops
from apm_analytics.lake.parquet.loops import P1, P2, P3, P4, Words
from apm_analytics.lake.parquet.thrift import i32, struct

ID_BYTES = 32
# At this size about 1 % of the look-ups of absent ids open the part in vain.
BITS_AN_ID = 10.5
_BLOCK_BYTES, _WORDS = 32, 8
_LEAST_BYTES, _MOST_BYTES = 32, 1 << 24
_SALT = np.array(
    [
        0x47B6137B,
        0x44974D91,
        0x8824AD5B,
        0xA2B7289D,
        0x705495C7,
        0x2DF1424B,
        0x9EFC4947,
        0x5C6BFB31,
    ],
    np.uint32,
)


def bloom_filter(ids: NDArray[np.uint8], expected: int) -> bytes:
    """Return the header and the bits of a filter.

    Parameters
    ----------
    ids : array of shape (n, 32), the characters of each id.
    expected : expected number of distinct ids.
    """
    needed = max(int(expected * BITS_AN_ID / 8), _LEAST_BYTES)
    size = min(1 << (needed - 1).bit_length(), _MOST_BYTES)
    one = struct({1: struct({})})
    head = struct({1: i32(size), 2: one, 3: one, 4: one}).content
    words = ids.view("<u8")
    if compiled := loops.loaded():
        words = np.require(words.reshape(-1), requirements=("A", "C"))
        filled = np.zeros(size // 4, np.uint32)
        compiled.set_bits(words, filled, _SALT)
        return head + filled.tobytes()
    hashed = xxh64(words)
    blocks = size // _BLOCK_BYTES
    block = ((hashed >> np.uint64(32)) * np.uint64(blocks)) >> np.uint64(32)
    low = hashed.astype(np.uint32)
    bits = np.zeros(8 * size, np.bool_)
    first = block.astype(np.int64) * (8 * _BLOCK_BYTES)
    for word in range(_WORDS):
        bits[first + 32 * word + ((low * _SALT[word]) >> np.uint32(27))] = True
    return head + np.packbits(bits, bitorder="little").tobytes()


def xxh64(words: Words) -> Words:
    """Hash texts of 32 bytes with XXH64; `words` has the shape (n, 4)."""
    with np.errstate(over="ignore"):
        lanes = [
            _rounded(np.uint64(seed), words[:, lane])
            for lane, seed in enumerate((P1 + P2, P2, np.uint64(0), np.uint64(0) - P1))
        ]
        hashed = _rotated(lanes[0], 1)
        for lane, by in zip(lanes[1:], (7, 12, 18), strict=True):
            hashed = hashed + _rotated(lane, by)
        for lane in lanes:
            hashed = (hashed ^ _rounded(np.uint64(0), lane)) * P1 + P4
        hashed = hashed + np.uint64(ID_BYTES)
        hashed = (hashed ^ (hashed >> np.uint64(33))) * P2
        hashed = (hashed ^ (hashed >> np.uint64(29))) * P3
        mixed: Words = hashed ^ (hashed >> np.uint64(32))
    return mixed


def _rounded(seed: np.uint64, words: Words) -> Words:
    return _rotated(seed + words * P2, 31) * P1


def _rotated(words: Words, by: int) -> Words:
    return (words << np.uint64(by)) | (words >> np.uint64(64 - by))
