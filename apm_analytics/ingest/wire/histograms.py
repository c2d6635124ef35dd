"""Read histogram points.

In:  a HistogramDataPoint message and the row of its metric among the heads.
Out: one row of the block of histogram points, its pairs, exemplars, bounds and counts.
"""

from apm_analytics.ingest.wire.attributes import attribute
from apm_analytics.ingest.wire.compiled import compiled
from apm_analytics.ingest.wire.fields import ODD, length, skip, tag, varint
from apm_analytics.ingest.wire.layout import (
    COUNT,
    HAS_MAX,
    HAS_MIN,
    HAS_SUM,
    ITEM,
    ITEM_END,
    LIST_ONE,
    LIST_ONE_END,
    LIST_ONE_VALUE,
    LIST_TWO,
    LIST_TWO_END,
    LIST_TWO_VALUE,
    MAX,
    MIN,
    SUM,
)
from apm_analytics.ingest.wire.memory import load64, store32, store64
from apm_analytics.ingest.wire.point_parts import begin, exemplar, finish


@compiled
def histogram_point(shared: int, block: int, metric: int, at: int, end: int) -> int:
    """Take one point of a histogram; `ODD` where the library must decide."""
    row = begin(shared, block)
    time = start = flags = has = count = total = least = most = 0
    first_bound, first_count = load64(block + LIST_ONE), load64(block + LIST_TWO)
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
                total, has = load64(at), has | HAS_SUM
            elif field == 11 << 3 | 1:
                least, has = load64(at), has | HAS_MIN
            elif field == 12 << 3 | 1:
                most, has = load64(at), has | HAS_MAX
            elif field == 6 << 3 | 1:
                _put_counts(block, at, at + 8)
            elif field == 7 << 3 | 1:
                _put_bounds(block, at, at + 8)
            at += 8
        elif kind == 2:
            size, at = length(at, end)
            if at < 0 or field < 8:
                return ODD
            if field == 9 << 3 | 2:
                if attribute(shared, block, row, at, at + size) < 0:
                    return ODD
            elif field == 8 << 3 | 2:
                if exemplar(shared, block, at, at + size) < 0:
                    return ODD
            elif field == 6 << 3 | 2:
                if size & 7:
                    return ODD
                _put_counts(block, at, at + size)
            elif field == 7 << 3 | 2:
                if size & 7:
                    return ODD
                _put_bounds(block, at, at + size)
            at += size
        elif field == 10 << 3:
            flags, at = varint(at, end)
            if at < 0:
                return ODD
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
    counts = load64(block + LIST_TWO) - first_count
    if counts > 0 and counts != load64(block + LIST_ONE) - first_bound + 1:
        return ODD
    if count < 0 or _has_negative(block, first_count):
        return ODD
    store64(load64(block + COUNT) + 8 * row, count)
    store64(load64(block + SUM) + 8 * row, total)
    store64(load64(block + MIN) + 8 * row, least)
    store64(load64(block + MAX) + 8 * row, most)
    store32(load64(block + LIST_ONE_END) + 4 * row, load64(block + LIST_ONE))
    store32(load64(block + LIST_TWO_END) + 4 * row, load64(block + LIST_TWO))
    store32(load64(block + ITEM_END) + 4 * row, load64(block + ITEM))
    return finish(shared, block, row, metric, time, start, flags, has)


@compiled
def _put_bounds(block: int, at: int, end: int) -> None:
    count = load64(block + LIST_ONE)
    target = load64(block + LIST_ONE_VALUE) + 8 * count
    store64(block + LIST_ONE, count + (end - at) // 8)
    while at < end:
        store64(target, load64(at))
        target += 8
        at += 8


@compiled
def _put_counts(block: int, at: int, end: int) -> None:
    count = load64(block + LIST_TWO)
    target = load64(block + LIST_TWO_VALUE) + 8 * count
    store64(block + LIST_TWO, count + (end - at) // 8)
    while at < end:
        store64(target, load64(at))
        target += 8
        at += 8


@compiled
def _has_negative(block: int, first: int) -> bool:
    """Tell whether a count from number `first` on is beyond 63 bits."""
    at = load64(block + LIST_TWO_VALUE)
    for number in range(first, load64(block + LIST_TWO)):  # noqa: SIM110
        if load64(at + 8 * number) < 0:
            return True
    return False
