"""Read points of histograms and of exponential histograms.

In:  a HistogramDataPoint or ExponentialHistogramDataPoint message and the row of its metric among
     the heads.
Out: one row of the block of its table, its pairs, exemplars, bounds and counts.
"""

from apm_analytics.foundation.compiled import compiled_part
from apm_analytics.ingest.wire import layout
from apm_analytics.ingest.wire.attributes import attribute
from apm_analytics.ingest.wire.fields import ODD, read_field, varint
from apm_analytics.ingest.wire.memory import load64, put32, put64, store64
from apm_analytics.ingest.wire.point_parts import begin, exemplar, finish


@compiled_part
def histogram_point(shared: int, block: int, metric: int, at: int, end: int) -> int:
    """Read one point of a histogram; `ODD` where the library must decide."""
    row = begin(shared, block)
    time = start_time = flags = has = count = total = least = most = 0
    first_bound = load64(block + layout.LIST_ONE)
    first_count = load64(block + layout.LIST_TWO)
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
            total, has = value, has | layout.HAS_SUM
        elif field == 11 << 3 | 1:
            least, has = value, has | layout.HAS_MIN
        elif field == 12 << 3 | 1:
            most, has = value, has | layout.HAS_MAX
        elif field == 9 << 3 | 2:
            if attribute(shared, block, row, start, at) < 0:
                return ODD
        elif field == 8 << 3 | 2:
            if exemplar(shared, block, start, at) < 0:
                return ODD
        elif field == 6 << 3 | 2 or field == 6 << 3 | 1:  # packed, or a single item
            if (at - start) & 7:
                return ODD
            _put_numbers(block, layout.LIST_TWO, layout.LIST_TWO_VALUE, start, at)
        elif field == 7 << 3 | 2 or field == 7 << 3 | 1:
            if (at - start) & 7:
                return ODD
            _put_numbers(block, layout.LIST_ONE, layout.LIST_ONE_VALUE, start, at)
        elif field == 10 << 3:
            flags = value
    counts = load64(block + layout.LIST_TWO) - first_count
    if counts > 0 and counts != load64(block + layout.LIST_ONE) - first_bound + 1:
        return ODD
    if count < 0 or _has_negative(block, first_count):
        return ODD
    _put_summary(block, row, count, total, least, most)
    return finish(shared, block, row, metric, time, start_time, flags, has)


@compiled_part
def _put_numbers(block: int, frame: int, values: int, at: int, end: int) -> None:
    """Append the items of 8 bytes between two addresses to a list."""
    count = load64(block + frame)
    while at < end:
        put64(block + values, count, load64(at))
        count += 1
        at += 8
    store64(block + frame, count)


@compiled_part
def _has_negative(block: int, first: int) -> bool:
    """Return whether a count from number `first` on is beyond 63 bits."""
    at = load64(block + layout.LIST_TWO_VALUE)
    for number in range(first, load64(block + layout.LIST_TWO)):
        if load64(at + 8 * number) < 0:
            return True
    return False


@compiled_part
def _put_summary(block: int, row: int, count: int, total: int, least: int, most: int) -> None:
    """Write what both kinds of histograms have."""
    put64(block + layout.COUNT, row, count)
    put64(block + layout.SUM, row, total)
    put64(block + layout.MIN, row, least)
    put64(block + layout.MAX, row, most)
    put32(block + layout.LIST_ONE_END, row, load64(block + layout.LIST_ONE))
    put32(block + layout.LIST_TWO_END, row, load64(block + layout.LIST_TWO))
    put32(block + layout.ITEM_END, row, load64(block + layout.ITEM))


@compiled_part
def exponential_point(shared: int, block: int, metric: int, at: int, end: int) -> int:
    """Read one point of an exponential histogram; `ODD` where the library must decide."""
    row = begin(shared, block)
    time = start_time = flags = has = count = total = least = most = 0
    scale = zeros = threshold = positive = negative = state = 0
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
            total, has = value, has | layout.HAS_SUM
        elif field == 7 << 3 | 1:
            zeros = value
        elif field == 12 << 3 | 1:
            least, has = value, has | layout.HAS_MIN
        elif field == 13 << 3 | 1:
            most, has = value, has | layout.HAS_MAX
        elif field == 14 << 3 | 1:
            threshold = value
        elif field == 1 << 3 | 2:
            if attribute(shared, block, row, start, at) < 0:
                return ODD
        elif field == 11 << 3 | 2:
            if exemplar(shared, block, start, at) < 0:
                return ODD
        elif field == 8 << 3 | 2:
            positive, state = _buckets(
                block, layout.LIST_ONE, layout.LIST_ONE_VALUE, start, at, positive
            )
            if state < 0:
                return ODD
        elif field == 9 << 3 | 2:
            negative, state = _buckets(
                block, layout.LIST_TWO, layout.LIST_TWO_VALUE, start, at, negative
            )
            if state < 0:
                return ODD
        elif field == 6 << 3:
            scale = _zigzag(value)
        elif field == 10 << 3:
            flags = value
    if count < 0 or zeros < 0:
        return ODD
    put32(block + layout.SCALE, row, scale)
    put64(block + layout.ZERO_COUNT, row, zeros)
    put64(block + layout.ZERO_THRESHOLD, row, threshold)
    put32(block + layout.POSITIVE_OFFSET, row, positive)
    put32(block + layout.NEGATIVE_OFFSET, row, negative)
    _put_summary(block, row, count, total, least, most)
    return finish(shared, block, row, metric, time, start_time, flags, has)


@compiled_part
def _zigzag(value: int) -> int:
    """Return the signed 32-bit integer that a varint stands for."""
    low = value & 0xFFFFFFFF
    return (low >> 1) ^ -(low & 1)


@compiled_part
def _buckets(
    block: int, frame: int, values: int, at: int, end: int, offset: int
) -> tuple[int, int]:
    """Read the Buckets of one side; a repeated message adds to the one before."""
    count = load64(block + frame)
    while at < end:
        field, value, start, at = read_field(at, end)
        if at < 0:
            return 0, ODD
        if field == 1 << 3:
            offset = _zigzag(value)
        elif field == 2 << 3 | 2 or field == 2 << 3:  # packed, or a single item
            while start < at:
                value, start = varint(start, at)
                if start < 0 or value < 0:
                    return 0, ODD
                put64(block + values, count, value)
                count += 1
    store64(block + frame, count)
    return offset, 0
