"""Read log records.

In:  a LogRecord message.
Out: one row of the block of logs and its pairs.
"""

from apm_analytics.ingest.decode.records import SEVERITIES
from apm_analytics.ingest.wire.attributes import any_text, attribute, open_record
from apm_analytics.ingest.wire.compiled import compiled
from apm_analytics.ingest.wire.fields import ODD, length, skip, tag, varint
from apm_analytics.ingest.wire.identifiers import put_span_id, put_trace_id
from apm_analytics.ingest.wire.layout import (
    BODIES,
    BODY,
    CONTEXT,
    DROPPED,
    EARLIEST,
    EMPTY_CODE,
    EVENT_NAME,
    FLAGS,
    GROUP,
    HAS_SPAN,
    HAS_TRACE,
    LATEST,
    NUMBER_END,
    NUMBER_PAIR,
    OTHER_TIME,
    PRESENT,
    RECORD,
    SEVERITY,
    SEVERITY_TEXT,
    SPAN_ID,
    TEXT_END,
    TEXT_PAIR,
    TIME,
    TRACE_ID,
)
from apm_analytics.ingest.wire.memory import load32, load64, store32, store64
from apm_analytics.ingest.wire.texts import intern

_HIGHEST_SEVERITY = max(SEVERITIES)
assert set(range(_HIGHEST_SEVERITY + 1)) == SEVERITIES


@compiled
def log(shared: int, block: int, at: int, end: int) -> int:
    """Take one log record; `ODD` where the library must decide."""
    row = load64(block + RECORD)
    store64(load64(block + PRESENT) + 8 * row, 0)
    open_record(shared)
    trace = own = at
    trace_size = own_size = 0
    severity_text = event_name = body = -1
    time = observed = severity = flags = dropped = 0
    had_body = False
    while at < end:
        field, at = tag(at, end)
        if at < 0:
            return ODD
        if field & 7 == 2:
            size, at = length(at, end)
            if at < 0:
                return ODD
            if field == 6 << 3 | 2:
                if attribute(shared, block, row, at, at + size) < 0:
                    return ODD
            elif field == 5 << 3 | 2:
                body = any_text(shared, BODIES, at, at + size)
                if body < -1 or had_body:
                    return ODD
                had_body = True
            elif field == 3 << 3 | 2:
                severity_text = intern(shared, at, size)
                if severity_text < 0:
                    return ODD
            elif field == 9 << 3 | 2:
                trace, trace_size = at, size
            elif field == 10 << 3 | 2:
                own, own_size = at, size
            elif field == 12 << 3 | 2:
                event_name = intern(shared, at, size)
                if event_name < 0:
                    return ODD
            elif field < 8:
                return ODD
            at += size
        elif field == 1 << 3 | 1:
            if end - at < 8:
                return ODD
            time = load64(at)
            at += 8
        elif field == 11 << 3 | 1:
            if end - at < 8:
                return ODD
            observed = load64(at)
            at += 8
        elif field == 2 << 3:
            severity, at = varint(at, end)
            if at < 0 or severity < 0 or severity > _HIGHEST_SEVERITY:
                return ODD
        elif field == 7 << 3:
            dropped, at = varint(at, end)
            if at < 0:
                return ODD
        elif field == 8 << 3 | 5:
            if end - at < 4:
                return ODD
            flags = load32(at)
            at += 4
        else:
            at = skip(field, at, end)
            if at < 0:
                return ODD
    if observed < 0:
        return ODD
    seen = time if time != 0 else observed
    if seen < 0 or seen < load64(shared + EARLIEST) or seen > load64(shared + LATEST):
        return ODD
    has_trace = put_trace_id(load64(block + TRACE_ID) + 32 * row, trace, trace_size)
    has_span = put_span_id(load64(block + SPAN_ID) + 16 * row, own, own_size)
    if has_trace < 0 or has_span < 0:
        return ODD
    present = load64(block + PRESENT) + 8 * row
    store64(present, load64(present) | has_trace * HAS_TRACE | has_span * HAS_SPAN)
    store64(load64(block + TIME) + 8 * row, seen)
    store64(load64(block + OTHER_TIME) + 8 * row, observed)
    store32(load64(block + CONTEXT) + 4 * row, load64(shared + GROUP))
    store32(load64(block + SEVERITY) + 4 * row, severity)
    store32(
        load64(block + SEVERITY_TEXT) + 4 * row,
        severity_text if severity_text != EMPTY_CODE else -1,
    )
    store32(load64(block + BODY) + 4 * row, body)
    store32(load64(block + EVENT_NAME) + 4 * row, event_name if event_name != EMPTY_CODE else -1)
    store32(load64(block + FLAGS) + 4 * row, flags)
    store32(load64(block + DROPPED) + 4 * row, dropped)
    store32(load64(block + TEXT_END) + 4 * row, load64(block + TEXT_PAIR))
    store32(load64(block + NUMBER_END) + 4 * row, load64(block + NUMBER_PAIR))
    store64(block + RECORD, row + 1)
    return 0
