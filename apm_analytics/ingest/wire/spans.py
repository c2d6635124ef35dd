"""Read spans with their events and links.

In:  a Span message.
Out: one row of the block of spans, its pairs, events and links.
"""

from apm_analytics.foundation.compiled import compiled_part
from apm_analytics.ingest.decode.records import SPAN_KINDS, STATUS_CODES
from apm_analytics.ingest.wire import layout
from apm_analytics.ingest.wire.attributes import attribute, item_attribute, open_item, open_record
from apm_analytics.ingest.wire.fields import ODD, read_field
from apm_analytics.ingest.wire.memory import load64, put32, put64, put_id, store64
from apm_analytics.ingest.wire.texts import intern, optional

_KINDS, _STATUSES = len(SPAN_KINDS), len(STATUS_CODES)


@compiled_part
def span(shared: int, block: int, at: int, end: int) -> int:
    """Read one span; `ODD` where the library must decide."""
    row = load64(block + layout.RECORD)
    open_record(shared)
    trace = span_id = parent = at
    trace_size = span_id_size = parent_size = 0
    name, trace_state, message = layout.EMPTY_CODE, -1, -1
    start_ns = end_ns = kind = status = 0
    flags = dropped = dropped_events = dropped_links = 0
    put64(block + layout.PRESENT, row, 0)
    while at < end:
        field, value, start, at = read_field(at, end)
        if at < 0:
            return ODD
        if field == 9 << 3 | 2:
            if attribute(shared, block, row, start, at) < 0:
                return ODD
        elif field == 1 << 3 | 2:
            trace, trace_size = start, value
        elif field == 2 << 3 | 2:
            span_id, span_id_size = start, value
        elif field == 4 << 3 | 2:
            parent, parent_size = start, value
        elif field == 5 << 3 | 2:
            name = intern(shared, start, value)
            if name < 0:
                return ODD
        elif field == 6 << 3:
            kind = value
            if kind < 0 or kind >= _KINDS:
                return ODD
        elif field == 7 << 3 | 1:
            start_ns = value
        elif field == 8 << 3 | 1:
            end_ns = value
        elif field == 3 << 3 | 2:
            trace_state = intern(shared, start, value)
            if trace_state < 0:
                return ODD
        elif field == 10 << 3:
            dropped = value
        elif field == 11 << 3 | 2:
            if _event(shared, block, start, at) < 0:
                return ODD
        elif field == 12 << 3:
            dropped_events = value
        elif field == 13 << 3 | 2:
            if _link(shared, block, start, at) < 0:
                return ODD
        elif field == 14 << 3:
            dropped_links = value
        elif field == 15 << 3 | 2:
            message, status = _status(shared, start, at, message, status)
            if status < 0:
                return ODD
        elif field == 16 << 3 | 5:
            flags = value
    if start_ns < load64(shared + layout.EARLIEST) or start_ns > load64(shared + layout.LATEST):
        return ODD
    if start_ns < 0 or end_ns < start_ns:  # or beyond 63 bits
        return ODD
    if put_id(block + layout.TRACE_ID, row, trace, trace_size, 16) != 1:
        return ODD
    if put_id(block + layout.SPAN_ID, row, span_id, span_id_size, 8) != 1:
        return ODD
    has_parent = put_id(block + layout.PARENT_ID, row, parent, parent_size, 8)
    if has_parent < 0:
        return ODD
    present = load64(load64(block + layout.PRESENT) + 8 * row)
    put64(block + layout.PRESENT, row, present | has_parent * layout.HAS_PARENT)
    put64(block + layout.TIME, row, start_ns)
    put64(block + layout.DURATION, row, end_ns - start_ns)
    put32(block + layout.CONTEXT, row, load64(shared + layout.GROUP))
    put32(block + layout.NAME, row, name)
    put32(block + layout.KIND, row, kind)
    put32(block + layout.STATUS, row, status)
    put32(block + layout.STATUS_MESSAGE, row, optional(message))
    put32(block + layout.TRACE_STATE, row, optional(trace_state))
    put32(block + layout.FLAGS, row, flags)
    put32(block + layout.DROPPED, row, dropped)
    put32(block + layout.DROPPED_EVENTS, row, dropped_events)
    put32(block + layout.DROPPED_LINKS, row, dropped_links)
    put32(block + layout.TEXT_END, row, load64(block + layout.TEXT_PAIR))
    put32(block + layout.NUMBER_END, row, load64(block + layout.NUMBER_PAIR))
    put32(block + layout.ITEM_END, row, load64(block + layout.ITEM))
    put32(block + layout.LINK_END, row, load64(block + layout.LINK))
    store64(block + layout.RECORD, row + 1)
    return 0


