"""Read OTLP protobuf messages with the protobuf library: traces, metrics and logs.

In:  a parsed Export*ServiceRequest of the protobuf library.
Out: rows, rejected records and warnings in a `Sink`.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import damage, records
from apm_analytics.ingest.decode.columns import Stamp, Value, as_text, context, text_pairs
from apm_analytics.ingest.decode.records import Limits, Reject
from apm_analytics.ingest.decode.sink import Sink
from apm_analytics.ingest.json import otlp as otlp_json
from apm_analytics.ingest.json.fields import Json
from apm_analytics.ingest.json.otlp import SIGNALS, wrapped

REQUESTS: dict[str, type[Message]] = {
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}
METRIC_KINDS = {
    "gauge": "metric_points",
    "sum": "metric_points",
    "histogram": "histogram_points",
    "exponential_histogram": "exp_histogram_points",
    "summary": "summary_points",
}
_GROUPS = {
    "traces": ("resource_spans", "scope_spans", "spans"),
    "metrics": ("resource_metrics", "scope_metrics", "metrics"),
    "logs": ("resource_logs", "scope_logs", "log_records"),
}


def parse(signal: str, payload: bytes) -> Any:
    """Parse one request.

    Raises
    ------
    BadInput
        The bytes are not such a message; the error names the damaged field.
    """
    try:
        return REQUESTS[signal].FromString(payload)
    except DecodeError as error:
        other = _other_signal(signal, payload)
        if other is not None:
            raise BadInput(otlp_json.misplaced(signal, other)) from error
        where = damage.describe(REQUESTS[signal], payload)
        raise BadInput(f"no OTLP {signal} request in protobuf: {where}") from error


def check_signal(signal: str, request: Any, payload: bytes) -> None:
    """Refuse a request of another signal, which can often be parsed as one of this signal.

    Raises
    ------
    BadInput
        The first record lacks what nearly all records of this signal have, and is plausible as
        one of another signal.
    """
    first = next(_first_records(signal, request), None)
    if first is None or _plausible(signal, first):
        return
    other = _other_signal(signal, payload)
    if other is not None:
        raise BadInput(otlp_json.misplaced(signal, other))


def _other_signal(signal: str, payload: bytes) -> str | None:
    for other in REQUESTS:
        if other == signal:
            continue
        try:
            first = next(_first_records(other, REQUESTS[other].FromString(payload)), None)
        except DecodeError:
            continue
        if first is not None and _plausible(other, first):
            return other
    return None


def detect(payload: bytes, guess: str = "traces") -> tuple[str, Any]:
    """Find the signal of a request, which the wire format does not name; return it and the request.

    Parameters
    ----------
    guess : the signal tried first, and returned for a request without any record.

    Raises
    ------
    BadInput
        The bytes fit none of the three.
    """
    order = [guess, *(signal for signal in REQUESTS if signal != guess)]
    empty: tuple[str, Any] | None = None
    for signal in order:
        try:
            request = REQUESTS[signal].FromString(payload)
        except DecodeError:
            continue
        first = next(_first_records(signal, request), None)
        if first is None:
            empty = empty or (signal, request)
        elif _plausible(signal, first):
            return signal, request
    if empty:
        return empty
    raise BadInput(
        f"{len(payload):,} bytes fit neither an OTLP trace, metrics nor logs request; "
        "need Export*ServiceRequest in protobuf"
    )


def _first_records(signal: str, request: Any) -> Iterator[Any]:
    top, middle, leaf = _GROUPS[signal]
    for entry in getattr(request, top):
        for group in getattr(entry, middle):
            yield from getattr(group, leaf)


def _plausible(signal: str, record: Any) -> bool:
    """Return whether a record has what nearly all records of this signal have."""
    if signal == "traces":
        return bool(record.start_time_unix_nano or len(record.span_id) == 8)
    if signal == "metrics":
        return record.WhichOneof("data") is not None
    return bool(record.time_unix_nano or record.observed_time_unix_nano)


def read_request(signal: str, request: Any, sink: Sink, limits: Limits) -> None:
    """Read one parsed request into the sink."""
    read: Callable[[Any, str, Sink, Limits], None] = {
        "traces": _read_span,
        "metrics": _read_metric,
        "logs": _read_log,
    }[signal]
    top, middle, leaf = _GROUPS[signal]
    names = SIGNALS[signal]
    for i, entry in enumerate(getattr(request, top)):
        for j, group in enumerate(getattr(entry, middle)):
            around = cache(partial(_around, entry, group))
            shared = _context(entry, group, sink.stamp)
            sink.open_context(shared, partial(_wrapped, signal, around))
            for k, record in enumerate(getattr(group, leaf)):
                path = f"{names[0]}[{i}].{names[1]}[{j}].{names[2]}[{k}]"
                try:
                    read(record, path, sink, limits)
                except Reject as error:
                    sink.reject_record(signal, f"{path}.{error.field}", error.reason, record)


def only_context(signal: str, request: Any, stamp: Stamp) -> tuple[Any, ...]:
    """Return the shared values of a request of one resource with one scope."""
    top, middle, _ = _GROUPS[signal]
    entry = getattr(request, top)[0]
    return _context(entry, getattr(entry, middle)[0], stamp)


def _around(entry: Any, group: Any) -> tuple[Json, Json]:
    return (
        {"resource": MessageToDict(entry.resource), "schemaUrl": entry.schema_url},
        {"scope": MessageToDict(group.scope), "schemaUrl": group.schema_url},
    )


def _wrapped(signal: str, around: Callable[[], tuple[Json, Json]], record: Any) -> dict[str, Any]:
    entry, group = around()
    return wrapped(signal, entry, group, MessageToDict(record))


def _context(entry: Any, group: Any, stamp: Stamp) -> tuple[Any, ...]:
    pairs = _pairs(entry.resource.attributes)
    if entry.resource.dropped_attributes_count:
        pairs.append(("otel.dropped_attributes_count", entry.resource.dropped_attributes_count))
    return context(
        pairs,
        entry.schema_url,
        group.scope.name,
        group.scope.version,
        _pairs(group.scope.attributes),
        group.schema_url,
        stamp,
    )


def _read_span(span: Any, path: str, sink: Sink, limits: Limits) -> None:
    attributes = _checked(span)
    row = records.span(
        limits,
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        name=span.name,
        kind=span.kind,
        status_code=span.status.code,
        status_message=span.status.message,
        trace_state=span.trace_state,
        flags=span.flags,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        dropped=(
            span.dropped_attributes_count,
            span.dropped_events_count,
            span.dropped_links_count,
        ),
        events=[_event(event) for event in span.events],
        links=[_link(link) for link in span.links],
    )
    sink.add("spans", row, attributes)


def _event(event: Any) -> dict[str, Any]:
    return {
        "time": records.moment("events.timeUnixNano", event.time_unix_nano),
        "name": event.name,
        "attributes": text_pairs(_pairs(event.attributes)),
        "dropped_attributes_count": event.dropped_attributes_count,
    }


def _link(link: Any) -> dict[str, Any]:
    return {
        "trace_id": records.identifier("links.traceId", link.trace_id, 16),
        "span_id": records.identifier("links.spanId", link.span_id, 8),
        "trace_state": link.trace_state or None,
        "attributes": text_pairs(_pairs(link.attributes)),
        "flags": link.flags,
        "dropped_attributes_count": link.dropped_attributes_count,
    }


def _read_metric(metric: Any, path: str, sink: Sink, limits: Limits) -> None:
    kind = metric.WhichOneof("data")
    if not metric.name:
        raise Reject("name", "missing; a metric needs one")
    if kind is None:
        raise Reject("data", f"none of {', '.join(METRIC_KINDS)} is there")
    sink.check_unit(metric.name, metric.unit)
    data = getattr(metric, kind)
    shared = {
        "name": metric.name,
        "unit": metric.unit,
        "description": metric.description,
        "kind": kind,
        "temporality": getattr(data, "aggregation_temporality", 0),
        "metadata": text_pairs(_pairs(metric.metadata)),
    }
    monotonic = data.is_monotonic if kind == "sum" else None
    table = METRIC_KINDS[kind]
    for number, point in enumerate(data.data_points):
        try:
            attributes = _checked(point)
            row = _point_row(kind, point, shared, monotonic, sink, limits)
        except Reject as error:
            alone = type(metric)()
            alone.CopyFrom(metric)
            del getattr(alone, kind).data_points[:]
            getattr(alone, kind).data_points.append(point)
            where = f"{path}.{kind}.dataPoints[{number}].{error.field}"
            sink.reject_record("metrics", where, error.reason, alone)
        else:
            sink.add(table, row, attributes)


def _point_row(
    kind: str,
    point: Any,
    shared: dict[str, Any],
    monotonic: bool | None,
    sink: Sink,
    limits: Limits,
) -> tuple[Any, ...]:
    head = records.point(
        limits,
        time_ns=point.time_unix_nano,
        start_ns=point.start_time_unix_nano,
        flags=point.flags,
        **shared,
    )
    if kind in ("gauge", "sum"):
        value_kind = point.WhichOneof("value")
        value = records.number(
            point.as_double if value_kind == "as_double" else None,
            point.as_int if value_kind == "as_int" else None,
            point.flags,
            monotonic,
        )
        return (*head, *value, _exemplars(point))
    count = records.count_of(point.count)
    if kind == "summary":
        quantiles = point.quantile_values
        return (
            *head,
            count,
            point.sum,
            [q.quantile for q in quantiles],
            [q.value for q in quantiles],
        )
    counted = (
        count,
        *(getattr(point, name) if point.HasField(name) else None for name in ("sum", "min", "max")),
    )
    if kind == "histogram":
        bounds, buckets = list(point.explicit_bounds), _buckets(point.bucket_counts)
        if buckets and len(buckets) != len(bounds) + 1:
            sink.warnings["histogram kept although bucketCounts is not explicitBounds + 1"] += 1
        return (*head, *counted, bounds, buckets, _exemplars(point))
    return (
        *head,
        *counted,
        point.scale,
        records.count_of(point.zero_count),
        point.zero_threshold,
        point.positive.offset,
        _buckets(point.positive.bucket_counts),
        point.negative.offset,
        _buckets(point.negative.bucket_counts),
        _exemplars(point),
    )


def _buckets(counts: Any) -> list[int]:
    return [records.count_of(count) for count in counts]


def _exemplars(point: Any) -> list[dict[str, Any]] | None:
    return [
        {
            "time": records.moment("exemplars.timeUnixNano", exemplar.time_unix_nano),
            "value": float(getattr(exemplar, exemplar.WhichOneof("value") or "as_double")),
            "trace_id": records.identifier("exemplars.traceId", exemplar.trace_id, 16),
            "span_id": records.identifier("exemplars.spanId", exemplar.span_id, 8),
            "attributes": text_pairs(_pairs(exemplar.filtered_attributes)),
        }
        for exemplar in point.exemplars
    ] or None


def _read_log(log: Any, path: str, sink: Sink, limits: Limits) -> None:
    attributes = _checked(log)
    body = _any_value(log.body)
    row = records.log(
        limits,
        time_ns=log.time_unix_nano,
        observed_ns=log.observed_time_unix_nano,
        severity_number=log.severity_number,
        severity_text=log.severity_text,
        body=None if body is None else as_text(body),
        event_name=log.event_name,
        trace_id=log.trace_id,
        span_id=log.span_id,
        flags=log.flags,
        dropped=log.dropped_attributes_count,
    )
    sink.add("logs", row, attributes)


def _any_value(value: Any) -> Value:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    content = getattr(value, kind)
    if kind == "array_value":
        return [_any_value(item) for item in content.values]
    if kind == "kvlist_value":
        return dict(_pairs(content.values))
    return content  # type: ignore[no-any-return]


def _pairs(attributes: Any) -> list[tuple[str, Value]]:
    # Most are texts; reading the text directly costs half of finding the kind first.
    return [(a.key, a.value.string_value or _any_value(a.value)) for a in attributes]


def _checked(record: Any) -> list[tuple[str, Value]]:
    """Return the attributes; only those of a large record need a check of their sizes."""
    pairs = _pairs(record.attributes)
    if record.ByteSize() > records.MAX_ATTRIBUTE_BYTES:
        records.check_attributes(pairs)
    return pairs
