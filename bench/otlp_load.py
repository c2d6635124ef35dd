"""Telemetry for the receivers: requests of equal shape, every record with its own ids and values.

In:  how many requests, of how many records.
Out: protobuf payloads. Only the first is built by the library; the others are copies with fresh
     random bytes in the same places, so that making them costs little and nothing repeats.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SEED = 7
RECORDS = {"traces": 1000, "logs": 1000, "metrics": 1000}  # per request
SPAN_BYTES = 590
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_DIGITS = np.frombuffer(b"0123456789", np.uint8)
# Marks in the template that become random hex digits, or digits, each of its own width.
_HEX_MARK, _DIGIT_MARK = "h", "d"


def payloads(signal: str, requests: int, time_ns: int) -> Iterator[bytes]:
    """Return payloads; times count up from `time_ns` by one microsecond per record."""
    made = {"traces": _traces, "logs": _logs, "metrics": _metrics}[signal](RECORDS[signal])
    template = np.frombuffer(made.SerializeToString(), np.uint8)
    text = template.tobytes()
    ids, hexes, digits = (_places(text, mark) for mark in (b"\1" * 8, b"hhhhhhhh", b"dddd"))
    times = _places(text, b"\2" * 8)
    draw = np.random.default_rng(SEED)
    for number in range(requests):
        content = template.copy()
        content[ids] = draw.integers(0, 256, ids.shape, np.uint8)
        content[hexes] = _HEX[draw.integers(0, 16, hexes.shape)]
        content[digits] = _DIGITS[draw.integers(0, 10, digits.shape)]
        first = time_ns + number * RECORDS[signal] * 1000
        stamps = first + np.arange(len(times), dtype=np.int64) * 1000
        content[times] = stamps.astype("<i8").view(np.uint8).reshape(-1, 8)
        yield content.tobytes()


def _places(text: bytes, mark: bytes) -> Any:
    """Return the place of every byte of every mark: shape (marks, bytes)."""
    starts = []
    at = text.find(mark)
    while at >= 0:
        starts.append(at)
        at = text.find(mark, at + len(mark))
    return np.array(starts, np.int64).reshape(-1, 1) + np.arange(len(mark))


def _resource(entry: Any, number: int) -> None:
    for key, value in (
        ("service.name", f"service-{number}"),
        ("service.version", "1.4.2"),
        ("deployment.environment.name", "production"),
        ("host.name", f"node-{number}"),
    ):
        entry.resource.attributes.add(key=key).value.string_value = value


def _attributes(target: Any, values: dict[str, str | int]) -> None:
    for key, value in values.items():
        held = target.attributes.add(key=key).value
        if isinstance(value, str):
            held.string_value = value
        else:
            held.int_value = value


_TIME = int.from_bytes(b"\2" * 8, "little")


def _traces(count: int) -> Any:
    request = ExportTraceServiceRequest()
    entry = request.resource_spans.add()
    _resource(entry, 3)
    group = entry.scope_spans.add()
    group.scope.name = "bench"
    for number in range(count):
        route = number % 40
        span = group.spans.add(
            trace_id=b"\1" * 16,
            span_id=b"\1" * 8,
            parent_span_id=b"\1" * 8,
            name=f"GET /api/v1/resource-{route:02}/{{id}}",
            kind=2,
            start_time_unix_nano=_TIME,
            end_time_unix_nano=_TIME,
        )
        values: dict[str, str | int] = {
            "http.request.method": "GET",
            "http.route": f"/api/v1/resource-{route:02}/{{id}}",
            "http.response.status_code": 200,
            "url.path": f"/api/v1/resource-{route:02}/dddddddd",
            "server.address": "shop.example",
            "user_agent.original": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
            "user.id": "user-dddd",
            "session.id": "hhhhhhhhhhhhhhhh",
            "thread.name": f"worker-{number % 16:02}",
            "app.build": "2026.03.02",
            "app.cart.items": number % 20,
            "app.region": "eu-central",
        }
        _attributes(span, values)
        if number == 0:
            missing = SPAN_BYTES - span.ByteSize()
        span.attributes[9].value.string_value += "+" + "x" * (missing - 1)
    return request


def _logs(count: int) -> Any:
    request = ExportLogsServiceRequest()
    entry = request.resource_logs.add()
    _resource(entry, 4)
    group = entry.scope_logs.add()
    group.scope.name = "bench"
    for number in range(count):
        log = group.log_records.add(
            time_unix_nano=_TIME,
            observed_time_unix_nano=_TIME,
            severity_number=9 + number % 2 * 4,
            severity_text="INFO",
            trace_id=b"\1" * 16,
            span_id=b"\1" * 8,
        )
        log.body.string_value = f"order dddddddd of cart {number % 50} was placed in dddd ms"
        values: dict[str, str | int] = {
            "code.function.name": f"shop.orders.place_{number % 12:02}",
            "thread.name": f"worker-{number % 16:02}",
            "user.id": "user-dddd",
            "session.id": "hhhhhhhhhhhhhhhh",
            "app.region": "eu-central",
            "app.cart.items": number % 20,
        }
        _attributes(log, values)
    return request


def _metrics(count: int) -> Any:
    request = ExportMetricsServiceRequest()
    entry = request.resource_metrics.add()
    _resource(entry, 5)
    group = entry.scope_metrics.add()
    group.scope.name = "bench"
    for number in range(count):
        if number % 100 == 0:
            metric = group.metrics.add(name=f"app.queue.{number // 100}", unit="1")
        point = metric.gauge.data_points.add(
            time_unix_nano=_TIME, start_time_unix_nano=_TIME, as_double=number / 7
        )
        values: dict[str, str | int] = {
            "http.route": f"/api/v1/resource-{number % 40:02}/{{id}}",
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "app.region": f"region-{number % 8}",
        }
        _attributes(point, values)
    return request
