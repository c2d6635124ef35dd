"""Read points of gauges, sums and summaries.

In:  a point message and the row of its metric among the heads.
Out: one row of the block of its table, its pairs, exemplars and quantiles.
"""

from apm_analytics.foundation.compiled import compiled_part
from apm_analytics.ingest.decode.records import NO_RECORDED_VALUE
from apm_analytics.ingest.wire import layout
from apm_analytics.ingest.wire.attributes import attribute
from apm_analytics.ingest.wire.fields import ODD, read_field
from apm_analytics.ingest.wire.memory import double_bits, load64, put32, put64, store64
from apm_analytics.ingest.wire.point_parts import begin, exemplar, finish


@compiled_part
def number_point(shared: int, block: int, metric: int, at: int, end: int) -> int:
    """Read one point of a gauge or a sum; `ODD` where the library must decide."""
    row = begin(shared, block)
    time = start_time = flags = bits = has = 0
    while at < end:
        field, value, start, at = read_field(at, end)
        if at < 0:
            return ODD
        if field == 3 << 3 | 1:
            time = value
        elif field == 2 << 3 | 1:
            start_time = value
        elif field == 4 << 3 | 1:
            bits, has = value, layout.HAS_VALUE
        elif field == 6 << 3 | 1:
            bits, has = value, layout.HAS_VALUE | layout.HAS_INT
        elif field == 7 << 3 | 2:
            if attribute(shared, block, row, start, at) < 0:
                return ODD
        elif field == 5 << 3 | 2:
            if exemplar(shared, block, start, at) < 0:
                return ODD
        elif field == 8 << 3:
            flags = value
    if has == 0 and flags & NO_RECORDED_VALUE == 0:
        return ODD
    whole = bits if has & layout.HAS_INT else 0
    put64(block + layout.VALUE_INT, row, whole)
    put64(block + layout.VALUE, row, double_bits(float(bits)) if has & layout.HAS_INT else bits)
    put32(block + layout.ITEM_END, row, load64(block + layout.ITEM))
    return finish(shared, block, row, metric, time, start_time, flags, has)


@compiled_part
def summary_point(shared: int, block: int, metric: int, at: int, end: int) -> int:
    """Read one point of a summary; `ODD` where the library must decide."""
    row = begin(shared, block)
    time = start_time = flags = count = total = 0
    while at < end:
        field, value, start, at = read_field(at, end)
        if at < 0:
            return ODD
        if field == 3 << 3 | 1:
            time = value
        elif field == 2 << 3 | 1:
            start_time = value
        elif field == 4 << 3 | 1:
            count = value
        elif field == 5 << 3 | 1:
            total = value
        elif field == 7 << 3 | 2:
            if attribute(shared, block, row, start, at) < 0:
                return ODD
        elif field == 6 << 3 | 2:
            if _quantile(block, start, at) < 0:
                return ODD
        elif field == 8 << 3:
            flags = value
    if count < 0:
        return ODD
    put64(block + layout.COUNT, row, count)
    put64(block + layout.SUM, row, total)
    put32(block + layout.LIST_ONE_END, row, load64(block + layout.LIST_ONE))
    put32(block + layout.LIST_TWO_END, row, load64(block + layout.LIST_TWO))
    return finish(shared, block, row, metric, time, start_time, flags, 0)


@compiled_part
def _quantile(block: int, at: int, end: int) -> int:
    quantile = quantile_value = 0
    while at < end:
        field, value, _, at = read_field(at, end)
        if at < 0:
            return ODD
        if field == 1 << 3 | 1:
            quantile = value
        elif field == 2 << 3 | 1:
            quantile_value = value
    count = load64(block + layout.LIST_ONE)
    put64(block + layout.LIST_ONE_VALUE, count, quantile)
    put64(block + layout.LIST_TWO_VALUE, count, quantile_value)
    store64(block + layout.LIST_ONE, count + 1)
    store64(block + layout.LIST_TWO, count + 1)
    return 0
