"""Compress pages into zstd frames that end in a checksum of their content [1]_.

In:  the pieces of a page.
Out: a zstd frame. Every decoder verifies the checksum, so that a page that the disk changed is an
     error and never a wrong value.

References
----------
.. [1] Collet and Kucherawy, Zstandard Compression, RFC 8878: 3.1.1 frames, 3.1.1.2 blocks.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from xxhash import xxh64

from apm_analytics.lake.parquet import digits
from apm_analytics.lake.parquet.encodings import Piece, joined

# Larger spans cost less than the CPU time of a higher level.
COMPRESSION_LEVEL = 1
# For fewer bytes, setting up the compressor costs more than is saved.
LEAST_COMPRESSED = 256
_codec = pa.Codec("zstd", compression_level=COMPRESSION_LEVEL)
_DESCRIPTOR = 4  # position of the byte that describes the frame
_CHECKSUM = 0x04
_ONE_SEGMENT = 0x20
_LAST_RAW_BLOCK = 1


def frame(pieces: Sequence[Piece]) -> bytes:
    """Compress the pieces of a page, one after the other."""
    *before, last = pieces
    if isinstance(last, np.ndarray):
        body = digits.frame(before, last)
        if body is not None:
            digest = xxh64(joined(before))
            digest.update(last.data)
            return _with_checksum(body, digest.intdigest())
    content = joined(pieces)
    if len(content) < LEAST_COMPRESSED:
        head = digits.MAGIC + bytes((_ONE_SEGMENT, len(content)))
        body = head + (_LAST_RAW_BLOCK | len(content) << 3).to_bytes(3, "little") + content
    else:
        body = _codec.compress(content, asbytes=True)
    return _with_checksum(body, xxh64(content).intdigest())


def _with_checksum(body: bytes, digest: int) -> bytes:
    described = (body[_DESCRIPTOR] | _CHECKSUM).to_bytes(1)
    checksum = (digest & 0xFFFFFFFF).to_bytes(4, "little")
    return b"".join((body[:_DESCRIPTOR], described, memoryview(body)[_DESCRIPTOR + 1 :], checksum))
