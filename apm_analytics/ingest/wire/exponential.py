"""Read points of exponential histograms.

In:  an ExponentialHistogramDataPoint message and the row of its metric among the heads.
Out: one row of the block of these points, its pairs, exemplars and counts.
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
    NEGATIVE_OFFSET,
    POSITIVE_OFFSET,
    SCALE,
    SUM,
    ZERO_COUNT,
    ZERO_THRESHOLD,
)
from apm_analytics.ingest.wire.memory import load64, store32, store64
from apm_analytics.ingest.wire.point_parts import begin, exemplar, finish


@compiled
def exponential_point(shared: int, block: int, metric: int, at: int, end: int) -> int:
    """Take one point of an exponential histogram; `ODD` where the library must decide."""
    row = begin(shared, block)
    time = start = flags = has = count = total = least = most = 0
    scale = zeros = threshold = positive = negative = 0
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
            elif field == 7 << 3 | 1:
                zeros = load64(at)
            elif field == 12 << 3 | 1:
                least, has = load64(at), has | HAS_MIN
            elif field == 13 << 3 | 1:
                most, has = load64(at), has | HAS_MAX
            elif field == 14 << 3 | 1:
                threshold = load64(at)
            at += 8
        elif kind == 2:
            size, at = length(at, end)
            if at < 0 or field < 8:
                return ODD
            if field == 1 << 3 | 2:
                if attribute(shared, block, row, at, at + size) < 0:
                    return ODD
            elif field == 11 << 3 | 2:
                if exemplar(shared, block, at, at + size) < 0:
                    return ODD
            elif field == 8 << 3 | 2:
                positive, state = _buckets(block, LIST_ONE, LIST_ONE_VALUE, at, at + size, positive)
                if state < 0:
                    return ODD
            elif field == 9 << 3 | 2:
                negative, state = _buckets(block, LIST_TWO, LIST_TWO_VALUE, at, at + size, negative)
                if state < 0:
                    return ODD
            at += size
        elif field == 6 << 3:
            scale, at = varint(at, end)
            if at < 0:
                return ODD
            scale = _zigzag(scale)
        elif field == 10 << 3:
            flags, at = varint(at, end)
            if at < 0:
                return ODD
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
    if count < 0 or zeros < 0:
        return ODD
    store64(load64(block + COUNT) + 8 * row, count)
    store64(load64(block + SUM) + 8 * row, total)
    store64(load64(block + MIN) + 8 * row, least)
    store64(load64(block + MAX) + 8 * row, most)
    store32(load64(block + SCALE) + 4 * row, scale)
    store64(load64(block + ZERO_COUNT) + 8 * row, zeros)
    store64(load64(block + ZERO_THRESHOLD) + 8 * row, threshold)
    store32(load64(block + POSITIVE_OFFSET) + 4 * row, positive)
    store32(load64(block + NEGATIVE_OFFSET) + 4 * row, negative)
    store32(load64(block + LIST_ONE_END) + 4 * row, load64(block + LIST_ONE))
    store32(load64(block + LIST_TWO_END) + 4 * row, load64(block + LIST_TWO))
    store32(load64(block + ITEM_END) + 4 * row, load64(block + ITEM))
    return finish(shared, block, row, metric, time, start, flags, has)


@compiled
def _zigzag(value: int) -> int:
    """Give the signed 32-bit integer that a varint stands for."""
    low = value & 0xFFFFFFFF
    return (low >> 1) ^ -(low & 1)


@compiled
def _buckets(
    block: int, frame: int, values: int, at: int, end: int, offset: int
) -> tuple[int, int]:
    """Read the buckets of one side, over what an earlier message of that side said."""
    count = load64(block + frame)
    target = load64(block + values)
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return 0, ODD
        if field == 1 << 3:
            offset, at = varint(at, end)
            if at < 0:
                return 0, ODD
            offset = _zigzag(offset)
        elif field == 2 << 3 | 2:
            size, at = length(at, end)
            if at < 0:
                return 0, ODD
            behind = at + size
            while at < behind:
                value, at = varint(at, behind)
                if at < 0 or value < 0:
                    return 0, ODD
                store64(target + 8 * count, value)
                count += 1
        elif field == 2 << 3:
            value, at = varint(at, end)
            if at < 0 or value < 0:
                return 0, ODD
            store64(target + 8 * count, value)
            count += 1
        else:
            at = skip(field, at, end)
            if at < 0:
                return 0, ODD
    store64(block + frame, count)
    return offset, 0
