"""Scan one request: the messages around its records.

In:  an Export*ServiceRequest as address range, and the state of the batch.
Out: 0 when all of it was taken; `ODD` where the library must decide about the request; `NO_ROOM`
     where a buffer must grow and the request be scanned again. Only then it may have left rows,
     which the caller takes back.
"""

from apm_analytics.ingest.decode.records import MAX_ATTRIBUTE_BYTES, TEMPORALITIES
from apm_analytics.ingest.wire.attributes import has_room
from apm_analytics.ingest.wire.compiled import compiled
from apm_analytics.ingest.wire.exponential import exponential_point
from apm_analytics.ingest.wire.fields import ODD, length, skip, tag, varint
from apm_analytics.ingest.wire.histograms import histogram_point
from apm_analytics.ingest.wire.layout import (
    EMPTY_CODE,
    EXP_HISTOGRAMS,
    GROUP,
    GROUP_ENTRY,
    HEAD_GROUP,
    HISTOGRAMS,
    LOGS,
    METRIC,
    METRIC_DESCRIPTION,
    METRIC_GROUP,
    METRIC_KIND,
    METRIC_MONOTONIC,
    METRIC_NAME,
    METRIC_TEMPORALITY,
    METRIC_UNIT,
    POINTS,
    RANGE,
    RANGE_END,
    RANGE_OWNER,
    RANGE_START,
    SPANS,
    SUMMARIES,
    TABLE_NAMES,
    UNSURE,
    table_offset,
)
from apm_analytics.ingest.wire.logs import log
from apm_analytics.ingest.wire.memory import load64, store32, store64
from apm_analytics.ingest.wire.points import number_point, summary_point
from apm_analytics.ingest.wire.spans import span
from apm_analytics.ingest.wire.texts import intern

NO_ROOM = -2
TRACES, METRICS, LOG_RECORDS = 0, 1, 2
SIGNAL_NUMBERS = {"traces": TRACES, "metrics": METRICS, "logs": LOG_RECORDS}
# Numbers of METRIC_KIND, with the field of `Metric` that holds each.
GAUGE, SUM_KIND, HISTOGRAM, EXPONENTIAL, SUMMARY = 5, 7, 9, 10, 11

# A larger record is rare, and its attributes are checked one by one.
_LARGEST_RECORD = MAX_ATTRIBUTE_BYTES // 4
# Only a larger record can hold more attributes than redaction allows: each has two bytes at least.
_CROWDED_RECORD = 20_000
_HEAD = table_offset(0)
(_SPANS, _POINTS, _HISTOGRAMS, _EXPONENTIALS, _SUMMARIES, _LOGS) = (
    table_offset(1 + TABLE_NAMES.index(name))
    for name in (SPANS, POINTS, HISTOGRAMS, EXP_HISTOGRAMS, SUMMARIES, LOGS)
)
_TEMPORALITIES = len(TEMPORALITIES)


@compiled
def _put_range(shared: int, owner: int, start: int, end: int) -> int:
    head = shared + _HEAD
    if not has_room(shared, head, 1):
        return NO_ROOM
    row = load64(head + RANGE)
    store64(load64(head + RANGE_OWNER) + 8 * row, owner)
    store64(load64(head + RANGE_START) + 8 * row, start)
    store64(load64(head + RANGE_END) + 8 * row, end)
    store64(head + RANGE, row + 1)
    return 0


@compiled
def _entry(shared: int, signal: int, number: int, at: int, end: int) -> int:
    """Scan a ResourceSpans, ResourceMetrics or ResourceLogs."""
    while at < end:
        start = at
        field, at = tag(at, end)
        if at < 0:
            return ODD
        if field == 2 << 3 | 2:
            size, at = length(at, end)
            if at < 0:
                return ODD
            state = _group(shared, signal, number, at, at + size)
            at += size
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
            state = _put_range(shared, -1 - number, start, at)
        if state < 0:
            return state
    return 0


