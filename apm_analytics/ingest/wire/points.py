"""Read points of gauges, sums and summaries.

In:  a point message and the row of its metric among the heads.
Out: one row of the block of its table, its pairs, exemplars and quantiles.
"""

from apm_analytics.ingest.decode.records import NO_RECORDED_VALUE
from apm_analytics.ingest.wire.attributes import attribute
from apm_analytics.ingest.wire.compiled import compiled
from apm_analytics.ingest.wire.fields import ODD, length, skip, tag, varint
from apm_analytics.ingest.wire.layout import (
    COUNT,
    HAS_INT,
    HAS_VALUE,
    ITEM,
    ITEM_END,
    LIST_ONE,
    LIST_ONE_END,
    LIST_ONE_VALUE,
    LIST_TWO,
    LIST_TWO_END,
    LIST_TWO_VALUE,
    SUM,
    VALUE,
    VALUE_INT,
)
from apm_analytics.ingest.wire.memory import double_bits, load64, store32, store64
from apm_analytics.ingest.wire.point_parts import begin, exemplar, finish


@compiled
def number_point(shared: int, block: int, metric: int, at: int, end: int) -> int:
    """Take one point of a gauge or a sum; `ODD` where the library must decide."""
    row = begin(shared, block)
    time = start = flags = value = has = 0
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return ODD
        kind = field & 7
        if kind == 1:
            if end - at < 8 or field < 8:
                return ODD
            if field == 3 << 3 | 1:
                time = load64(at)
            elif field == 2 << 3 | 1:
                start = load64(at)
            elif field == 4 << 3 | 1:
                value, has = load64(at), HAS_VALUE
            elif field == 6 << 3 | 1:
                value, has = load64(at), HAS_VALUE | HAS_INT
            at += 8
        elif field == 7 << 3 | 2:
            size, at = length(at, end)
            if at < 0 or attribute(shared, block, row, at, at + size) < 0:
                return ODD
            at += size
        elif field == 5 << 3 | 2:
            size, at = length(at, end)
            if at < 0 or exemplar(shared, block, at, at + size) < 0:
                return ODD
            at += size
        elif field == 8 << 3:
            flags, at = varint(at, end)
            if at < 0:
                return ODD
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
    if has == 0 and flags & NO_RECORDED_VALUE == 0:
        return ODD
    whole = value if has & HAS_INT else 0
    store64(load64(block + VALUE_INT) + 8 * row, whole)
    store64(load64(block + VALUE) + 8 * row, double_bits(float(value)) if has & HAS_INT else value)
    store32(load64(block + ITEM_END) + 4 * row, load64(block + ITEM))
    return finish(shared, block, row, metric, time, start, flags, has)


@compiled
def summary_point(shared: int, block: int, metric: int, at: int, end: int) -> int:
    """Take one point of a summary; `ODD` where the library must decide."""
    row = begin(shared, block)
    time = start = flags = count = total = 0
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return ODD
        kind = field & 7
        if kind == 1:
            if end - at < 8 or field < 8:
                return ODD
            if field == 3 << 3 | 1:
                time = load64(at)
            elif field == 2 << 3 | 1:
                start = load64(at)
            elif field == 4 << 3 | 1:
                count = load64(at)
            elif field == 5 << 3 | 1:
                total = load64(at)
            at += 8
        elif field == 7 << 3 | 2:
            size, at = length(at, end)
            if at < 0 or attribute(shared, block, row, at, at + size) < 0:
                return ODD
            at += size
        elif field == 6 << 3 | 2:
            size, at = length(at, end)
            if at < 0 or _quantile(block, at, at + size) < 0:
                return ODD
            at += size
        elif field == 8 << 3:
            flags, at = varint(at, end)
            if at < 0:
                return ODD
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
    if count < 0:
        return ODD
    store64(load64(block + COUNT) + 8 * row, count)
    store64(load64(block + SUM) + 8 * row, total)
    store32(load64(block + LIST_ONE_END) + 4 * row, load64(block + LIST_ONE))
    store32(load64(block + LIST_TWO_END) + 4 * row, load64(block + LIST_TWO))
    return finish(shared, block, row, metric, time, start, flags, 0)


@compiled
def _quantile(block: int, at: int, end: int) -> int:
    quantile = value = 0
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return ODD
        if field == 1 << 3 | 1 or field == 2 << 3 | 1:
            if end - at < 8:
                return ODD
            if field == 1 << 3 | 1:
                quantile = load64(at)
            else:
                value = load64(at)
            at += 8
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
    count = load64(block + LIST_ONE)
    store64(load64(block + LIST_ONE_VALUE) + 8 * count, quantile)
    store64(load64(block + LIST_TWO_VALUE) + 8 * count, value)
    store64(block + LIST_ONE, count + 1)
    store64(block + LIST_TWO, count + 1)
    return 0
