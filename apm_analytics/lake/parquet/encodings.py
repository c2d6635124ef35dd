"""Encode values and levels for Parquet's pages [1]_.

In:  NumPy arrays.
Out: bytes, long ones as a sequence of pieces.

Numbers are packed into whole bytes, which NumPy does without a loop; zstd compresses the unused
bits away.

References
----------
.. [1] Apache Parquet, Encodings (parquet-format, Encodings.md).
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from apm_analytics.foundation import varint
from apm_analytics.lake.parquet.thrift import zigzag

PLAIN, RLE, DELTA_BINARY, DELTA_LENGTH, RLE_DICTIONARY = 0, 3, 5, 6, 8
_BLOCK, _MINIBLOCKS = 128, 4
_MINIBLOCK = _BLOCK // _MINIBLOCKS
_UNSIGNED: dict[int, np.dtype[Any]] = {8: np.dtype("<u1"), 16: np.dtype("<u2"), 32: np.dtype("<u4")}
Piece = bytes | NDArray[Any]
# Above this range differences take as many bytes as the values.
MAX_DELTA = 2**32


def joined(pieces: Sequence[Piece]) -> bytes:
    """Concatenate pieces."""
    return b"".join(cast(Sequence[bytes], pieces))  # join takes arrays as well


def levels(values: "NDArray[np.uint8] | int", slots: int, most: int) -> bytes:
    """Encode definition or repetition levels between 0 and `most`."""
    if most == 0:
        return b""
    if isinstance(values, int):
        coded = varint.encode(slots << 1) + values.to_bytes(1)
    else:
        bits: NDArray[Any] = values
        if most > 1:
            bits = values[:, None] >> np.arange(most.bit_length(), dtype=np.uint8) & 1
        packed = np.packbits(bits, bitorder="little").tobytes()
        groups = -(-slots // 8)
        packed += bytes(groups * most.bit_length() - len(packed))
        coded = varint.encode(groups << 1 | 1) + packed
    return len(coded).to_bytes(4, "little") + coded


def indices(codes: NDArray[Any], words: int) -> Sequence[Piece]:
    """Encode codes into a dictionary of `words` entries."""
    if words <= 1:
        return [b"\x08" + varint.encode(len(codes) << 1) + b"\0"]
    bits = 8 if words <= 2**8 else 16 if words <= 2**16 else 32
    groups = -(-len(codes) // 8)
    spare = bytes((groups * 8 - len(codes)) * bits // 8)
    head = bits.to_bytes(1) + varint.encode(groups << 1 | 1)
    return [head, codes.astype(_UNSIGNED[bits], copy=False), spare]


def integers(values: NDArray[np.int64], least: int, most: int) -> tuple[int, Sequence[Piece]]:
    """Encode one or more 64-bit integers as differences, or plainly if those are large.

    Returns
    -------
    The encoding, and the bytes.
    """
    if most - least < 2**63:
        steps = values[1:] - values[:-1]
        smallest, largest = (int(steps.min()), int(steps.max())) if steps.size else (0, 0)
        if largest - smallest < MAX_DELTA:
            return DELTA_BINARY, _deltas(int(values[0]), steps, smallest, largest - smallest)
    return PLAIN, [values]


def _deltas(first: int, steps: NDArray[np.int64], least: int, widest: int) -> list[Piece]:
    """Encode differences; all blocks share one least difference and one bit width."""
    head = b"".join(
        (
            varint.encode(_BLOCK),
            varint.encode(_MINIBLOCKS),
            varint.encode(len(steps) + 1),
            zigzag(first),
        )
    )
    if not len(steps):
        return [head]
    bits = next(width for width in (0, 8, 16, 32) if widest < 1 << width)
    block_head = np.frombuffer(zigzag(least) + bits.to_bytes(1) * _MINIBLOCKS, np.uint8)
    blocks = -(-len(steps) // _BLOCK)
    size = _BLOCK * bits // 8
    written = np.zeros((blocks, len(block_head) + size), np.uint8)
    written[:, : len(block_head)] = block_head
    if bits:
        packed = np.zeros(blocks * _BLOCK, _UNSIGNED[bits])
        packed[: len(steps)] = steps - least
        written[:, len(block_head) :] = packed.view(np.uint8).reshape(blocks, size)
    # Miniblocks of the last block that hold no value are left out.
    in_last = len(steps) - (blocks - 1) * _BLOCK
    absent = (_MINIBLOCKS - -(-in_last // _MINIBLOCK)) * _MINIBLOCK * bits // 8
    whole = written.reshape(-1)
    return [head, whole[: whole.size - absent]]


def texts_by_length(texts: pa.Array) -> Sequence[Piece]:
    """Encode one or more texts as all lengths followed by all texts, which compresses best."""
    starts, content = _content(texts)
    lengths = starts[1:] - starts[:-1]
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest == longest:  # ids: all differences are 0
        return [*_deltas(shortest, lengths[1:], 0, 0), content]
    steps = lengths[1:] - lengths[:-1]
    least = int(steps.min())
    return [*_deltas(int(lengths[0]), steps, least, int(steps.max()) - least), content]


def texts_plainly(texts: pa.Array) -> Sequence[Piece]:
    """Encode each text after its length, as dictionary pages do."""
    starts, content = _content(texts)
    lengths = (starts[1:] - starts[:-1]).astype("<i4", copy=False)
    if not lengths.size:
        return []
    if lengths.min() == lengths.max():
        size = int(lengths[0])
        written = np.empty((len(lengths), 4 + size), np.uint8)
        written[:, :4] = lengths[:1].view(np.uint8)
        written[:, 4:] = content.reshape(len(lengths), size)
        return [written.reshape(-1)]
    places = np.arange(len(lengths) + 1, dtype=np.int32) * 4
    heads = pa.Array.from_buffers(
        pa.binary(), len(lengths), [None, pa.py_buffer(places), pa.py_buffer(lengths)]
    )
    joined = pc.binary_join_element_wise(heads, texts.cast(pa.binary()), b"")
    return [_content(joined)[1]]


def lengths(texts: pa.Array) -> NDArray[np.int32]:
    """Return the bytes of each text."""
    starts, _ = _content(texts)
    return starts[1:] - starts[:-1]


def alike(texts: pa.Array, size: int) -> NDArray[np.uint8] | None:
    """Return the bytes of texts, shape (n, size); None if there are none or sizes differ."""
    if not len(texts) or not pa.types.is_string(texts.type):
        return None
    starts, content = _content(texts)
    if not np.all(starts[1:] - starts[:-1] == size):
        return None
    return content.reshape(-1, size)


def _content(texts: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return the offset of each text, and the bytes of all texts."""
    _, places, content = texts.buffers()
    if not len(texts) or content is None:
        return np.zeros(len(texts) + 1, np.int32), np.empty(0, np.uint8)
    starts = np.frombuffer(places, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    whole = np.frombuffer(content, np.uint8)
    return starts, whole[starts[0] : starts[-1]]
