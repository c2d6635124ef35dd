"""Read trace and span ids.

In:  address and size of an id.
Out: its hex digits in a column; whether it is present, missing, or of the wrong length.
"""

from apm_analytics.foundation.compiled import compiled_part
from apm_analytics.ingest.wire.fields import ODD
from apm_analytics.ingest.wire.memory import hex_text, load64

TRACE_BYTES, SPAN_BYTES = 16, 8


@compiled_part
def put_trace_id(target: int, at: int, size: int) -> int:
    """Write a trace id; return 1, 0 for a missing one, `ODD` for another length."""
    if size == TRACE_BYTES:
        hex_text(target, at, TRACE_BYTES)
        return 1 if load64(at) != 0 or load64(at + 8) != 0 else 0
    return 0 if size == 0 else ODD


@compiled_part
def put_span_id(target: int, at: int, size: int) -> int:
    """Write a span id; return 1, 0 for a missing one, `ODD` for another length."""
    if size == SPAN_BYTES:
        hex_text(target, at, SPAN_BYTES)
        return 1 if load64(at) != 0 else 0
    return 0 if size == 0 else ODD
