"""Random OTLP requests in protobuf: every field of the messages, in any order, and odd choices.

`oddity` is the probability of each odd choice: repeated and unknown fields, long varints, values to
reject, texts that are not UTF-8.
"""

import random
import struct
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from otlp_requests import NS_PER_S, START_NS

from apm_analytics.foundation import varint
from apm_analytics.ingest.decode.protobuf import REQUESTS
from apm_analytics.ingest.wire.layout import PLACE_NAMES

SIGNALS = tuple(REQUESTS)
_KEYS = (*PLACE_NAMES, "app.build", "app.région", "retry", "", "http.target", "http.status_code")
_RESOURCE_KEYS = ("service.name", "service.version", "host.name", "deployment.environment", "team")
_TEXTS = (
    "", "GET", "/cart?id=7", "/cart", "8080", "007", "200", "9" * 19, "shop", "süß", "日本",
    "a" * 70, "\0", "x\U0001f600y", "abcdefg", "abcdefgh", "abcdefghi",
)  # fmt: skip
_WORDS = tuple(text.encode() for text in _TEXTS)
_NO_UTF8 = (
    b"\xff",
    b"a\xc0\xaf",
    b"\xed\xa0\x80",
    b"abc\xe2\x82",
    b"\xf4\x90\x80\x80",
    b"\xf0\x80",
)
_INTEGERS = (0, 1, -1, 7, 200, 503, 2**31, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63))
_DOUBLES = (0.0, -0.0, 1.5, 1e300, -2.25, float("inf"), float("nan"), 1e-320)
_SCALARS = ("string_value", "int_value", "double_value", "bool_value")
_ENUMS = {"SpanKind": 5, "StatusCode": 2, "SeverityNumber": 24, "AggregationTemporality": 2}
_EIGHT_BYTES = (
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
    FieldDescriptor.TYPE_DOUBLE,
)
_LARGEST = 2**64