@compiled_part
def _status(shared: int, at: int, end: int, message: int, status: int) -> tuple[int, int]:
    """Read a Status into the values of an earlier one of the same span."""
    while at < end:
        field, value, start, at = read_field(at, end)
        if at < 0:
            return 0, ODD
        if field == 2 << 3 | 2:
            message = intern(shared, start, value)
            if message < 0:
                return 0, ODD
        elif field == 3 << 3:
            status = value
            if status < 0 or status >= _STATUSES:
                return 0, ODD
    return message, status


@compiled_part
def _event(shared: int, block: int, at: int, end: int) -> int:
    row = load64(block + layout.ITEM)
    time = dropped = 0
    name = layout.EMPTY_CODE
    put32(block + layout.ITEM_PAIR_FROM, row, load64(block + layout.ITEM_PAIR))
    open_item(shared)
    while at < end:
        field, value, start, at = read_field(at, end)
        if at < 0:
            return ODD
        if field == 3 << 3 | 2:
            if item_attribute(shared, block, start, at) < 0:
                return ODD
        elif field == 1 << 3 | 1:
            time = value
        elif field == 2 << 3 | 2:
            name = intern(shared, start, value)
            if name < 0:
                return ODD
        elif field == 4 << 3:
            dropped = value
    if time < 0:
        return ODD
    put64(block + layout.ITEM_TIME, row, time)
    put32(block + layout.ITEM_NAME, row, name)
    put32(block + layout.ITEM_DROPPED, row, dropped)
    put32(block + layout.ITEM_PAIR_END, row, load64(block + layout.ITEM_PAIR))
    store64(block + layout.ITEM, row + 1)
    return 0


@compiled_part
def _link(shared: int, block: int, at: int, end: int) -> int:
    row = load64(block + layout.LINK)
    trace = span_id = at
    trace_size = span_id_size = flags = dropped = 0
    trace_state = -1
    put32(block + layout.LINK_PAIR_FROM, row, load64(block + layout.ITEM_PAIR))
    open_item(shared)
    while at < end:
        field, value, start, at = read_field(at, end)
        if at < 0:
            return ODD
        if field == 1 << 3 | 2:
            trace, trace_size = start, value
        elif field == 2 << 3 | 2:
            span_id, span_id_size = start, value
        elif field == 3 << 3 | 2:
            trace_state = intern(shared, start, value)
            if trace_state < 0:
                return ODD
        elif field == 4 << 3 | 2:
            if item_attribute(shared, block, start, at) < 0:
                return ODD
        elif field == 5 << 3:
            dropped = value
        elif field == 6 << 3 | 5:
            flags = value
    has_trace = put_id(block + layout.LINK_TRACE, row, trace, trace_size, 16)
    has_span = put_id(block + layout.LINK_SPAN, row, span_id, span_id_size, 8)
    if has_trace < 0 or has_span < 0:
        return ODD
    present = has_trace * layout.HAS_TRACE | has_span * layout.HAS_SPAN
    put64(block + layout.LINK_PRESENT, row, present)
    put32(block + layout.LINK_STATE, row, optional(trace_state))
    put32(block + layout.LINK_FLAGS, row, flags)
    put32(block + layout.LINK_DROPPED, row, dropped)
    put32(block + layout.LINK_PAIR_END, row, load64(block + layout.ITEM_PAIR))
    store64(block + layout.LINK, row + 1)
    return 0
