"""Read what all kinds of metric points share: times, flags, exemplars.

In:  a row of the block of points; an Exemplar message.
Out: the shared columns of the row; one exemplar with its pairs.
"""

from apm_analytics.foundation.compiled import compiled_part
from apm_analytics.ingest.wire import layout
from apm_analytics.ingest.wire.attributes import item_attribute, open_item, open_record
from apm_analytics.ingest.wire.fields import ODD, read_field
from apm_analytics.ingest.wire.memory import double_bits, load64, put32, put64, put_id, store64


@compiled_part
def begin(shared: int, block: int) -> int:
    """Begin a point and return its row."""
    row = load64(block + layout.RECORD)
    put64(block + layout.PRESENT, row, 0)
    open_record(shared)
    return row


@compiled_part
def finish(
    shared: int, block: int, row: int, metric: int, time: int, start_time: int, flags: int, has: int
) -> int:
    """Write the shared columns; `ODD` for a time outside the limits."""
    if start_time < 0 or time < 0:
        return ODD
    if time < load64(shared + layout.EARLIEST) or time > load64(shared + layout.LATEST):
        return ODD
    put64(block + layout.PRESENT, row, load64(load64(block + layout.PRESENT) + 8 * row) | has)
    put64(block + layout.TIME, row, time)
    put64(block + layout.OTHER_TIME, row, start_time)
    put32(block + layout.CONTEXT, row, load64(shared + layout.GROUP))
    put32(block + layout.METRIC_ROW, row, metric)
    put32(block + layout.FLAGS, row, flags)
    put32(block + layout.TEXT_END, row, load64(block + layout.TEXT_PAIR))
    put32(block + layout.NUMBER_END, row, load64(block + layout.NUMBER_PAIR))
    store64(block + layout.RECORD, row + 1)
    return 0


@compiled_part
def exemplar(shared: int, block: int, at: int, end: int) -> int:
    """Read one exemplar; `ODD` where the library must decide."""
    row = load64(block + layout.ITEM)
    time = bits = 0
    trace = span_id = at
    trace_size = span_id_size = 0
    put32(block + layout.ITEM_PAIR_FROM, row, load64(block + layout.ITEM_PAIR))
    open_item(shared)
    while at < end:
        field, value, start, at = read_field(at, end)
        if at < 0:
            return ODD
        if field == 2 << 3 | 1:
            time = value
        elif field == 3 << 3 | 1:
            bits = value
        elif field == 6 << 3 | 1:
            bits = double_bits(float(value))
        elif field == 4 << 3 | 2:
            span_id, span_id_size = start, value
        elif field == 5 << 3 | 2:
            trace, trace_size = start, value
        elif field == 7 << 3 | 2 and item_attribute(shared, block, start, at) < 0:
            return ODD
    has_trace = put_id(block + layout.ITEM_TRACE, row, trace, trace_size, 16)
    has_span = put_id(block + layout.ITEM_SPAN, row, span_id, span_id_size, 8)
    if time < 0 or has_trace < 0 or has_span < 0:
        return ODD
    present = has_trace * layout.HAS_TRACE | has_span * layout.HAS_SPAN
    put64(block + layout.ITEM_TIME, row, time)
    put64(block + layout.ITEM_VALUE, row, bits)
    put64(block + layout.ITEM_PRESENT, row, present)
    put32(block + layout.ITEM_PAIR_END, row, load64(block + layout.ITEM_PAIR))
    store64(block + layout.ITEM, row + 1)
    return 0
