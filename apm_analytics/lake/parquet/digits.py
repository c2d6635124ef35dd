"""Compress hex digits into a zstd frame, to 4 bits each, many times faster than zstd.

In:  the bytes before the digits, the digits.
Out: a zstd frame of both [1]_, which every zstd decoder reads.

Ids are random: zstd searches them in vain for repeats and ends with a Huffman code of 4 bits for
each of the 16 digits. With codes in text order, the code of a digit is its value, so the compressed
id is the bytes that its digits denote. The levels and lengths before the digits are small and stay
uncompressed.

References
----------
.. [1] Collet and Kucherawy, Zstandard Compression, RFC 8878: 3.1.1.1 frames, 3.1.1.3.1 literals,
   4.2.1 Huffman codes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apm_analytics.lake.parquet import loops
from apm_analytics.lake.parquet.encodings import Piece, joined

# For fewer digits, the code table and block headers cost more than is saved.
LEAST_DIGITS = 16 * 1024
# Words of 8 digits that are tried first, to reject other texts early.
_TRIED = 8
MAGIC = b"\x28\xb5\x2f\xfd"
_SIZE_OF_4_BYTES, _ONE_SEGMENT = 0x80, 0x20
_MOST_A_BLOCK = 128 * 1024
_RAW, _COMPRESSED = 0, 2
_STREAMS = 4
_FOUR_STREAMS_OF_18_BITS = 2 | 3 << 2  # literals with a code, sizes of 18 bits
_NO_SEQUENCES = b"\0"
_END = b"\1"  # of a stream: the bit above its last


def _code() -> bytes:
    """Return the Huffman table: one weight of 4 bits per symbol, the last being implied."""
    weights = [0] * ord("f")
    for digit in b"0123456789abcde":
        weights[digit] = 1
    pairs = zip(weights[::2], weights[1::2], strict=True)
    return bytes([127 + len(weights)]) + bytes(high << 4 | low for high, low in pairs)


_CODE = _code()


def frame(before: Sequence[Piece], texts: NDArray[Any]) -> bytes | None:
    """Compress some bytes and the digits after them.

    Returns
    -------
    None, for the caller to use zstd: if there are few digits, characters other than lower-case hex
    digits or many bytes before them, or if the loops are not loaded.
    """
    compiled = loops.loaded()
    if compiled is None or texts.dtype != np.uint8:
        return None
    if texts.size < LEAST_DIGITS or texts.size % 8:
        return None
    words = np.require(texts.view(np.uint64), requirements="A")
    packed = np.empty(words.size, np.uint32)
    if not (compiled.pack_digits(words[:_TRIED], packed) and compiled.pack_digits(words, packed)):
        return None
    start = joined(before)
    size = len(start) + texts.size
    if len(start) > _MOST_A_BLOCK or size >= 2**32:
        return None
    head = MAGIC + (_SIZE_OF_4_BYTES | _ONE_SEGMENT).to_bytes(1) + size.to_bytes(4, "little")
    written: list[Piece] = [head, _block(_RAW, len(start), last=False), start]
    content = packed.view(np.uint8)
    blocks = -(-texts.size // _MOST_A_BLOCK)
    stream = -(-content.size // (_STREAMS * blocks))
    end = content.size
    while end > 0:
        stream = min(stream, end // _STREAMS)
        end -= stream * _STREAMS
        written += _digits(content[end : end + stream * _STREAMS], last=not end)
    return joined(written)


def _digits(content: NDArray[np.uint8], *, last: bool) -> Sequence[Piece]:
    """Return a block of packed digits, in reverse because a stream is read from its end."""
    size = content.size // _STREAMS
    coded = len(_CODE) + 6 + _STREAMS * (size + 1)
    literals = _FOUR_STREAMS_OF_18_BITS | 2 * content.size << 4 | coded << 22
    sizes = (size + 1).to_bytes(2, "little") * (_STREAMS - 1)
    head = _block(_COMPRESSED, 5 + coded + 1, last=last) + literals.to_bytes(5, "little")
    written: list[Piece] = [head, _CODE, sizes]
    for number in range(_STREAMS, 0, -1):
        written += (content[(number - 1) * size : number * size], _END)
    return [*written, _NO_SEQUENCES]


def _block(kind: int, size: int, *, last: bool) -> bytes:
    return (last | kind << 1 | size << 3).to_bytes(3, "little")
