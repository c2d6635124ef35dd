"""Read spans with their events and links.

In:  a Span message.
Out: one row of the block of spans, its pairs, events and links.
"""

from apm_analytics.ingest.decode.records import SPAN_KINDS, STATUS_CODES
from apm_analytics.ingest.wire.attributes import attribute, item_attribute, open_item, open_record
from apm_analytics.ingest.wire.compiled import compiled
from apm_analytics.ingest.wire.fields import ODD, length, skip, tag, varint
from apm_analytics.ingest.wire.identifiers import put_span_id, put_trace_id
from apm_analytics.ingest.wire.layout import (
    CONTEXT,
    DROPPED,
    DROPPED_EVENTS,
    DROPPED_LINKS,
    DURATION,
    EARLIEST,
    EMPTY_CODE,
    FLAGS,
    GROUP,
    HAS_PARENT,
    HAS_SPAN,
    HAS_TRACE,
    ITEM,
    ITEM_DROPPED,
    ITEM_END,
    ITEM_NAME,
    ITEM_PAIR,
    ITEM_PAIR_END,
    ITEM_PAIR_FROM,
    ITEM_TIME,
    KIND,
    LATEST,
    LINK,
    LINK_DROPPED,
    LINK_END,
    LINK_FLAGS,
    LINK_PAIR_END,
    LINK_PAIR_FROM,
    LINK_PRESENT,
    LINK_SPAN,
    LINK_STATE,
    LINK_TRACE,
    NAME,
    NUMBER_END,
    NUMBER_PAIR,
    PARENT_ID,
    PRESENT,
    RECORD,
    SPAN_ID,
    STATUS,
    STATUS_MESSAGE,
    TEXT_END,
    TEXT_PAIR,
    TIME,
    TRACE_ID,
    TRACE_STATE,
)
from apm_analytics.ingest.wire.memory import load32, load64, store32, store64
from apm_analytics.ingest.wire.texts import intern

_KINDS, _STATUSES = len(SPAN_KINDS), len(STATUS_CODES)


@compiled
def span(shared: int, block: int, at: int, end: int) -> int:
    """Take one span; `ODD` where the library must decide."""
    row = load64(block + RECORD)
    store64(load64(block + PRESENT) + 8 * row, 0)
    open_record(shared)
    trace = own = parent = at
    trace_size = own_size = parent_size = 0
    name, trace_state, message = EMPTY_CODE, -1, -1
    start = finish = kind = status = 0
    flags = dropped = dropped_events = dropped_links = 0
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return ODD
        kind_of_field = field & 7
        if kind_of_field == 2:
            size, at = length(at, end)
            if at < 0:
                return ODD
            if field == 9 << 3 | 2:
                if attribute(shared, block, row, at, at + size) < 0:
                    return ODD
            elif field == 1 << 3 | 2:
                trace, trace_size = at, size
            elif field == 2 << 3 | 2:
                own, own_size = at, size
            elif field == 4 << 3 | 2:
                parent, parent_size = at, size
            elif field == 5 << 3 | 2:
                name = intern(shared, at, size)
                if name < 0:
                    return ODD
            elif field == 3 << 3 | 2:
                trace_state = intern(shared, at, size)
                if trace_state < 0:
                    return ODD
            elif field == 11 << 3 | 2:
                if _event(shared, block, at, at + size) < 0:
                    return ODD
            elif field == 13 << 3 | 2:
                if _link(shared, block, at, at + size) < 0:
                    return ODD
            elif field == 15 << 3 | 2:
                message, status = _status(shared, at, at + size, message, status)
                if status < 0:
                    return ODD
            elif field < 8:
                return ODD
            at += size
        elif field == 7 << 3 | 1:
            if end - at < 8:
                return ODD
            start = load64(at)
            at += 8
        elif field == 8 << 3 | 1:
            if end - at < 8:
                return ODD
            finish = load64(at)
            at += 8
        elif field == 6 << 3:
            kind, at = varint(at, end)
            if at < 0 or kind < 0 or kind >= _KINDS:
                return ODD
        elif field == 16 << 3 | 5:
            if end - at < 4:
                return ODD
            flags = load32(at)
            at += 4
        elif field == 10 << 3:
            dropped, at = varint(at, end)
            if at < 0:
                return ODD
        elif field == 12 << 3:
            dropped_events, at = varint(at, end)
            if at < 0:
                return ODD
        elif field == 14 << 3:
            dropped_links, at = varint(at, end)
            if at < 0:
                return ODD
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
    if start < 0 or start < load64(shared + EARLIEST) or start > load64(shared + LATEST):
        return ODD
    if finish < start:  # or beyond 63 bits
        return ODD
    if put_trace_id(load64(block + TRACE_ID) + 32 * row, trace, trace_size) != 1:
        return ODD
    if put_span_id(load64(block + SPAN_ID) + 16 * row, own, own_size) != 1:
        return ODD
    has_parent = put_span_id(load64(block + PARENT_ID) + 16 * row, parent, parent_size)
    if has_parent < 0:
        return ODD
    if has_parent:
        present = load64(block + PRESENT) + 8 * row
        store64(present, load64(present) | HAS_PARENT)
    store64(load64(block + TIME) + 8 * row, start)
    store64(load64(block + DURATION) + 8 * row, finish - start)
    store32(load64(block + CONTEXT) + 4 * row, load64(shared + GROUP))
    store32(load64(block + NAME) + 4 * row, name)
    store32(load64(block + KIND) + 4 * row, kind)
    store32(load64(block + STATUS) + 4 * row, status)
    store32(load64(block + STATUS_MESSAGE) + 4 * row, message if message != EMPTY_CODE else -1)
    store32(load64(block + TRACE_STATE) + 4 * row, trace_state if trace_state != EMPTY_CODE else -1)
    store32(load64(block + FLAGS) + 4 * row, flags)
    store32(load64(block + DROPPED) + 4 * row, dropped)
    store32(load64(block + DROPPED_EVENTS) + 4 * row, dropped_events)
    store32(load64(block + DROPPED_LINKS) + 4 * row, dropped_links)
    store32(load64(block + TEXT_END) + 4 * row, load64(block + TEXT_PAIR))
    store32(load64(block + NUMBER_END) + 4 * row, load64(block + NUMBER_PAIR))
    store32(load64(block + ITEM_END) + 4 * row, load64(block + ITEM))
    store32(load64(block + LINK_END) + 4 * row, load64(block + LINK))
    store64(block + RECORD, row + 1)
    return 0


