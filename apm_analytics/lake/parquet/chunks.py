"""Make the pages of one column, and what the footer says of them.

In:  a `Leaf`, where in the file its pages will be.
Out: a `Chunk`: bytes for the file, the column's metadata.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from apm_analytics.lake.parquet import encodings
from apm_analytics.lake.parquet.levels import Leaf
from apm_analytics.lake.parquet.schemas import BOOLEAN, BYTE_ARRAY, DOUBLE, INT64, physical
from apm_analytics.lake.parquet.thrift import Value, binary, i32, i64, listed, struct, text

# Level 1 of zstd: twice the size of a span costs less than the CPU of a higher level.
COMPRESSION_LEVEL = 1
# Above this share of different texts among the values, their dictionary costs more than it saves.
VARIED = 0.3
# So few words need not be looked through for those that are not used.
FEW = 256
# Too small to gain what a compressor costs to set up.
LEAST_COMPRESSED = 256
_UNCOMPRESSED, _ZSTD = 0, 6
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_codec = pa.Codec("zstd", compression_level=COMPRESSION_LEVEL)


@dataclass(frozen=True)
class Chunk:
    """The pages of one column in one row group, and its ColumnChunk for the footer."""

    pages: list[bytes]
    raw_size: int
    metadata: Value


@dataclass(frozen=True)
class _Content:
    """Values as a page holds them; texts may come as words and the codes of words."""

    encoding: int
    values: bytes
    words: bytes = b""
    count: int = 0


def chunk(leaf: Leaf, offset: int, *, statistics: bool, dictionary: bool, bloom: bytes) -> Chunk:
    """Encode one column.

    Parameters
    ----------
    offset : where in the file its first page begins.
    statistics : keep the least and the greatest value.
    dictionary : texts repeat: number them.
    bloom : a filter of its values, kept before its pages; may be empty.
    """
    kind = physical(leaf.values.type)
    if kind == BYTE_ARRAY:
        content, bounds = _text_content(leaf.values, dictionary, statistics)
    else:
        content, bounds = _number_content(kind, leaf.values, statistics)
    levels = encodings.levels(leaf.repetition, leaf.slots, leaf.most_repeated)
    levels += encodings.levels(leaf.definition, leaf.slots, leaf.most_defined)
    raw = len(levels) + len(content.values) + len(content.words)
    codec = _ZSTD if raw >= LEAST_COMPRESSED else _UNCOMPRESSED
    pages = [bloom] if bloom else []
    at = offset + len(bloom)
    fields = {
        1: i32(kind),
        2: listed(map(i32, sorted({content.encoding, encodings.PLAIN, encodings.RLE}))),
        3: listed(map(text, leaf.path)),
        4: i32(codec),
        5: i64(leaf.slots),
    }
    places: dict[int, Value] = {}
    whole = 0
    if content.count:
        page = struct({1: i32(content.count), 2: i32(encodings.PLAIN)})
        head, body = _page(_DICTIONARY_PAGE, 7, page, content.words, codec)
        places[11] = i64(at)
        whole += len(head) + len(content.words)
        at += len(head) + len(body)
        pages += (head, body)
    rle = i32(encodings.RLE)
    page = struct({1: i32(leaf.slots), 2: i32(content.encoding), 3: rle, 4: rle})
    head, body = _page(_DATA_PAGE, 5, page, levels + content.values, codec)
    places[9] = i64(at)
    whole += len(head) + len(levels) + len(content.values)
    at += len(head) + len(body)
    pages += (head, body)
    missing = leaf.slots - len(leaf.values)
    fields |= {6: i64(whole), 7: i64(at - offset - len(bloom)), 9: places[9]}
    if 11 in places:
        fields[11] = places[11]
    fields[12] = _statistics(missing, bounds)
    if bloom:
        fields |= {14: i64(offset), 15: i32(len(bloom))}
    return Chunk(pages, whole, struct({2: i64(0), 3: struct(fields)}))


def _page(kind: int, field: int, about: Value, content: bytes, codec: int) -> tuple[bytes, bytes]:
    body = content if codec == _UNCOMPRESSED else _codec.compress(content, asbytes=True)
    head = struct({1: i32(kind), 2: i32(len(content)), 3: i32(len(body)), field: about})
    return head.content, body


def _statistics(missing: int, bounds: tuple[bytes, bytes] | None) -> Value:
    fields = {3: i64(missing)}
    if bounds is not None:
        fields |= {5: binary(bounds[1]), 6: binary(bounds[0])}
    return struct(fields)


def _number_content(
    kind: int, values: pa.Array, statistics: bool
) -> tuple[_Content, tuple[bytes, bytes] | None]:
    if not len(values):
        return _Content(encodings.PLAIN, b""), None
    if kind == BOOLEAN:
        truths = np.packbits(values.to_numpy(zero_copy_only=False), bitorder="little")
        return _Content(encodings.PLAIN, truths.tobytes()), None
    numbers: NDArray[Any] = _numbers(values, np.dtype("<f8" if kind == DOUBLE else "<i8"))
    if kind == INT64:
        bounds = (numbers.min().tobytes(), numbers.max().tobytes()) if statistics else None
        return _Content(*encodings.integers(numbers)), bounds
    return _Content(encodings.PLAIN, numbers.tobytes()), None


def _numbers(values: pa.Array, kind: "np.dtype[Any]") -> NDArray[Any]:
    whole = np.frombuffer(values.buffers()[1], kind)
    return whole[values.offset : values.offset + len(values)]


def _text_content(
    values: pa.Array, dictionary: bool, statistics: bool
) -> tuple[_Content, tuple[bytes, bytes] | None]:
    if not len(values):
        return _Content(encodings.PLAIN, b""), None
    if not dictionary:
        bounds = _bounds(values) if statistics else None
        return _Content(encodings.DELTA_LENGTH, encodings.texts_by_length(values)), bounds
    if not pa.types.is_dictionary(values.type) or values.dictionary.null_count:
        values = values.cast(pa.string()).dictionary_encode()
    codes, words = _numbers(values.indices, np.dtype("<i4")), values.dictionary
    if statistics or len(words) > FEW:
        codes, words = _used(codes, words)
    bounds = _bounds(words) if statistics else None
    if len(words) > VARIED * len(codes):
        # Fresh from the scanner, texts that never repeat are in order already.
        alone = len(words) == len(codes) and np.array_equal(codes, np.arange(len(codes)))
        texts = words if alone else words.take(pa.array(codes))
        return _Content(encodings.DELTA_LENGTH, encodings.texts_by_length(texts)), bounds
    coded = encodings.indices(codes, len(words))
    plain = encodings.texts_plainly(words)
    return _Content(encodings.RLE_DICTIONARY, coded, plain, len(words)), bounds


def _used(codes: NDArray[np.int32], words: pa.Array) -> tuple[NDArray[np.int32], pa.Array]:
    """Leave out the words that no code names: a slice of a table has all of the table's."""
    used = np.zeros(len(words), np.bool_)
    used[codes] = True
    if used.all():
        return codes, words
    numbers = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return numbers[codes], words.filter(pa.array(used))


def _bounds(texts: pa.Array) -> tuple[bytes, bytes]:
    found = pc.min_max(texts)
    return found["min"].as_py().encode(), found["max"].as_py().encode()
