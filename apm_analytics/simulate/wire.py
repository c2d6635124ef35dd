"""Many alike OTLP spans to protobuf bytes at once.

In:  one template span of the protobuf library, arrays of ids, times and digits.
Out: the bytes of all spans, each a `spans` entry of a ScopeSpans message.

A span of one template always has the same length, so its message is encoded once, repeated as
rows of a byte matrix, and the fields that vary are written into their columns.
"""

from typing import Any

import numpy as np
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Array = np.ndarray[Any, np.dtype[Any]]
# Placeholders: no text or number of a template holds these bytes.
TRACE_ID, SPAN_ID, PARENT_ID = b"\xf1" * 16, b"\xf2" * 8, b"\xf3" * 8
LINK_TRACE_ID, LINK_SPAN_ID = b"\xf7" * 16, b"\xf8" * 8
START_NS, END_NS, EVENT_NS = 0xF4F4F4F4F4F4F4F4, 0xF5F5F5F5F5F5F5F5, 0xF6F6F6F6F6F6F6F6
USER_DIGITS, SESSION_DIGITS = "@@@@@@", "%%%%%%%%"
_SPANS_TAG = 0x12  # field 2 of ScopeSpans, length-delimited


class Template:
    """A span whose ids, times and digits vary."""

    def __init__(self, span: Span) -> None:
        message = span.SerializeToString()
        prefix = bytes([_SPANS_TAG]) + varint(len(message))
        self._row = np.frombuffer(prefix + message, dtype=np.uint8)
        self._places = {
            name: [i for i in range(len(self._row)) if bytes(self._row[i : i + len(mark)]) == mark]
            for name, mark in {
                "trace_id": TRACE_ID,
                "span_id": SPAN_ID,
                "parent_id": PARENT_ID,
                "link_trace_id": LINK_TRACE_ID,
                "link_span_id": LINK_SPAN_ID,
                "start_ns": START_NS.to_bytes(8, "little"),
                "end_ns": END_NS.to_bytes(8, "little"),
                "event_ns": EVENT_NS.to_bytes(8, "little"),
                "user": USER_DIGITS.encode(),
                "session": SESSION_DIGITS.encode(),
            }.items()
        }

    def fill(self, values: dict[str, Array]) -> bytes:
        """Write one span a row; arrays of ids are (n, size) bytes, times uint64, digits ints."""
        count = len(values["start_ns"])
        rows = np.tile(self._row, (count, 1))
        for name, places in self._places.items():
            for place in places:
                cells = _cells(name, values[name])
                rows[:, place : place + cells.shape[1]] = cells
        return rows.tobytes()


def _cells(name: str, values: Array) -> Array:
    if name.endswith("_ns"):
        return values.astype("<u8").view(np.uint8).reshape(-1, 8)
    if name in ("user", "session"):
        width = len(USER_DIGITS) if name == "user" else len(SESSION_DIGITS)
        powers = 10 ** np.arange(width - 1, -1, -1)
        return (values[:, None] // powers % 10 + ord("0")).astype(np.uint8)
    return values


def varint(value: int) -> bytes:
    """Encode a length."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def framed(message: bytes) -> bytes:
    """Put a message behind its length."""
    return varint(len(message)) + message
