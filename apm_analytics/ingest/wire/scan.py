"""Scan one request: the messages around its records.

In:  an Export*ServiceRequest as address range, and the state of the batch.
Out: 0 when the whole request was read; `ODD` where the library must decide about it; `NO_ROOM`
     where a buffer must grow and the request be scanned again. After the last two the caller
     removes the rows that the scan may have left.
"""

from apm_analytics.foundation.compiled import compiled_part
from apm_analytics.ingest.decode.records import MAX_ATTRIBUTE_BYTES, TEMPORALITIES
from apm_analytics.ingest.wire import layout
from apm_analytics.ingest.wire.attributes import has_room
from apm_analytics.ingest.wire.fields import ODD, read_field
from apm_analytics.ingest.wire.histograms import exponential_point, histogram_point
from apm_analytics.ingest.wire.logs import log
from apm_analytics.ingest.wire.memory import load64, put32, put64, store64
from apm_analytics.ingest.wire.points import number_point, summary_point
from apm_analytics.ingest.wire.spans import span
from apm_analytics.ingest.wire.texts import intern, optional

NO_ROOM = -2
TRACES, METRICS, LOG_RECORDS = 0, 1, 2
SIGNAL_NUMBERS = {"traces": TRACES, "metrics": METRICS, "logs": LOG_RECORDS}
# Numbers of METRIC_KIND, with the field of `Metric` that holds each.
GAUGE, SUM_KIND, HISTOGRAM, EXPONENTIAL, SUMMARY = 5, 7, 9, 10, 11

# Bytes; larger records are rare, and the library checks their attributes one by one.
_LARGEST_RECORD = MAX_ATTRIBUTE_BYTES // 4
# Bytes; only a larger record can exceed the attributes that redaction allows, at 2 bytes each.
_CROWDED_RECORD = 20_000
_HEAD = layout.table_offset(0)
(_SPANS, _POINTS, _HISTOGRAMS, _EXPONENTIALS, _SUMMARIES, _LOGS) = (
    layout.table_offset(1 + number) for number in range(len(layout.TABLE_NAMES))
)
_TEMPORALITIES = len(TEMPORALITIES)


@compiled_part
def _put_range(shared: int, owner: int, start: int, end: int) -> int:
    head = shared + _HEAD
    if not has_room(shared, head, 1):
        return NO_ROOM
    row = load64(head + layout.RANGE)
    put64(head + layout.RANGE_OWNER, row, owner)
    put64(head + layout.RANGE_START, row, start)
    put64(head + layout.RANGE_END, row, end)
    store64(head + layout.RANGE, row + 1)
    return 0


@compiled_part
def _entry(shared: int, signal: int, number: int, at: int, end: int) -> int:
    """Scan a ResourceSpans, ResourceMetrics or ResourceLogs."""
    while at < end:
        begin = at
        field, _, start, at = read_field(at, end)
        if at < 0:
            return ODD
        if field == 2 << 3 | 2:
            state = _group(shared, signal, number, start, at)
        else:
            state = _put_range(shared, -1 - number, begin, at)
        if state < 0:
            return state
    return 0


@compiled_part
def _group(shared: int, signal: int, number: int, at: int, end: int) -> int:
    """Scan a ScopeSpans, ScopeMetrics or ScopeLogs."""
    head = shared + _HEAD
    if not has_room(shared, head, 1):
        return NO_ROOM
    group = load64(head + layout.HEAD_GROUP)
    put64(head + layout.GROUP_ENTRY, group, number)
    store64(head + layout.HEAD_GROUP, group + 1)
    store64(shared + layout.GROUP, group)
    while at < end:
        begin = at
        field, _, start, at = read_field(at, end)
        if at < 0:
            return ODD
        if field != 2 << 3 | 2:
            state = _put_range(shared, group, begin, at)
        elif signal == METRICS:
            state = _metric(shared, start, at)
        else:
            state = _record(shared, signal, start, at)
        if state < 0:
            return state
    return 0


