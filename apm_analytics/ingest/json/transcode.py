"""Transcode OTLP JSON into the equivalent protobuf request, so that the scanner can take it.

In:  a document of one signal, as exporters write it.
Out: an Export*ServiceRequest in protobuf; None for an unusual document, which `json.otlp` reads.

A document is usual if it means the same in both encodings: current field names, each once, with
values of their own type; no base64, unknown fields, escapes beyond ASCII or damage. The values
themselves are not checked here.
"""

import re
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from google.protobuf.descriptor import FieldDescriptor
from numpy.typing import NDArray

from apm_analytics.ingest.decode.protobuf import REQUESTS
from apm_analytics.ingest.json import kernel
from apm_analytics.ingest.json.otlp import SIGNALS

_TYPES = {
    FieldDescriptor.TYPE_STRING: kernel.TEXT,
    FieldDescriptor.TYPE_BYTES: kernel.HEX,
    FieldDescriptor.TYPE_BOOL: kernel.BOOL,
    FieldDescriptor.TYPE_INT64: kernel.INTEGER,
    FieldDescriptor.TYPE_UINT64: kernel.COUNT,
    FieldDescriptor.TYPE_UINT32: kernel.SHORT,
    FieldDescriptor.TYPE_ENUM: kernel.ENUM,
    FieldDescriptor.TYPE_SINT32: kernel.ZIGZAG,
    FieldDescriptor.TYPE_FIXED32: kernel.FIXED32,
    FieldDescriptor.TYPE_FIXED64: kernel.FIXED64,
    FieldDescriptor.TYPE_SFIXED64: kernel.SIGNED64,
    FieldDescriptor.TYPE_DOUBLE: kernel.DOUBLE,
    FieldDescriptor.TYPE_MESSAGE: kernel.MESSAGE,
}
_WIRE_TYPES = {kernel.FIXED64: 1, kernel.SIGNED64: 1, kernel.DOUBLE: 1, kernel.FIXED32: 5}
_VARINTS = (
    *(kernel.BOOL, kernel.INTEGER, kernel.COUNT),
    *(kernel.SHORT, kernel.ENUM, kernel.ZIGZAG),
)
_PACKED = (kernel.FIXED64, kernel.COUNT, kernel.DOUBLE)
# In JSON these are base64, or occur in profiles only; `json.otlp` reads them.
_LEFT = ("bytesValue", "keyStrindex", "stringValueStrindex", "entityRefs")
_SIGNAL_OF = {top: signal for signal, (top, _, _) in SIGNALS.items()}
_FIRST_FIELD = re.compile(rb'\s*\{\s*"(resourceSpans|resourceMetrics|resourceLogs)"')


class _Tables(NamedTuple):
    fields: NDArray[np.int64]
    names: NDArray[np.uint8]
    slots: NDArray[np.int64]
    roots: dict[str, int]


def to_protobuf(document: bytes) -> tuple[str, bytes] | None:
    """Return the signal of a document and the equivalent request, or None.

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
    except IndexError:  # cut short, nested too deep, or larger as protobuf than any exporter's text
        return None
    if size < 0:
        return None
    if not _write_doubles(text, written, doubles[:count]):
        return None
    return signal, bytes(room[:size])


def _write_doubles(
    text: NDArray[np.uint8], written: NDArray[np.uint8], doubles: NDArray[np.int64]
) -> bool:
    """Write decimal numbers as doubles at their places; return False if one is not finite."""
    places, starts, ends = doubles.T
    offsets = np.zeros(len(doubles) + 1, np.int32)
    np.cumsum(ends - starts, out=offsets[1:])
    content = text[np.repeat(starts - offsets[:-1], ends - starts) + np.arange(offsets[-1])]
    decimals = pa.StringArray.from_buffers(
        len(doubles), pa.py_buffer(offsets), pa.py_buffer(content)
    )
    try:
        values = decimals.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # too large for a double
        return False
    written[places[:, None] + np.arange(8)] = values.astype("<f8").view(np.uint8).reshape(-1, 8)
    return bool(np.isfinite(values).all())


class _Layout:
    """Lays out messages and enums as arrays, numbered in the order of their first use."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.names = bytearray()
        self.slots = np.full(kernel.SLOTS, -1, np.int64)
        self._numbers: dict[str, int] = {}

    def number_of(self, kind: Any) -> int:
        """Return the number of a message or enum, with its fields or values laid out."""
        known = self._numbers.get(kind.full_name)
        if known is not None:
            return known
        number = self._numbers[kind.full_name] = len(self._numbers)
        if hasattr(kind, "values"):
            for value in kind.values:
                self._add(number, value.name, {kernel.TAG: value.number})
            return number
        for field in kind.fields:
            if field.json_name not in _LEFT:
                self._add(number, field.json_name, self._field(field))
        return number

    def _field(self, field: Any) -> dict[int, int]:
        kind = _TYPES[field.type]
        packed = field.is_repeated and kind != kernel.MESSAGE
        assert not packed or kind in _PACKED, f"{field.full_name}: a list of another kind"
        wire = 0 if kind in _VARINTS else _WIRE_TYPES.get(kind, 2)
        oneof = field.containing_oneof
        below = field.message_type or field.enum_type
        return {
            kernel.KIND: kind,
            kernel.REPEATED: int(field.is_repeated),
            kernel.TAG: field.number << 3 | (2 if packed else wire),
            # At most one member of a oneof may be present, and each other field once.
            kernel.SEEN: field.index if oneof is None else oneof.fields[0].index,
            kernel.CHILD: -1 if below is None else self.number_of(below),
        }

    def _add(self, owner: int, name: str, rest: dict[int, int]) -> None:
        written = name.encode()
        slot = kernel.first_slot(written, 0, len(written), owner)
        while self.slots[slot] >= 0:
            slot = (slot + 1) % kernel.SLOTS
        self.slots[slot] = len(self.rows)
        place = {kernel.OWNER: owner, kernel.NAME: len(self.names), kernel.NAME_SIZE: len(written)}
        filled = {**rest, **place}
        self.rows.append([filled.get(column, 0) for column in range(kernel.COLUMNS)])
        self.names += written


def _tables() -> _Tables:
    layout = _Layout()
    roots = {signal: layout.number_of(kind.DESCRIPTOR) for signal, kind in REQUESTS.items()}
    names = np.frombuffer(bytes(layout.names), np.uint8)
    return _Tables(np.array(layout.rows, np.int64), names, layout.slots, roots)


_TABLES = _tables()
