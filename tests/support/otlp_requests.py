"""OTLP requests with known contents, in protobuf and as JSON."""

import base64
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

START_NS = 1_772_409_600 * 10**9
NS_PER_S = 10**9


def attribute(key: str, value: Any) -> KeyValue:
    """Return one attribute of any kind."""
    return KeyValue(key=key, value=any_value(value))


def any_value(value: Any) -> AnyValue:
    """Return the OTLP value of a Python value."""
    otlp_value = AnyValue()
    if isinstance(value, bool):
        otlp_value.bool_value = value
    elif isinstance(value, int):
        otlp_value.int_value = value
    elif isinstance(value, float):
        otlp_value.double_value = value
    elif isinstance(value, bytes):
        otlp_value.bytes_value = value
    elif isinstance(value, list):
        otlp_value.array_value.values.extend(any_value(item) for item in value)
    elif isinstance(value, dict):
        otlp_value.kvlist_value.values.extend(attribute(key, item) for key, item in value.items())
    elif isinstance(value, str):
        otlp_value.string_value = value
    return otlp_value


def traces(count: int = 2, *, service: str = "shop", first: int = 1) -> ExportTraceServiceRequest:
    """Return `count` server spans one second apart, 0.1 s each, numbered from `first`."""
    request = ExportTraceServiceRequest()
    entry = request.resource_spans.add()
    entry.resource.attributes.append(attribute("service.name", service))
    scope = entry.scope_spans.add()
    scope.scope.name = "tests"
    for number in range(first, first + count):
        scope.spans.add(
            trace_id=number.to_bytes(16, "big"),
            span_id=number.to_bytes(8, "big"),
            name="GET /",
            kind=2,
            start_time_unix_nano=START_NS + number * NS_PER_S,
            end_time_unix_nano=START_NS + number * NS_PER_S + NS_PER_S // 10,
            attributes=[attribute("http.route", "/"), attribute("retry", number)],
        )
    return request


def metrics() -> ExportMetricsServiceRequest:
    """Return one point of each of the five kinds."""
    request = ExportMetricsServiceRequest()
    entry = request.resource_metrics.add()
    entry.resource.attributes.append(attribute("service.name", "shop"))
    scope = entry.scope_metrics.add()
    time = {"time_unix_nano": START_NS, "start_time_unix_nano": START_NS - NS_PER_S}
    gauge = scope.metrics.add(name="cpu", unit="1")
    gauge.gauge.data_points.add(as_double=0.5, **time)
    total = scope.metrics.add(name="orders", unit="{order}")
    total.sum.aggregation_temporality = 2
    total.sum.is_monotonic = True
    total.sum.data_points.add(as_int=2**53 + 1, attributes=[attribute("user.id", "u1")], **time)
    histogram = scope.metrics.add(name="latency", unit="s")
    histogram.histogram.aggregation_temporality = 1
    point = histogram.histogram.data_points.add(
        count=6, sum=1.5, explicit_bounds=[0.1, 1.0], bucket_counts=[1, 2, 3], max=0.9, **time
    )
    point.exemplars.add(
        as_double=0.9, time_unix_nano=START_NS, trace_id=b"\1" * 16, span_id=b"\2" * 8
    )
    exponential = scope.metrics.add(name="latency.exp", unit="s")
    exponential.exponential_histogram.aggregation_temporality = 1
    wide = exponential.exponential_histogram.data_points.add(count=4, scale=3, zero_count=1, **time)
    wide.positive.offset = 2
    wide.positive.bucket_counts.extend([1, 2])
    summary = scope.metrics.add(name="latency.summary", unit="s")
    quantiles = summary.summary.data_points.add(count=9, sum=3.0, **time)
    quantiles.quantile_values.add(quantile=0.5, value=0.2)
    return request


def logs() -> ExportLogsServiceRequest:
    """Return one record with a text body and one with a structured body."""
    request = ExportLogsServiceRequest()
    entry = request.resource_logs.add()
    entry.resource.attributes.append(attribute("service.name", "shop"))
    scope = entry.scope_logs.add()
    scope.log_records.add(
        time_unix_nano=START_NS,
        severity_number=17,
        severity_text="ERROR",
        body=any_value("card declined"),
        trace_id=b"\1" * 16,
        span_id=b"\2" * 8,
    )
    scope.log_records.add(
        observed_time_unix_nano=START_NS, body=any_value({"order": 7}), event_name="order.placed"
    )
    return request


def as_json(request: Any, *, enum_numbers: bool = False) -> dict[str, Any]:
    """Return the request as OTLP JSON: lowerCamelCase, ids in hex; enums by name, or by number."""
    document = MessageToDict(request, use_integers_for_enums=enum_numbers)
    _hex_ids(document)
    return document


def _hex_ids(node: Any) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("traceId", "spanId", "parentSpanId"):
                node[key] = base64.b64decode(value).hex()
            else:
                _hex_ids(value)
    elif isinstance(node, list):
        for item in node:
            _hex_ids(item)
