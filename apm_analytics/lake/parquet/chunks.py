"""Encode the pages and the metadata of one column.

In:  a `Leaf`, the offset of its pages in the file.
Out: a `Chunk`: bytes for the file, the column's metadata for the footer.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from apm_analytics.lake.parquet import encodings, frames, thrift
from apm_analytics.lake.parquet.bloom import ID_BYTES
from apm_analytics.lake.parquet.encodings import Piece
from apm_analytics.lake.parquet.leaves import Leaf
from apm_analytics.lake.parquet.schemas import BOOLEAN, BYTE_ARRAY, DOUBLE, INT64, physical
from apm_analytics.lake.parquet.thrift import (
    END,
    I32,
    I64,
    LIST,
    STRUCT,
    binary,
    i32,
    listed,
    template,
    text,
    zigzag,
)

# Above this share of distinct texts among the values, a dictionary costs more than it saves, unless
# a few long texts repeat: without it they would take this many times the bytes.
VARIED, LONG_REPEATS = 0.3, 4
# Dictionaries of up to this many words have codes of one byte.
FEW = 256
_ZSTD = 6
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2

# Structs of the Parquet format. A page: kind, size, compressed size, a struct on its values.
_PAGE = template({1: I32, 2: I32, 3: I32})
_OF_VALUES = template({5: STRUCT}, after=3) + END
_OF_WORDS = template({7: STRUCT}, after=3) + END
_VALUES = template({1: I32, 2: I32, 3: I32, 4: I32}) + END  # slots, encodings: values, levels
_WORDS = template({1: I32, 2: I32}) + END
_RLE, _PLAIN, _ZERO = zigzag(encodings.RLE), zigzag(encodings.PLAIN), zigzag(0)
# A column: file offset, metadata; type, encodings, path, codec; slots, sizes, page offset.
_COLUMN = template({2: I64, 3: STRUCT}) + END
_WHAT = template({1: I32, 2: LIST, 3: LIST, 4: I32})
_WHERE = template({5: I64, 6: I64, 7: I64, 9: I64}, after=4)
_WHERE_WORDS = template({11: I64}, after=9)
_COUNTS = template({12: STRUCT}, after=9)
_COUNTS_BEHIND_WORDS = template({12: STRUCT}, after=11)
_BLOOM = template({14: I64, 15: I32}, after=12)
_MISSING = template({3: I64})
_BOUNDS = template({5: thrift.BINARY, 6: thrift.BINARY}, after=3)  # greatest, least


class Chunk(NamedTuple):
    """The pages of one column in one row group, and its ColumnChunk for the footer."""

    pages: Sequence[bytes]
    raw_size: int
    metadata: thrift.Value


class _Content(NamedTuple):
    """Encoded values; `words` is their dictionary, if they are codes."""

    encoding: int
    values: Sequence[Piece] = ()
    words: Sequence[Piece] = ()
    words_count: int = 0


class _Page(NamedTuple):
    head: bytes
    body: bytes
    raw_size: int

    @property
    def size(self) -> int:
        return len(self.head) + len(self.body)


_Bounds = tuple[bytes, bytes] | None


def chunk(leaf: Leaf, offset: int, *, statistics: bool, dictionary: bool, bloom: bytes) -> Chunk:
    """Encode one column.

    Parameters
    ----------
    offset : position of the chunk in the file.
    statistics : store the least and the greatest value.
    dictionary : encode texts by a dictionary where that saves bytes.
    bloom : a filter of the values, stored before the pages; may be empty.
    """
    kind = physical(leaf.values.type)
    start = offset + len(bloom)
    definition, repetition = leaf.definition, leaf.repetition
    if not len(leaf.values) and isinstance(definition, int) and isinstance(repetition, int):
        page = _empty_page(leaf.slots, definition, leaf.most_defined, leaf.most_repeated)
        counts = _MISSING % zigzag(leaf.slots) + END
        where = _where(leaf.slots, page.raw_size, page.size, start)
        metadata = _what(kind, encodings.PLAIN, leaf.path) + where
        metadata += _COUNTS % counts + END
        column = thrift.Value(STRUCT, _COLUMN % (_ZERO, metadata))
        return Chunk([page.head, page.body], page.raw_size, column)
    if not len(leaf.values):
        content, bounds = _Content(encodings.PLAIN), None
    elif kind == BYTE_ARRAY:
        content, bounds = _text_content(leaf.values, dictionary, statistics)
    else:
        content, bounds = _number_content(kind, leaf.values, statistics)
    levels = encodings.levels(repetition, leaf.slots, leaf.most_repeated)
    levels += encodings.levels(definition, leaf.slots, leaf.most_defined)
    values = levels, *content.values
    pages = []
    first = start
    if content.words_count:
        about = _WORDS % (zigzag(content.words_count), _PLAIN)
        pages.append(_page(_DICTIONARY_PAGE, content.words, _OF_WORDS % about))
        first += pages[0].size
    about = _VALUES % (zigzag(leaf.slots), zigzag(content.encoding), _RLE, _RLE)
    pages.append(_page(_DATA_PAGE, values, _OF_VALUES % about))
    raw = sum(page.raw_size for page in pages)
    counts = _MISSING % zigzag(leaf.slots - len(leaf.values))
    if bounds is not None:
        counts += _BOUNDS % (binary(bounds[1]).content, binary(bounds[0]).content)
    metadata = _what(kind, content.encoding, leaf.path)
    metadata += _where(leaf.slots, raw, first + pages[-1].size - start, first)
    if content.words_count:
        metadata += _WHERE_WORDS % zigzag(start) + _COUNTS_BEHIND_WORDS % (counts + END)
    else:
        metadata += _COUNTS % (counts + END)
    if bloom:
        metadata += _BLOOM % (zigzag(offset), zigzag(len(bloom)))
    column = thrift.Value(STRUCT, _COLUMN % (_ZERO, metadata + END))
    return Chunk([bloom, *(piece for page in pages for piece in page[:2])], raw, column)


@lru_cache(256)
def _empty_page(slots: int, definition: int, most_defined: int, most_repeated: int) -> _Page:
    """Return a page without values; cached, because half of the columns of a table have none."""
    levels = encodings.levels(0, slots, most_repeated)
    levels += encodings.levels(definition, slots, most_defined)
    about = _VALUES % (zigzag(slots), _PLAIN, _RLE, _RLE)
    return _page(_DATA_PAGE, [levels], _OF_VALUES % about)


def _where(slots: int, raw_size: int, size: int, first: int) -> bytes:
    return _WHERE % (zigzag(slots), zigzag(raw_size), zigzag(size), zigzag(first))


@lru_cache(4096)
def _what(kind: int, encoding: int, path: tuple[str, ...]) -> bytes:
    """Return the first fields of a column's metadata, which are the same in every file."""
    used = sorted({encoding, encodings.PLAIN, encodings.RLE})
    lists = listed(map(i32, used)).content, listed(map(text, path)).content
    return _WHAT % (zigzag(kind), *lists, zigzag(_ZSTD))