class Requests:
    """Draws requests."""

    def __init__(self, draw: random.Random, oddity: float) -> None:
        self._draw = draw
        self._oddity = oddity

    def request(self, signal: str) -> bytes:
        """Draw one request and return its bytes."""
        return self._message(REQUESTS[signal].DESCRIPTOR, 0)

    def _odd(self) -> bool:
        return self._draw.random() < self._oddity

    def _message(self, descriptor: Any, depth: int) -> bytes:
        if descriptor.name == "AnyValue":
            return self._any_value(depth)
        draw = self._draw
        written: list[bytes] = []
        oneofs = {each.name: draw.choice(each.fields).name for each in descriptor.oneofs}
        for field in descriptor.fields:
            oneof = field.containing_oneof
            if oneof is not None and oneofs[oneof.name] != field.name and not self._odd():
                continue
            if field.name in ("metadata", "entity_refs", "key_strindex") and not self._odd():
                continue
            written.extend(self._field(field, depth) for _ in range(self._times(field)))
        if self._odd():
            written.append(self._unknown())
        if draw.random() < 0.3:
            draw.shuffle(written)
        return b"".join(written)

    def _times(self, field: Any) -> int:
        draw = self._draw
        if field.is_repeated:
            most = {"attributes": 5, "data_points": 3, "metrics": 3}.get(field.name, 2)
            if field.name in ("events", "links", "exemplars"):
                return draw.choice((0, 0, 0, 1, 2))
            return draw.randint(0 if field.name != "resource_spans" else 1, most)
        if self._odd():
            return 2
        needed = ("name", "trace_id", "span_id", "key", "value")
        timed = field.name.endswith("time_unix_nano")
        if field.name in needed or timed or field.name.startswith("as_"):
            return 0 if self._odd() else 1
        return draw.randint(0, 1) if field.message_type is None else 1

    def _field(self, field: Any, depth: int) -> bytes:
        number = field.number
        if field.message_type is not None:
            name = field.message_type.name
            below = self._message(field.message_type, depth + 1)
            if name == "KeyValue":
                below = self._pair(_RESOURCE_KEYS if depth < 3 else _KEYS, depth)
            return _tagged(number, 2) + self._varint(len(below)) + below
        kind = field.type
        if kind in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            content = self._bytes(field)
            return _tagged(number, 2) + self._varint(len(content)) + content
        if (
            kind in (FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_DOUBLE)
            and field.is_repeated
        ):
            values = b"".join(self._eight(field) for _ in range(self._draw.randint(0, 3)))
            if self._draw.random() < 0.8:
                return _tagged(number, 2) + self._varint(len(values)) + values
            return b"".join(
                _tagged(number, 1) + values[at : at + 8] for at in range(0, len(values), 8)
            )
        if kind in _EIGHT_BYTES:
            return _tagged(number, 1) + self._eight(field)
        if kind == FieldDescriptor.TYPE_FIXED32:
            return _tagged(number, 5) + struct.pack("<I", self._draw.choice((0, 1, 256, 2**32 - 1)))
        if field.is_repeated:
            counts = [self._draw.choice((0, 1, 5, 300)) for _ in range(self._draw.randint(0, 4))]
            packed = b"".join(self._varint(count) for count in counts)
            return _tagged(number, 2) + self._varint(len(packed)) + packed
        return _tagged(number, 0) + self._varint(self._integer(field))

    def _pair(self, keys: tuple[str, ...], depth: int) -> bytes:
        key = self._draw.choice(keys).encode()
        if self._odd():
            key = self._draw.choice(_NO_UTF8)
        value = self._any_value(depth)
        both = [
            _tagged(1, 2) + self._varint(len(key)) + key,
            _tagged(2, 2) + self._varint(len(value)) + value,
        ]
        if self._odd():
            both.append(self._draw.choice([*both, self._unknown()]))
        if self._odd():
            both.pop(self._draw.randrange(len(both)))
        return b"".join(both)

    def _any_value(self, depth: int) -> bytes:
        fields = AnyValue.DESCRIPTOR.fields_by_name
        name = self._draw.choices(_SCALARS, (6, 3, 1, 1))[0]
        if self._odd():
            name = self._draw.choice(tuple(fields))
        if depth > 8 and name in ("array_value", "kvlist_value"):
            return b""
        written = self._field(fields[name], depth)
        if self._odd():
            written += self._draw.choice((b"", self._any_value(depth), self._unknown()))
        return written

    def _bytes(self, field: Any) -> bytes:
        draw = self._draw
        if field.name in ("trace_id", "span_id", "parent_span_id"):
            size = 16 if field.name == "trace_id" else 8
            if self._odd():
                return draw.choice((b"", bytes(size), draw.randbytes(size - 1)))
            return bytes([draw.randrange(1, 5)]) * size
        if field.type == FieldDescriptor.TYPE_STRING and self._odd():
            return draw.choice(_NO_UTF8)
        if field.name == "name" and not self._odd():
            return draw.choice((b"GET /", b"charge", b"latency"))
        return draw.choice(_WORDS)

    def _eight(self, field: Any) -> bytes:
        draw = self._draw
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return struct.pack("<d", draw.choice(_DOUBLES))
        if field.name.endswith("time_unix_nano"):
            if self._odd():
                return struct.pack("<Q", draw.choice((0, 1, 2**63, 2**64 - 1)))
            later = NS_PER_S * (field.name == "end_time_unix_nano")
            return struct.pack("<Q", START_NS + draw.randrange(NS_PER_S) + later)
        if field.type == FieldDescriptor.TYPE_SFIXED64:
            return struct.pack("<q", draw.choice(_INTEGERS))
        return struct.pack("<Q", 2**63 if self._odd() else draw.choice((0, 1, 5, 2**40)))

    def _integer(self, field: Any) -> int:
        draw = self._draw
        if field.enum_type is not None and not self._odd():
            return draw.randint(0, _ENUMS[field.enum_type.name])
        if field.name == "bool_value" or field.name == "is_monotonic":
            return draw.choice((0, 1, 1, 2**40 if self._odd() else 1))
        if field.name == "int_value":
            return draw.choice(_INTEGERS) % _LARGEST
        return draw.choice((0, 1, 2, 3, 2**32 + 3 if self._odd() else 4, 2**31))

    def _varint(self, value: int) -> bytes:
        written = varint.encode(value)
        if self._odd() and len(written) < 5:
            return written[:-1] + bytes([written[-1] | 0x80]) + bytes([0x80, 0x00])
        return written

    def _unknown(self) -> bytes:
        number = self._draw.choice((20, 99, 2000, 2**28))
        kind, content = self._draw.choice(
            (
                (0, varint.encode(300)),
                (1, bytes(8)),
                (2, b"\x03abc"),
                (5, bytes(4)),
                (3, b""),
                (6, b""),
            )
        )
        if kind == 3:
            return _tagged(number, 3) + b"\x08\x07" + _tagged(number, 4)
        return _tagged(number, kind) + content


def _tagged(number: int, kind: int) -> bytes:
    return varint.encode(number << 3 | kind)