@compiled_part
def _record(shared: int, signal: int, at: int, end: int) -> int:
    if end - at > _LARGEST_RECORD:
        return ODD
    if end - at > _CROWDED_RECORD:
        store64(shared + layout.UNSURE, 1)
    block = shared + (_SPANS if signal == TRACES else _LOGS)
    if not has_room(shared, block, end - at + 1):
        return NO_ROOM
    return span(shared, block, at, end) if signal == TRACES else log(shared, block, at, end)


@compiled_part
def _metric(shared: int, at: int, end: int) -> int:
    head = shared + _HEAD
    if not has_room(shared, head, 1):
        return NO_ROOM
    row = load64(head + layout.METRIC)
    name = unit = description = layout.EMPTY_CODE
    kind = temporality = monotonic = 0
    while at < end:
        field, size, start, at = read_field(at, end)
        if at < 0:
            return ODD
        if field & 7 != 2:
            continue
        number = field >> 3
        if number <= 3:
            if not has_room(shared, head, size + 1):
                return NO_ROOM
            text = intern(shared, start, size)
            if text < 0:
                return ODD
            if number == 1:
                name = text
            elif number == 2:
                description = text
            else:
                unit = text
        elif number in (GAUGE, SUM_KIND, HISTOGRAM, EXPONENTIAL, SUMMARY):
            # Of two kinds the last one counts; two messages of one kind are merged.
            if kind != 0 and kind != number:
                return ODD
            kind = number
            state, temporality, monotonic = _points(
                shared, kind, row, start, at, temporality, monotonic
            )
            if state < 0:
                return state
        elif number == 12:
            return ODD
    if name == layout.EMPTY_CODE or kind == 0:
        return ODD
    put32(head + layout.METRIC_NAME, row, name)
    put32(head + layout.METRIC_UNIT, row, unit)
    put32(head + layout.METRIC_DESCRIPTION, row, optional(description))
    put32(head + layout.METRIC_KIND, row, kind)
    put32(head + layout.METRIC_TEMPORALITY, row, temporality)
    put32(head + layout.METRIC_MONOTONIC, row, monotonic)
    put32(head + layout.METRIC_GROUP, row, load64(shared + layout.GROUP))
    store64(head + layout.METRIC, row + 1)
    return 0


@compiled_part
def _points(
    shared: int, kind: int, row: int, at: int, end: int, temporality: int, monotonic: int
) -> tuple[int, int, int]:
    """Scan a Gauge, Sum, Histogram, ExponentialHistogram or Summary."""
    while at < end:
        field, value, start, at = read_field(at, end)
        if at < 0:
            return ODD, 0, 0
        if field == 1 << 3 | 2:
            state = _point(shared, kind, row, start, at)
            if state < 0:
                return state, 0, 0
        elif field == 2 << 3 and kind != GAUGE and kind != SUMMARY:
            temporality = value
            if temporality < 0 or temporality >= _TEMPORALITIES:
                return ODD, 0, 0
        elif field == 3 << 3 and kind == SUM_KIND:
            monotonic = 1 if value != 0 else 0
    return 0, temporality, monotonic


@compiled_part
def _point(shared: int, kind: int, row: int, at: int, end: int) -> int:
    block = shared + _POINTS
    if kind == HISTOGRAM:
        block = shared + _HISTOGRAMS
    elif kind == EXPONENTIAL:
        block = shared + _EXPONENTIALS
    elif kind == SUMMARY:
        block = shared + _SUMMARIES
    if end - at > _LARGEST_RECORD:
        return ODD
    if not has_room(shared, block, end - at + 1):
        return NO_ROOM
    if kind == HISTOGRAM:
        return histogram_point(shared, block, row, at, end)
    if kind == EXPONENTIAL:
        return exponential_point(shared, block, row, at, end)
    if kind == SUMMARY:
        return summary_point(shared, block, row, at, end)
    return number_point(shared, block, row, at, end)


@compiled_part
def scan_request(shared: int, signal: int, at: int, end: int) -> int:
    """Scan one request of a signal of `SIGNAL_NUMBERS`."""
    number = 0
    while at < end:
        field, _, start, at = read_field(at, end)
        if at < 0:
            return ODD
        if field == 1 << 3 | 2:
            state = _entry(shared, signal, number, start, at)
            if state < 0:
                return state
            number += 1
    return 0