def _page(kind: int, pieces: Sequence[Piece], about: bytes) -> _Page:
    size = sum(map(_size, pieces))
    body = frames.frame(pieces)
    head = _PAGE % (zigzag(kind), zigzag(size), zigzag(len(body))) + about
    return _Page(head, body, len(head) + size)


def _size(piece: Piece) -> int:
    return piece.nbytes if isinstance(piece, np.ndarray) else len(piece)


def _number_content(kind: int, values: pa.Array, statistics: bool) -> tuple[_Content, _Bounds]:
    if kind == BOOLEAN:
        truths = np.packbits(values.to_numpy(zero_copy_only=False), bitorder="little")
        return _Content(encodings.PLAIN, [truths]), None
    numbers: NDArray[Any] = _numbers(values, np.dtype("<f8" if kind == DOUBLE else "<i8"))
    if kind != INT64:
        return _Content(encodings.PLAIN, [numbers]), None
    least, most = numbers.min(), numbers.max()
    bounds = (least.tobytes(), most.tobytes()) if statistics else None
    if least == most:  # most columns of counts
        coded = encodings.indices(numbers, 1)
        return _Content(encodings.RLE_DICTIONARY, coded, [numbers[:1]], 1), bounds
    return _Content(*encodings.integers(numbers, int(least), int(most))), bounds


