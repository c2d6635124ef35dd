"""Allocate, grow and roll back the buffers that the scanner fills.

In:  the signal, the expected number of bytes, the limits of valid times.
Out: the address of the state for the scanner, and arrays over the filled columns.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apm_analytics.ingest.decode.records import Limits
from apm_analytics.ingest.wire import layout
from apm_analytics.ingest.wire.blocks import recycled
from apm_analytics.ingest.wire.entries import forget, intern, rehash
from apm_analytics.ingest.wire.layout import (
    CAPACITY,
    COLUMNS,
    FILLED,
    FIRST_PROMOTED,
    FRAMES,
    HEAD,
    PROMOTED_SIZES,
    PROMOTED_WORDS,
    TABLE_NAMES,
    WORD,
    table_offset,
)
from apm_analytics.ingest.wire.texts import LONGEST_INTEGER

Mark = tuple[NDArray[np.int64], int]
Allocate = Callable[[list[int]], list[NDArray[np.uint8]]]
BLOCKS = (HEAD, *TABLE_NAMES)
TABLES_OF = {
    "traces": ("spans",),
    "metrics": layout.METRIC_TABLES,
    "logs": ("logs",),
}
# Initial sizes; buffers double when full. Memory pages that are never written cost nothing, so the
# initial buffers fit the expected number of bytes.
LEAST_ROWS, _BYTES_A_ROW = 1_024, 128
LEAST_PAIRS, _BYTES_A_PAIR = 4_096, 48
LEAST_TEXTS, _BYTES_A_TEXT = 2_048, 128
LEAST_ARENA, _ARENA_SHARE = 32 * 1_024, 2
# Texts in the hash table: a small table stays in the processor's cache.
LEAST_ENTERED = 16 * 1_024
_UNUSED = 2**62
# Bytes of memory per row of a frame, from the scan to the part: measured, see `decode.bounds`.
_RECORD_BYTES = {
    layout.SPANS: 700,
    layout.LOGS: 650,
    layout.POINTS: 500,
    layout.HISTOGRAMS: 750,
    layout.EXP_HISTOGRAMS: 900,
    layout.SUMMARIES: 700,
}
_ROW_BYTES = {
    layout.TEXT_PAIR: 60,
    layout.NUMBER_PAIR: 60,
    layout.ITEM: 250,
    layout.LINK: 400,
    layout.ITEM_PAIR: 150,
    layout.LIST_ONE: 40,
    layout.LIST_TWO: 40,
}
_HEAD_BYTES = {layout.RANGE: 400, layout.HEAD_GROUP: 600, layout.METRIC: 200}
# Buffers with one number per text.
_BESIDE_TEXTS = (
    layout.TEXT_STAMPS,
    layout.NUMBER_STAMPS,
    layout.ITEM_STAMPS,
    layout.KEY_MARKS,
    layout.ASKED,
)


class State:
    """All buffers of one batch.

    Parameters
    ----------
    expected : bytes of all payloads together.
    allocate : returns one buffer per size in bytes; tests put a guard page behind each.
    """

    def __init__(
        self, signal: str, expected: int, limits: Limits, allocate: Allocate = recycled
    ) -> None:
        self._allocate = allocate
        self._buffers: dict[int, NDArray[np.uint8]] = {}
        self._places: tuple[NDArray[Any], ...] = (
            np.array(layout.PLACE_COLUMNS, np.uint8),
            np.array(layout.PLACE_CURRENTS, np.uint8),
            np.zeros(LONGEST_INTEGER + WORD, np.uint8),
            np.zeros(layout.BODIES + 1, np.int32),
        )
        self.words = np.zeros(layout.STATE_BYTES // WORD, np.int64)
        self.address = address_of(self.words)
        self.tables = TABLES_OF[signal]
        self._expected = expected
        self._counts = self._count_words()
        self._bytes_a_row = np.array(
            [_HEAD_BYTES.get(frame, 0) for frame in FRAMES]
            + [
                _ROW_BYTES.get(frame, _RECORD_BYTES[name])
                for name in self.tables
                for frame in FRAMES
            ]
        )
        self._set(layout.EARLIEST, limits.earliest_ns)
        self._set(layout.LATEST, limits.latest_ns)
        for offset, array in zip(
            (layout.PLACE_COLUMN, layout.PLACE_CURRENT, layout.SCRATCH, layout.NOVELTY),
            self._places,
            strict=True,
        ):
            self._set(offset, address_of(array))
        # Other tables get their buffers with their first record.
        self._grow_block(HEAD, 1)
        self._grow_block(self.tables[0], 1)
        first = [text.encode() for text in layout.FIRST_TEXTS]
        self._grow_texts(
            len(first) + LEAST_TEXTS + expected // _BYTES_A_TEXT,
            len(b"".join(first)) + LEAST_ARENA + expected // _ARENA_SHARE,
        )
        self._enlarge([(layout.RECALLED, layout.RECALLED_PLACE_BYTES)], 0, layout.RECALLED_PLACES)
        self._buffers[layout.RECALLED][:] = 0
        for text in first:
            content = np.frombuffer(text, np.uint8)
            intern(self.address, address_of(content), content.size)

    def _get(self, offset: int) -> int:
        return int(self.words[offset // WORD])

    def _set(self, offset: int, value: int) -> None:
        self.words[offset // WORD] = value

    def count(self, block: str, frame: int) -> int:
        """Return the number of rows of a frame."""
        return self._get(table_offset(BLOCKS.index(block)) + frame)

    def column(self, block: str, offset: int, kind: type[np.generic]) -> NDArray[Any]:
        """Return the filled part of a column as an array of `kind`."""
        column = COLUMNS[(offset - COLUMNS[0].offset) // WORD]
        place = table_offset(BLOCKS.index(block)) + offset
        return self._buffers[place][: column.size * self.count(block, column.frame)].view(kind)

    def promoted(self, block: str, number: int) -> tuple[NDArray[np.uint8], int]:
        """Return the buffer of a promoted column and the number of filled rows."""
        place = table_offset(BLOCKS.index(block)) + FIRST_PROMOTED + PROMOTED_WORDS * number
        return self._buffers[place], self._get(place + FILLED)

    def texts(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Return where each text begins, with the end of the last, and the bytes of all."""
        count = self._get(layout.TEXTS)
        ends = self._buffers[layout.ENDS][: 4 * (count + 1)].view(np.int32)
        return ends, self._buffers[layout.ARENA][: int(ends[-1])]

    def text(self, code: int) -> str:
        """Return the text of a code."""
        ends, arena = self.texts()
        return arena[ends[code] : ends[code + 1]].tobytes().decode()

    def _count_words(self) -> NDArray[np.int64]:
        """Return the indices of the words that count rows, texts excepted."""
        blocks = [table_offset(BLOCKS.index(name)) for name in (HEAD, *self.tables)]
        return np.array([(block + frame) // WORD for block in blocks for frame in FRAMES])

    def mark(self) -> Mark:
        """Return how much is filled, for `roll_back`."""
        return self.words[self._counts], self._get(layout.TEXTS)

    def weight(self, mark: Mark) -> int:
        """Return the bytes of memory of the rows that came after the mark."""
        return int((self.words[self._counts] - mark[0]) @ self._bytes_a_row)

    def rows_of_groups(self, mark: Mark, first: int, count: int) -> NDArray[np.int64]:
        """Return how many rows came after the mark in each of `count` groups."""
        rows = np.zeros(count, np.int64)
        for number, name in enumerate(self.tables, 1):
            before = int(mark[0][number * len(FRAMES)])
            if self.count(name, layout.RECORD) > before:
                groups = self.column(name, layout.CONTEXT, np.int32)[before:]
                rows += np.bincount(groups - first, minlength=count)
        return rows

    def roll_back(self, mark: Mark) -> None:
        """Remove all rows and texts that came after the mark."""
        self.words[self._counts] = mark[0]
        for name in self.tables:
            rows = self.count(name, layout.RECORD)
            block = table_offset(BLOCKS.index(name)) + FIRST_PROMOTED
            for number in range(len(PROMOTED_SIZES)):
                place = block + PROMOTED_WORDS * number + FILLED
                self._set(place, min(rows, self._get(place)))
        forget(self.address, mark[1])

    def begin_request(self) -> None:
        """Clear the ranges and the unanswered keys of the previous request."""
        self._set(table_offset(0) + layout.RANGE, 0)
        self._set(layout.UNSURE, 0)
        self.answer(self.asked_keys(), layout.KEY_NEW)

    @property
    def unsure(self) -> bool:
        """Return whether the request has a key with a rule, or a record of very many attributes."""
        return bool(self._get(layout.UNSURE))

    def asked_keys(self) -> list[int]:
        """Return the keys of the request that have not been checked for privacy rules yet."""
        count = self._get(layout.ASKED_COUNT)
        keys: list[int] = self._buffers[layout.ASKED].view(np.int32)[:count].tolist()
        return keys

    def answer(self, keys: list[int], mark: int) -> None:
        """Set the mark of keys: `layout.KEY_CLEAN`, `KEY_RULED` or `KEY_NEW`."""
        self._buffers[layout.KEY_MARKS].view(np.int32)[keys] = mark
        self._set(layout.ASKED_COUNT, 0)

    def grow(self) -> None:
        """Make room for the record that did not fit."""
        size = self._get(layout.LACKING_SIZE)
        block = (self._get(layout.LACKING) - self.address - table_offset(0)) // layout.BLOCK_BYTES
        self._grow_block(BLOCKS[block], size)
        self._grow_texts(size, 2 * size)

    def _grow_block(self, name: str, size: int) -> None:
        """Make room for `size` more rows in every frame of a block."""
        block = table_offset(BLOCKS.index(name))
        for frame in FRAMES:
            items = _items(name, frame)
            count, capacity = self._get(block + frame), self._get(block + frame + CAPACITY)
            if not items:
                self._set(block + frame + CAPACITY, _UNUSED)
            elif count + size > capacity:
                rows = max(2 * capacity, count + size, self._first_rows(name, frame))
                self._enlarge([(block + offset, item) for offset, item in items], count, rows)
                self._set(block + frame + CAPACITY, rows)

    def _first_rows(self, name: str, frame: int) -> int:
        if name != self.tables[0]:
            return LEAST_ROWS
        if frame == layout.RECORD:
            return LEAST_ROWS + self._expected // _BYTES_A_ROW
        if frame in (layout.TEXT_PAIR, layout.NUMBER_PAIR):
            return LEAST_PAIRS + self._expected // _BYTES_A_PAIR
        return LEAST_PAIRS

    def _enlarge(self, places: list[tuple[int, int]], count: int, rows: int) -> None:
        """Replace buffers of (place, item size) by larger ones; the first `count` items stay."""
        buffers = self._allocate([item * rows for _, item in places])
        for (place, item), buffer in zip(places, buffers, strict=True):
            if count:
                buffer[: item * count] = self._buffers[place][: item * count]
            self._buffers[place] = buffer
            self._set(place, address_of(buffer))

    def _grow_texts(self, texts: int, size: int) -> None:
        """Make room for so many more texts, of `size` bytes together."""
        # The spare room that `attributes.has_room` needs.
        texts, size = texts + 128, size + 128
        count, capacity = self._get(layout.TEXTS), self._get(layout.TEXTS_CAPACITY)
        used = int(self._buffers[layout.ENDS].view(np.int32)[count]) if capacity else 0
        if count + texts > capacity:
            rows = max(2 * capacity, count + texts)
            self._enlarge(
                [(place, 4) for place in _BESIDE_TEXTS],
                count,
                rows,
            )
            self._enlarge([(layout.ENDS, 4)], count + 1 if capacity else 0, rows + 1)
            if not capacity:
                self._buffers[layout.ENDS].view(np.int32)[0] = 0
            self._set(layout.TEXTS_CAPACITY, rows)
        if used + size > self._get(layout.ARENA_CAPACITY):
            room = max(2 * self._get(layout.ARENA_CAPACITY), used + size)
            self._enlarge([(layout.ARENA, 1)], used, room)
            self._set(layout.ARENA_CAPACITY, room)
        self._grow_slots(self._get(layout.ENTERED) + texts if capacity else LEAST_ENTERED)

    def _grow_slots(self, entered: int) -> None:
        """Make room for so many texts in the hash table."""
        slots = self._get(layout.SLOT_MASK) + 1
        if 2 * entered > slots or layout.SLOTS not in self._buffers:
            old = self._buffers.get(layout.SLOTS)
            slots_needed = 1 << (2 * entered).bit_length()
            self._enlarge([(layout.SLOTS, 8)], 0, slots_needed)
            self._buffers[layout.SLOTS][:] = 0
            self._set(layout.SLOT_MASK, slots_needed - 1)
            if old is not None:
                rehash(self.address, address_of(old), slots)


@cache
def _items(name: str, frame: int) -> list[tuple[int, int]]:
    """Return the offset and item size of every column of a block's frame."""
    items = [
        (each.offset, each.size) for each in COLUMNS if each.frame == frame and name in each.tables
    ]
    if frame == layout.RECORD and name != HEAD:
        items += [
            (FIRST_PROMOTED + PROMOTED_WORDS * number, item)
            for number, item in enumerate(PROMOTED_SIZES)
        ]
    return items


def address_of(array: NDArray[Any]) -> int:
    """Return the address of an array's first item."""
    address: int = array.__array_interface__["data"][0]
    return address