@compiled
def _group(shared: int, signal: int, number: int, at: int, end: int) -> int:
    """Scan a ScopeSpans, ScopeMetrics or ScopeLogs."""
    head = shared + _HEAD
    if not has_room(shared, head, 1):
        return NO_ROOM
    group = load64(head + HEAD_GROUP)
    store64(load64(head + GROUP_ENTRY) + 8 * group, number)
    store64(head + HEAD_GROUP, group + 1)
    store64(shared + GROUP, group)
    while at < end:
        start = at
        field, at = tag(at, end)
        if at < 0:
            return ODD
        if field == 2 << 3 | 2:
            size, at = length(at, end)
            if at < 0:
                return ODD
            if signal == METRICS:
                state = _metric(shared, at, at + size)
            else:
                state = _record(shared, signal, at, at + size)
            at += size
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
            state = _put_range(shared, group, start, at)
        if state < 0:
            return state
    return 0


@compiled
def _record(shared: int, signal: int, at: int, end: int) -> int:
    if end - at > _LARGEST_RECORD:
        return ODD
    if end - at > _CROWDED_RECORD:
        store64(shared + UNSURE, 1)
    if signal == TRACES:
        if not has_room(shared, shared + _SPANS, end - at + 1):
            return NO_ROOM
        return span(shared, shared + _SPANS, at, end)
    if not has_room(shared, shared + _LOGS, end - at + 1):
        return NO_ROOM
    return log(shared, shared + _LOGS, at, end)


@compiled
def _metric(shared: int, at: int, end: int) -> int:
    head = shared + _HEAD
    if not has_room(shared, head, 1):
        return NO_ROOM
    row = load64(head + METRIC)
    name = unit = description = EMPTY_CODE
    kind = temporality = monotonic = 0
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return ODD
        if field & 7 == 2:
            size, at = length(at, end)
            if at < 0 or field < 8:
                return ODD
            number = field >> 3
            if number <= 3:
                if not has_room(shared, head, size + 1):
                    return NO_ROOM
                text = intern(shared, at, size)
                if text < 0:
                    return ODD
                if number == 1:
                    name = text
                elif number == 2:
                    description = text
                else:
                    unit = text
            elif number in (GAUGE, SUM_KIND, HISTOGRAM, EXPONENTIAL, SUMMARY):
                # Of two kinds the last holds, of two messages of one kind both do.
                if kind != 0 and kind != number:
                    return ODD
                kind = number
                state, temporality, monotonic = _points(
                    shared, kind, row, at, at + size, temporality, monotonic
                )
                if state < 0:
                    return state
            elif number == 12:
                return ODD
            at += size
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
    if name == EMPTY_CODE or kind == 0:
        return ODD
    store32(load64(head + METRIC_NAME) + 4 * row, name)
    store32(load64(head + METRIC_UNIT) + 4 * row, unit)
    store32(
        load64(head + METRIC_DESCRIPTION) + 4 * row,
        description if description != EMPTY_CODE else -1,
    )
    store32(load64(head + METRIC_KIND) + 4 * row, kind)
    store32(load64(head + METRIC_TEMPORALITY) + 4 * row, temporality)
    store32(load64(head + METRIC_MONOTONIC) + 4 * row, monotonic)
    store32(load64(head + METRIC_GROUP) + 4 * row, load64(shared + GROUP))
    store64(head + METRIC, row + 1)
    return 0


@compiled
def _points(
    shared: int, kind: int, row: int, at: int, end: int, temporality: int, monotonic: int
) -> tuple[int, int, int]:
    """Scan a Gauge, Sum, Histogram, ExponentialHistogram or Summary."""
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return ODD, 0, 0
        if field == 1 << 3 | 2:
            size, at = length(at, end)
            if at < 0:
                return ODD, 0, 0
            state = _point(shared, kind, row, at, at + size)
            if state < 0:
                return state, 0, 0
            at += size
        elif field == 2 << 3 and kind != GAUGE and kind != SUMMARY:
            temporality, at = varint(at, end)
            if at < 0 or temporality < 0 or temporality >= _TEMPORALITIES:
                return ODD, 0, 0
        elif field == 3 << 3 and kind == SUM_KIND:
            monotonic, at = varint(at, end)
            if at < 0:
                return ODD, 0, 0
            monotonic = 1 if monotonic != 0 else 0
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD, 0, 0
    return 0, temporality, monotonic


@compiled
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


@compiled
def scan_request(shared: int, signal: int, at: int, end: int) -> int:
    """Scan one request of a signal of `SIGNAL_NUMBERS`."""
    number = 0
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return ODD
        if field == 1 << 3 | 2:
            size, at = length(at, end)
            if at < 0:
                return ODD
            state = _entry(shared, signal, number, at, at + size)
            if state < 0:
                return state
            number += 1
            at += size
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
    return 0
