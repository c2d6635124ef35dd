"""Count the messages of a protobuf request, without parsing it.

In:  an Export*ServiceRequest as bytes.
Out: the bytes of memory that the protobuf library and the rows take at most.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apm_analytics.foundation.compiled import compiled
from apm_analytics.ingest.decode.protobuf import REQUESTS
from apm_analytics.ingest.wire.entries import sources_hash
from apm_analytics.ingest.wire.fields import LENGTH, read_field

# Bytes of memory per message, in the library and as a row: measured, see `decode.bounds`.
_BYTES = {
    **dict.fromkeys(("ResourceSpans", "ResourceMetrics", "ResourceLogs"), 1_000),
    **dict.fromkeys(("ScopeSpans", "ScopeMetrics", "ScopeLogs", "Metric"), 1_000),
    **dict.fromkeys(("Span", "LogRecord", "NumberDataPoint", "SummaryDataPoint"), 1_400),
    **dict.fromkeys(("HistogramDataPoint", "ExponentialHistogramDataPoint"), 1_500),
    **dict.fromkeys(("Event", "Link", "Exemplar"), 700),
    "ValueAtQuantile": 250,
}
_OTHER_BYTES = 150
_NUMBER_BYTES = 80  # an item of a list of numbers
_FIELDS = 32  # no OTLP message has a field above it that holds messages
_BYTES_COLUMN = _FIELDS
_MAX_DEPTH = 100  # the library reads no deeper
_NUMBERS = -1
Table = NDArray[np.int64]


def weigh(signal: str, payload: bytes) -> int:
    """Return the bytes of memory that the messages of a request take at most."""
    data = np.frombuffer(payload, np.uint8)
    start: int = data.__array_interface__["data"][0]
    return int(_weigh(start, start + len(payload), _table(signal)))


@cache
def _table(signal: str) -> Table:
    """Lay out the messages, one per row: the row of the message in each field, and its bytes."""
    root: Any = REQUESTS[signal].DESCRIPTOR
    order = [root]
    numbers = {root.full_name: 0}
    for descriptor in order:  # which grows meanwhile
        for field in descriptor.fields:
            kind = field.message_type
            if kind is not None and kind.full_name not in numbers:
                numbers[kind.full_name] = len(order)
                order.append(kind)
    table = np.zeros((len(order), _FIELDS + 1), np.int64)
    for row, descriptor in enumerate(order):
        table[row, _BYTES_COLUMN] = _BYTES.get(descriptor.name, _OTHER_BYTES)
        for field in descriptor.fields:
            if field.message_type is not None:
                table[row, field.number] = numbers[field.message_type.full_name]
            elif field.is_repeated and field.type != field.TYPE_STRING:
                table[row, field.number] = _NUMBERS
    return table


def _compile(version: int) -> Any:
    @compiled()
    def weigh(at: int, end: int, table: Table) -> int:
        # Of each open message: its end and its row.
        ends = np.zeros(_MAX_DEPTH + 1, np.int64)
        rows = np.zeros(_MAX_DEPTH + 1, np.int64)
        ends[0] = end
        depth = total = 0 if version else 1
        while depth >= 0:
            if at >= ends[depth]:
                depth -= 1
                continue
            field, size, start, behind = read_field(at, ends[depth])
            if behind < 0:  # damaged: the library reads no further
                at = ends[depth]
                continue
            at = behind
            child = table[rows[depth], field >> 3] if field >> 3 < _FIELDS else 0
            if child == _NUMBERS:
                total += _NUMBER_BYTES * (size if field & 7 == LENGTH else 1)
            elif child > 0 and field & 7 == LENGTH:
                total += table[child, _BYTES_COLUMN]
                if depth < _MAX_DEPTH:
                    depth += 1
                    ends[depth] = behind
                    rows[depth] = child
                    at = start
        return total

    return weigh


_weigh = _compile(sources_hash())