def _numbers(values: pa.Array, kind: "np.dtype[Any]") -> NDArray[Any]:
    whole = np.frombuffer(values.buffers()[1], kind)
    return whole[values.offset : values.offset + len(values)]


def _text_content(values: pa.Array, dictionary: bool, statistics: bool) -> tuple[_Content, _Bounds]:
    if not dictionary:
        bounds = _bounds(values) if statistics else None
        return _Content(encodings.DELTA_LENGTH, encodings.texts_by_length(values)), bounds
    if not pa.types.is_dictionary(values.type) or values.dictionary.null_count:
        values = values.cast(pa.string()).dictionary_encode()
    codes, words = _numbers(values.indices, np.dtype("<i4")), values.dictionary
    # The scanner numbers texts that never repeat in row order.
    alone = len(words) == len(codes) and np.array_equal(codes, np.arange(len(codes)))
    if len(words) <= FEW:
        codes, words = _used_of_few(codes, words)
    elif not alone:
        codes, words = _used(codes, words)
    bounds = _bounds(words) if statistics else None
    if alone or varied(encodings.lengths(words), codes):
        texts = words if alone else words.take(pa.array(codes))
        return _Content(encodings.DELTA_LENGTH, encodings.texts_by_length(texts)), bounds
    coded = encodings.indices(codes, len(words))
    return _Content(
        encodings.RLE_DICTIONARY, coded, encodings.texts_plainly(words), len(words)
    ), bounds


def varied(sizes: NDArray[np.int32], codes: NDArray[Any]) -> bool:
    """Return whether texts are best written one per row, without a dictionary.

    Parameters
    ----------
    sizes : bytes of each distinct text.
    codes : the number of the text of each row.
    """
    if len(sizes) <= VARIED * len(codes):
        return False
    return bool(sizes[codes].sum(dtype=np.int64) <= LONG_REPEATS * sizes.sum(dtype=np.int64))


def _used_of_few(codes: NDArray[np.int32], words: pa.Array) -> tuple[NDArray[Any], pa.Array]:
    """Drop unused words, by searching and translating the codes as bytes."""
    narrow = codes.astype(np.uint8).tobytes()
    used = [code for code in range(len(words)) if narrow.find(code) >= 0]
    if len(used) < len(words):
        numbers = bytearray(FEW)
        for number, code in enumerate(used):
            numbers[code] = number
        narrow, words = narrow.translate(numbers), words.take(pa.array(used))
    return np.frombuffer(narrow, np.uint8), words


def _used(codes: NDArray[np.int32], words: pa.Array) -> tuple[NDArray[np.int32], pa.Array]:
    """Drop unused words: a slice of a table keeps the words of the whole table."""
    used = np.zeros(len(words), np.bool_)
    used[codes] = True
    if used.all():
        return codes, words
    numbers = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return numbers[codes], words.filter(pa.array(used))


def _bounds(texts: pa.Array) -> tuple[bytes, bytes]:
    ids = encodings.alike(texts, ID_BYTES)
    if ids is not None:
        # Compare the first eight bytes, then all bytes of the few ids that share the extremes.
        first = ids[:, :8].view(">u8")[:, 0].astype(np.uint64)
        ends = [ids[first == end] for end in (first.min(), first.max())]
        return min(one.tobytes() for one in ends[0]), max(one.tobytes() for one in ends[1])
    found = pc.min_max(texts)
    return found["min"].as_py().encode(), found["max"].as_py().encode()
