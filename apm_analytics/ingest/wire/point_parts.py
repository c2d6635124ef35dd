"""Read what all kinds of metric points share: times, flags, exemplars.

In:  a row of the block of points; an Exemplar message.
Out: the shared columns of the row; one exemplar with its pairs.
"""

from apm_analytics.ingest.wire.attributes import item_attribute, open_item, open_record
from apm_analytics.ingest.wire.compiled import compiled
from apm_analytics.ingest.wire.fields import ODD, length, skip, tag
from apm_analytics.ingest.wire.identifiers import put_span_id, put_trace_id
from apm_analytics.ingest.wire.layout import (
    CONTEXT,
    EARLIEST,
    FLAGS,
    GROUP,
    HAS_SPAN,
    HAS_TRACE,
    ITEM,
    ITEM_PAIR,
    ITEM_PAIR_END,
    ITEM_PAIR_FROM,
    ITEM_PRESENT,
    ITEM_SPAN,
    ITEM_TIME,
    ITEM_TRACE,
    ITEM_VALUE,
    LATEST,
    METRIC_ROW,
    NUMBER_END,
    NUMBER_PAIR,
    OTHER_TIME,
    PRESENT,
    RECORD,
    TEXT_END,
    TEXT_PAIR,
    TIME,
)
from apm_analytics.ingest.wire.memory import double_bits, load64, store32, store64


@compiled
def begin(shared: int, block: int) -> int:
    row = load64(block + RECORD)
    store64(load64(block + PRESENT) + 8 * row, 0)
    open_record(shared)
    return row


@compiled
def finish(
    shared: int, block: int, row: int, metric: int, time: int, start: int, flags: int, has: int
) -> int:
    """Write what all kinds share; `ODD` for a time that is not believed."""
    if start < 0 or time < 0:
        return ODD
    if time < load64(shared + EARLIEST) or time > load64(shared + LATEST):
        return ODD
    present = load64(block + PRESENT) + 8 * row
    store64(present, load64(present) | has)
    store64(load64(block + TIME) + 8 * row, time)
    store64(load64(block + OTHER_TIME) + 8 * row, start)
    store32(load64(block + CONTEXT) + 4 * row, load64(shared + GROUP))
    store32(load64(block + METRIC_ROW) + 4 * row, metric)
    store32(load64(block + FLAGS) + 4 * row, flags)
    store32(load64(block + TEXT_END) + 4 * row, load64(block + TEXT_PAIR))
    store32(load64(block + NUMBER_END) + 4 * row, load64(block + NUMBER_PAIR))
    store64(block + RECORD, row + 1)
    return 0


@compiled
def exemplar(shared: int, block: int, at: int, end: int) -> int:
    row = load64(block + ITEM)
    time = value = 0
    trace = own = at
    trace_size = own_size = 0
    store32(load64(block + ITEM_PAIR_FROM) + 4 * row, load64(block + ITEM_PAIR))
    open_item(shared)
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return ODD
        kind = field & 7
        if kind == 1:
            if end - at < 8 or field < 8:
                return ODD
            if field == 2 << 3 | 1:
                time = load64(at)
            elif field == 3 << 3 | 1:
                value = load64(at)
            elif field == 6 << 3 | 1:
                value = double_bits(float(load64(at)))
            at += 8
        elif kind == 2:
            size, at = length(at, end)
            if at < 0 or field < 8:
                return ODD
            if field == 4 << 3 | 2:
                own, own_size = at, size
            elif field == 5 << 3 | 2:
                trace, trace_size = at, size
            elif field == 7 << 3 | 2 and item_attribute(shared, block, at, at + size) < 0:
                return ODD
            at += size
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
    has_trace = put_trace_id(load64(block + ITEM_TRACE) + 32 * row, trace, trace_size)
    has_span = put_span_id(load64(block + ITEM_SPAN) + 16 * row, own, own_size)
    if time < 0 or has_trace < 0 or has_span < 0:
        return ODD
    store64(load64(block + ITEM_TIME) + 8 * row, time)
    store64(load64(block + ITEM_VALUE) + 8 * row, value)
    store64(load64(block + ITEM_PRESENT) + 8 * row, has_trace * HAS_TRACE | has_span * HAS_SPAN)
    store32(load64(block + ITEM_PAIR_END) + 4 * row, load64(block + ITEM_PAIR))
    store64(block + ITEM, row + 1)
    return 0
