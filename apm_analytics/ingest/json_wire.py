"""Write OTLP JSON as the protobuf request that says the same, so that the scanner can take it.

In:  a document of one signal, written as exporters write it.
Out: an Export*ServiceRequest in protobuf; None for what is unusual, which `otlp_json` reads.

Only what means the same in both encodings is written over: the fields' present names, each once,
with values of their own type. Everything else (names of enums, base64, unknown fields, escapes
beyond ASCII, damage) is left, and so are all checks of what the fields hold.
"""

import math
import re
import struct
from typing import Any, Literal, NamedTuple

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from numpy.typing import NDArray

from apm_analytics.ingest import json_kernel as kernel
from apm_analytics.ingest.otlp_json import SIGNALS
from apm_analytics.ingest.otlp_protobuf import REQUESTS

_TYPES = {
    FieldDescriptor.TYPE_STRING: kernel.TEXT,
    FieldDescriptor.TYPE_BYTES: kernel.HEX,
    FieldDescriptor.TYPE_BOOL: kernel.BOOL,
    FieldDescriptor.TYPE_INT64: kernel.INTEGER,
    FieldDescriptor.TYPE_UINT64: kernel.COUNT,
    FieldDescriptor.TYPE_UINT32: kernel.SHORT,
    FieldDescriptor.TYPE_ENUM: kernel.SHORT,
    FieldDescriptor.TYPE_SINT32: kernel.ZIGZAG,
    FieldDescriptor.TYPE_FIXED32: kernel.FIXED32,
    FieldDescriptor.TYPE_FIXED64: kernel.FIXED64,
    FieldDescriptor.TYPE_SFIXED64: kernel.SIGNED64,
    FieldDescriptor.TYPE_DOUBLE: kernel.DOUBLE,
    FieldDescriptor.TYPE_MESSAGE: kernel.MESSAGE,
}
_WIRE_TYPES = {kernel.FIXED64: 1, kernel.SIGNED64: 1, kernel.DOUBLE: 1, kernel.FIXED32: 5}
_VARINTS = (kernel.BOOL, kernel.INTEGER, kernel.COUNT, kernel.SHORT, kernel.ZIGZAG)
_PACKED = (kernel.FIXED64, kernel.COUNT, kernel.DOUBLE)
# JSON writes these as base64 or as what only profiles know; `otlp_json` says what of it is kept.
_LEFT = ("bytesValue", "keyStrindex", "stringValueStrindex", "entityRefs")
_SIGNAL_OF = {top: signal for signal, (top, _, _) in SIGNALS.items()}
_FIRST_FIELD = re.compile(rb'\s*\{\s*"(resourceSpans|resourceMetrics|resourceLogs)"')


class _Tables(NamedTuple):
    fields: NDArray[np.int64]
    names: NDArray[np.uint8]
    slots: NDArray[np.int64]
    roots: dict[str, int]


def to_protobuf(document: bytes) -> tuple[str, bytes] | None:
    """Give the signal of a document and the request that says the same, or None.

    Examples
    --------
    >>> to_protobuf(b'{"resourceSpans": []}')
    ('traces', b'')
    >>> to_protobuf(b'{"resourceSpans": [{"unknown": 1}]}') is None
    True
    """
    first = _FIRST_FIELD.match(document)
    if first is None:
        return None
    signal = _SIGNAL_OF[first[1].decode()]
    text = np.frombuffer(document, np.uint8)
    room = bytearray(2 * text.size + 64)
    written = np.frombuffer(room, np.uint8)
    doubles = np.empty((text.size // 2 + 8, 3), np.int64)
    try:
        size, count = kernel.transcode(
            text, written, doubles, _TABLES.fields, _TABLES.names, _TABLES.slots,
            _TABLES.roots[signal],
        )  # fmt: skip
    except IndexError:  # cut short, nested deep, or it needs more room than any exporter's text
        return None
    if size < 0:
        return None
    for place, start, end in doubles[:count].tolist():
        value = float(document[start:end])
        if not math.isfinite(value):
            return None
        struct.pack_into("<d", room, place, value)
    return signal, bytes(room[:size])


def _tables() -> _Tables:
    """Lay out all messages of the three requests as arrays."""
    messages: list[Any] = []

    def number_of(message: Any) -> int:
        if message not in messages:
            messages.append(message)
            for field in message.fields:
                if field.message_type is not None and field.json_name not in _LEFT:
                    number_of(field.message_type)
        return messages.index(message)

    roots = {signal: number_of(request.DESCRIPTOR) for signal, request in REQUESTS.items()}
    rows: list[list[int]] = []
    names = bytearray()
    slots = np.full(kernel.SLOTS, -1, np.int64)
    for number, message in enumerate(messages):
        for place, field in enumerate(message.fields):
            if field.json_name in _LEFT:
                continue
            name = field.json_name.encode()
            slot = kernel.first_slot(name, 0, len(name), number)
            while slots[slot] >= 0:
                slot = (slot + 1) % kernel.SLOTS
            slots[slot] = len(rows)
            row = _row(field, number, place, len(names), len(name), number_of)
            rows.append(row)
            names += name
    return _Tables(np.array(rows, np.int64), np.frombuffer(bytes(names), np.uint8), slots, roots)


def _row(
    field: Any, message: int, place: int, name: int, name_size: int, number_of: Any
) -> list[int]:
    kind = _TYPES[field.type]
    packed = field.is_repeated and kind != kernel.MESSAGE
    assert not packed or kind in _PACKED, f"{field.full_name}: a list of another kind"
    oneof = field.containing_oneof
    # Of the members of a choice one may be there; each other field may be there once.
    seen = oneof.fields[0].index if oneof is not None else place
    wire: Literal[0, 1, 2, 5] = (
        0 if kind in _VARINTS and not packed else 2 if packed else _WIRE_TYPES.get(kind, 2)  # type: ignore[assignment]
    )
    row = [0] * kernel.COLUMNS
    row[kernel.OWNER], row[kernel.NAME], row[kernel.NAME_SIZE] = message, name, name_size
    row[kernel.KIND], row[kernel.REPEATED] = kind, int(field.is_repeated)
    row[kernel.TAG], row[kernel.SEEN] = field.number << 3 | wire, seen
    row[kernel.CHILD] = -1 if field.message_type is None else number_of(field.message_type)
    return row


_TABLES = _tables()
