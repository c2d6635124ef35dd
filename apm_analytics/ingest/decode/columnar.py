"""Decode requests of one signal straight into Arrow, without a Python object per record.

In:  Export*ServiceRequests of one signal in protobuf.
Out: one set of tables of the requests that were taken.

The scanner (`wire`) takes a whole request or none of it. It leaves to the library requests that are
damaged, have a record to reject, or hold something rare: nested values, bytes, repeated keys
(docs/decisions/0008). The library is also the reference: both give the same rows.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from apm_analytics.foundation import varint
from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import protobuf
from apm_analytics.ingest.decode.bounds import SHARED_PAIR_BYTES, Bound
from apm_analytics.ingest.decode.columns import SERVICE, Stamp, shared_pairs
from apm_analytics.ingest.decode.messages import weigh
from apm_analytics.ingest.decode.records import Limits
from apm_analytics.ingest.decode.sink import RefusedUnits
from apm_analytics.ingest.wire import assembly, layout
from apm_analytics.ingest.wire.blocks import recycled
from apm_analytics.ingest.wire.entries import scan
from apm_analytics.ingest.wire.scan import NO_ROOM, SIGNAL_NUMBERS
from apm_analytics.ingest.wire.state import Allocate, Mark, State

# Arrow counts the texts and pairs of a table with 31 bits; n bytes have 2 n of them at most.
MAX_BYTES = 2**30 - 1
# Resources and scopes become Python objects that are kept. The library takes requests in which one
# has a hundred times more attributes than usual; they are counted before.
SMALL_CONTEXT_BYTES = 64 * 1024
MAX_CONTEXT_WEIGHT = 8 * SMALL_CONTEXT_BYTES
# Bytes of memory per byte of a request: its texts in the journal, in buffers, in a part.
BYTES_A_BYTE = 4
_LENGTH_FIELD_1, _LENGTH_FIELD_2 = b"\x0a", b"\x12"


class Scanner:
    """Decodes the requests that do not need the protobuf library, into one set of buffers."""

    def __init__(
        self,
        signal: str,
        expected: int,
        limits: Limits,
        refused_units: RefusedUnits,
        allocate: Allocate = recycled,
    ) -> None:
        self._signal = signal
        self._refused_units = refused_units
        self.state = State(signal, expected, limits, allocate)
        self._contexts: list[tuple[Any, ...]] = []
        self._pairs: list[int] = []  # attributes of each context that are not columns
        self._known: dict[tuple[bytes, Stamp], int] = {}
        self._context_of: list[int] = []
        self._bytes = 0
        # Of the last request: the buffers before it, and the bytes of its resources and scopes.
        self._began: tuple[Mark, int, int] = (self.state.mark(), 0, 0)
        self.bodies: set[bytes] = set()

    def take(self, payload: bytes, stamp: Stamp = (), bound: Bound | None = None) -> bool:
        """Take one request and return True, or return False and leave no row.

        Raises
        ------
        TooLarge, Postponed
            The request takes more memory than it may; it leaves no row.
        """
        state = self.state
        if self._bytes + len(payload) > MAX_BYTES:
            return False
        buffer = pa.py_buffer(payload)
        metrics = state.count(layout.HEAD, layout.METRIC)
        state.begin_request()
        mark = state.mark()
        groups = len(self._context_of)
        self._began = (mark, groups, self._bytes)
        self.bodies.clear()
        number = SIGNAL_NUMBERS[self._signal]
        while True:
            result = scan(state.address, number, buffer.address, buffer.address + buffer.size)
            if result != NO_ROOM:
                break
            self._count(bound, state.weight(mark))
            state.grow()
            state.roll_back(mark)
            state.begin_request()
        if result == 0:
            self._count(bound, state.weight(mark) + BYTES_A_BYTE * len(payload))
            if self._take_contexts(payload, buffer.address, stamp):
                self._count_shared(bound, mark, groups)
                if not self._has_refused_unit(metrics):
                    self._bytes += len(payload)
                    return True
        self.take_back()
        return False

    def _count(self, bound: Bound | None, weight: int) -> None:
        """Set the memory that the request takes so far."""
        if bound is None:
            return
        try:
            bound.set(weight)
        except BadInput:
            self.take_back()
            raise

    def _count_shared(self, bound: Bound | None, mark: Mark, groups: int) -> None:
        """Add the attributes that the records of each group share."""
        if bound is None:
            return
        shared = np.array([self._pairs[context] for context in self._context_of[groups:]])
        records = self.state.rows_of_groups(mark, groups, len(shared))
        self._count(bound, bound.weight + SHARED_PAIR_BYTES * int(shared @ records))

    def take_back(self) -> None:
        """Remove the rows of the last request."""
        mark, groups, self._bytes = self._began
        del self._context_of[groups:]
        self.state.roll_back(mark)

    def new_texts(self) -> int:
        """Return the code of the first text that came with the last request."""
        return int(self._began[0][1])

    def tables(self, *, in_order: bool = False) -> dict[str, pa.Table]:
        """Return the tables of all requests, see `assembly.tables`; not used again afterwards."""
        contexts = np.array(self._context_of, dtype=np.int32)
        return assembly.tables(self.state, self._contexts, contexts, in_order=in_order)

    def _take_contexts(self, payload: bytes, address: int, stamp: Stamp) -> bool:
        """Let the library read the resources and scopes; return False if they are damaged."""
        state = self.state
        owners, starts, ends = (
            state.column(layout.HEAD, offset, np.int64).tolist()
            for offset in (layout.RANGE_OWNER, layout.RANGE_START, layout.RANGE_END)
        )
        heads: dict[int, bytes] = {}
        for owner, start, end in zip(owners, starts, ends, strict=True):
            piece = bytes(payload[start - address : end - address])
            heads[owner] = heads[owner] + piece if owner in heads else piece
        first = len(self._context_of)
        entries = state.column(layout.HEAD, layout.GROUP_ENTRY, np.int64)[first:].tolist()
        for group, entry in enumerate(entries, first):
            context = self._context(heads.get(-1 - entry, b""), heads.get(group, b""), stamp)
            if context is None:
                return False
            self._context_of.append(context)
        # A resource without any scope has no row, and may still be damaged.
        alone = {owner for owner in heads if owner < 0} - {-1 - entry for entry in entries}
        return all(self._context(heads[owner], b"", stamp) is not None for owner in alone)

    def _context(self, entry: bytes, group: bytes, stamp: Stamp) -> int | None:
        body = entry + _message(_LENGTH_FIELD_2, group)
        self.bodies.add(body)
        known = self._known.get((body, stamp))
        if known is not None:
            return known
        payload = _message(_LENGTH_FIELD_1, body)
        if len(body) > SMALL_CONTEXT_BYTES and weigh(self._signal, payload) > MAX_CONTEXT_WEIGHT:
            return None
        try:
            request = protobuf.parse(self._signal, payload)
        except BadInput:
            return None
        self._contexts.append(protobuf.only_context(self._signal, request, stamp))
        self._pairs.append(shared_pairs(self._contexts[-1]))
        number = self._known[body, stamp] = len(self._contexts) - 1
        return number

    def _has_refused_unit(self, first: int) -> bool:
        """Return whether a metric from row `first` of the heads on is to be rejected."""
        if not self._refused_units:
            return False
        names, units, groups = (
            self.state.column(layout.HEAD, offset, np.int32)[first:].tolist()
            for offset in (layout.METRIC_NAME, layout.METRIC_UNIT, layout.METRIC_GROUP)
        )
        text = self.state.text
        return any(
            (self._contexts[self._context_of[group]][SERVICE], text(name), text(unit))
            in self._refused_units
            for name, unit, group in zip(names, units, groups, strict=True)
        )


def _message(tag: bytes, content: bytes) -> bytes:
    return tag + varint.encode(len(content)) + content