@compiled
def _status(shared: int, at: int, end: int, message: int, status: int) -> tuple[int, int]:
    """Read a status over what an earlier one of the same span said."""
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return 0, ODD
        if field == 2 << 3 | 2:
            size, at = length(at, end)
            if at < 0:
                return 0, ODD
            message = intern(shared, at, size)
            if message < 0:
                return 0, ODD
            at += size
        elif field == 3 << 3:
            status, at = varint(at, end)
            if at < 0 or status < 0 or status >= _STATUSES:
                return 0, ODD
        else:
            at = skip(field, at, end)
            if at < 0:
                return 0, ODD
    return message, status


@compiled
def _event(shared: int, block: int, at: int, end: int) -> int:
    row = load64(block + ITEM)
    time = dropped = 0
    name = EMPTY_CODE
    store32(load64(block + ITEM_PAIR_FROM) + 4 * row, load64(block + ITEM_PAIR))
    open_item(shared)
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return ODD
        if field == 1 << 3 | 1:
            if end - at < 8:
                return ODD
            time = load64(at)
            at += 8
        elif field == 2 << 3 | 2:
            size, at = length(at, end)
            if at < 0:
                return ODD
            name = intern(shared, at, size)
            if name < 0:
                return ODD
            at += size
        elif field == 3 << 3 | 2:
            size, at = length(at, end)
            if at < 0 or item_attribute(shared, block, at, at + size) < 0:
                return ODD
            at += size
        elif field == 4 << 3:
            dropped, at = varint(at, end)
            if at < 0:
                return ODD
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
    if time < 0:
        return ODD
    store64(load64(block + ITEM_TIME) + 8 * row, time)
    store32(load64(block + ITEM_NAME) + 4 * row, name)
    store32(load64(block + ITEM_DROPPED) + 4 * row, dropped)
    store32(load64(block + ITEM_PAIR_END) + 4 * row, load64(block + ITEM_PAIR))
    store64(block + ITEM, row + 1)
    return 0


@compiled
def _link(shared: int, block: int, at: int, end: int) -> int:
    row = load64(block + LINK)
    trace = own = at
    trace_size = own_size = flags = dropped = 0
    trace_state = -1
    store32(load64(block + LINK_PAIR_FROM) + 4 * row, load64(block + ITEM_PAIR))
    open_item(shared)
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return ODD
        if field & 7 == 2:
            size, at = length(at, end)
            if at < 0:
                return ODD
            if field == 1 << 3 | 2:
                trace, trace_size = at, size
            elif field == 2 << 3 | 2:
                own, own_size = at, size
            elif field == 3 << 3 | 2:
                trace_state = intern(shared, at, size)
                if trace_state < 0:
                    return ODD
            elif field == 4 << 3 | 2:
                if item_attribute(shared, block, at, at + size) < 0:
                    return ODD
            elif field < 8:
                return ODD
            at += size
        elif field == 5 << 3:
            dropped, at = varint(at, end)
            if at < 0:
                return ODD
        elif field == 6 << 3 | 5:
            if end - at < 4:
                return ODD
            flags = load32(at)
            at += 4
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
    has_trace = put_trace_id(load64(block + LINK_TRACE) + 32 * row, trace, trace_size)
    has_span = put_span_id(load64(block + LINK_SPAN) + 16 * row, own, own_size)
    if has_trace < 0 or has_span < 0:
        return ODD
    store64(load64(block + LINK_PRESENT) + 8 * row, has_trace * HAS_TRACE | has_span * HAS_SPAN)
    store32(load64(block + LINK_STATE) + 4 * row, trace_state if trace_state != EMPTY_CODE else -1)
    store32(load64(block + LINK_FLAGS) + 4 * row, flags)
    store32(load64(block + LINK_DROPPED) + 4 * row, dropped)
    store32(load64(block + LINK_PAIR_END) + 4 * row, load64(block + ITEM_PAIR))
    store64(block + LINK, row + 1)
    return 0
