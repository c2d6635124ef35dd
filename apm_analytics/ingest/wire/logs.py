"""Read log records.

In:  a LogRecord message.
Out: one row of the block of logs and its pairs.
"""

from apm_analytics.foundation.compiled import compiled_part
from apm_analytics.ingest.decode.records import SEVERITIES
from apm_analytics.ingest.wire import layout
from apm_analytics.ingest.wire.attributes import any_text, attribute, open_record
from apm_analytics.ingest.wire.fields import ODD, read_field
from apm_analytics.ingest.wire.memory import load64, put32, put64, put_id, store64
from apm_analytics.ingest.wire.texts import intern, optional

_HIGHEST_SEVERITY = max(SEVERITIES)
assert set(range(_HIGHEST_SEVERITY + 1)) == SEVERITIES


@compiled_part
def log(shared: int, block: int, at: int, end: int) -> int:
    """Read one log record; `ODD` where the library must decide."""
    row = load64(block + layout.RECORD)
    put64(block + layout.PRESENT, row, 0)
    open_record(shared)
    trace = span_id = at
    trace_size = span_id_size = 0
    severity_text = event_name = body = -1
    time = observed = severity = flags = dropped = 0
    had_body = False
    while at < end:
        field, value, start, at = read_field(at, end)
        if at < 0:
            return ODD
        if field == 6 << 3 | 2:
            if attribute(shared, block, row, start, at) < 0:
                return ODD
        elif field == 5 << 3 | 2:
            body = any_text(shared, layout.BODIES, start, at)
            if body < -1 or had_body:
                return ODD
            had_body = True
        elif field == 1 << 3 | 1:
            time = value
        elif field == 11 << 3 | 1:
            observed = value
        elif field == 2 << 3:
            severity = value
            if severity < 0 or severity > _HIGHEST_SEVERITY:
                return ODD
        elif field == 3 << 3 | 2:
            severity_text = intern(shared, start, value)
            if severity_text < 0:
                return ODD
        elif field == 9 << 3 | 2:
            trace, trace_size = start, value
        elif field == 10 << 3 | 2:
            span_id, span_id_size = start, value
        elif field == 7 << 3:
            dropped = value
        elif field == 8 << 3 | 5:
            flags = value
        elif field == 12 << 3 | 2:
            event_name = intern(shared, start, value)
            if event_name < 0:
                return ODD
    if observed < 0:
        return ODD
    if time == 0:
        time = observed
    if time < 0 or time < load64(shared + layout.EARLIEST) or time > load64(shared + layout.LATEST):
        return ODD
    has_trace = put_id(block + layout.TRACE_ID, row, trace, trace_size, 16)
    has_span = put_id(block + layout.SPAN_ID, row, span_id, span_id_size, 8)
    if has_trace < 0 or has_span < 0:
        return ODD
    present = load64(load64(block + layout.PRESENT) + 8 * row)
    present |= has_trace * layout.HAS_TRACE | has_span * layout.HAS_SPAN
    put64(block + layout.PRESENT, row, present)
    put64(block + layout.TIME, row, time)
    put64(block + layout.OTHER_TIME, row, observed)
    put32(block + layout.CONTEXT, row, load64(shared + layout.GROUP))
    put32(block + layout.SEVERITY, row, severity)
    put32(block + layout.SEVERITY_TEXT, row, optional(severity_text))
    put32(block + layout.BODY, row, body)
    put32(block + layout.EVENT_NAME, row, optional(event_name))
    put32(block + layout.FLAGS, row, flags)
    put32(block + layout.DROPPED, row, dropped)
    put32(block + layout.TEXT_END, row, load64(block + layout.TEXT_PAIR))
    put32(block + layout.NUMBER_END, row, load64(block + layout.NUMBER_PAIR))
    store64(block + layout.RECORD, row + 1)
    return 0
