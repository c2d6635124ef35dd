"""Read OTLP JSON documents: traces, metrics and logs.

In:  a parsed document (dicts as orjson gives them).
Out: rows, rejected records and warnings in a `Sink`.

As the specification asks, ids are hex, 64-bit integers may be text or numbers, unknown fields are
no error: they are kept in the record's attributes as `otlp.unknown.<field>` and counted. Field
names may be lowerCamelCase or the protobuf ones.
"""

import base64
import binascii
from collections.abc import Callable, Iterator
from typing import Any

from apm_analytics.errors import BadInput
from apm_analytics.ingest import records
from apm_analytics.ingest.columns import Value, as_text, context, text_pairs
from apm_analytics.ingest.records import ENUM_NUMBERS, Limits, Reject
from apm_analytics.ingest.sink import Sink

Json = dict[str, Any]
UNKNOWN = "otlp.unknown."
# signal -> (top-level field, scope field, record field)
SIGNALS = {
    "traces": ("resourceSpans", "scopeSpans", "spans"),
    "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
    "logs": ("resourceLogs", "scopeLogs", "logRecords"),
}
METRIC_DATA = ("gauge", "sum", "histogram", "exponentialHistogram", "summary")


def _fields(names: str) -> frozenset[str]:
    return frozenset(names.split())


_SPAN = _fields(
    "traceId spanId parentSpanId traceState flags name kind startTimeUnixNano endTimeUnixNano"
    " attributes droppedAttributesCount events droppedEventsCount links droppedLinksCount status"
)
_METRIC = _fields("name description unit metadata " + " ".join(METRIC_DATA))
_POINT = _fields(
    "attributes startTimeUnixNano timeUnixNano asDouble asInt exemplars flags count sum"
    " bucketCounts explicitBounds min max scale zeroCount zeroThreshold positive negative"
    " quantileValues"
)
_LOG = _fields(
    "timeUnixNano observedTimeUnixNano severityNumber severityText body attributes"
    " droppedAttributesCount flags traceId spanId eventName"
)


def read_document(document: Json, sink: Sink, limits: Limits) -> None:
    """Read every signal of one document into the sink.

    Raises
    ------
    BadInput
        The document is no OTLP: none of its fields is known.
    """
    if not isinstance(document, dict):
        raise BadInput(f"found a JSON {type(document).__name__}, need an OTLP object")
    document, unknown = _normal(document, frozenset(top for top, _, _ in SIGNALS.values()))
    present = [signal for signal, (top, _, _) in SIGNALS.items() if top in document]
    if not present:
        raise BadInput(
            f"no OTLP document: found the fields {sorted(unknown)[:5]}, "
            "need resourceSpans, resourceMetrics or resourceLogs"
        )
    for name in unknown:
        sink.warnings[f"unknown field {name} ignored"] += 1
    for signal in present:
        _read_signal(signal, document, sink, limits)


def _read_signal(signal: str, document: Json, sink: Sink, limits: Limits) -> None:
    top, middle, leaf = SIGNALS[signal]
    read: Callable[[Json, str, Sink, Limits], None] = {
        "traces": _read_span,
        "metrics": _read_metric,
        "logs": _read_log,
    }[signal]
    for path, entry in _objects(document, top, top, signal, sink):
        entry, _ = _normal(entry, _fields(f"resource schemaUrl {middle}"))
        resource = entry.get("resource") or {}
        for scope_path, group in _objects(entry, middle, f"{path}.{middle}", signal, sink):
            group, _ = _normal(group, _fields(f"scope schemaUrl {leaf}"))
            scope = group.get("scope") or {}
            around = {"resource": resource, middle: scope}
            try:
                shared = _context(entry, resource, group, scope)
            except (Reject, AttributeError, TypeError, ValueError) as error:
                sink.reject(signal, scope_path, f"resource or scope: {error}", [entry])
                continue
            sink.open_context(shared)
            for record_path, record in _objects(group, leaf, f"{scope_path}.{leaf}", signal, sink):
                try:
                    read(record, record_path, sink, limits)
                except Reject as error:
                    sink.reject(
                        signal,
                        f"{record_path}.{error.field}",
                        error.reason,
                        wrapped(signal, around, record),
                    )
                except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
                    sink.reject(
                        signal,
                        record_path,
                        f"a field has the wrong type: {error}",
                        wrapped(signal, around, record),
                    )


def wrapped(signal: str, around: Json, record: Any) -> Json:
    """Give one record as an OTLP document of its own, so that it can be mended and imported."""
    top, middle, leaf = SIGNALS[signal]
    scope = {"scope": around.get(middle) or {}, leaf: [record]}
    return {top: [{"resource": around.get("resource") or {}, middle: [scope]}]}


def _objects(
    holder: Json, name: str, path: str, signal: str, sink: Sink
) -> Iterator[tuple[str, Json]]:
    """Walk a list of objects; what is no list or no object is put aside."""
    items = holder.get(name) or []
    if not isinstance(items, list):
        sink.reject(signal, path, f"found a {type(items).__name__}, need a list", items)
        return
    for number, item in enumerate(items):
        if isinstance(item, dict):
            yield f"{path}[{number}]", item
        else:
            sink.reject(
                signal, f"{path}[{number}]", f"found {type(item).__name__}, need an object", item
            )


def _context(entry: Json, resource: Json, group: Json, scope: Json) -> tuple[Any, ...]:
    pairs = list(_pairs(resource.get("attributes")))
    if resource.get("droppedAttributesCount"):
        pairs.append(
            ("otel.dropped_attributes_count", _integer(resource, "droppedAttributesCount"))
        )
    return context(
        pairs,
        _text(entry, "schemaUrl"),
        _text(scope, "name"),
        _text(scope, "version"),
        _pairs(scope.get("attributes")),
        _text(group, "schemaUrl"),
    )


def _read_span(span: Json, path: str, sink: Sink, limits: Limits) -> None:
    span, unknown = _normal(span, _SPAN)
    status = span.get("status") or {}
    attributes = _attributes(span, unknown, sink)
    row = records.span(
        limits,
        trace_id=span.get("traceId"),
        span_id=span.get("spanId"),
        parent_span_id=span.get("parentSpanId"),
        name=_text(span, "name"),
        kind=_enum("kind", span.get("kind")),
        status_code=_enum("status.code", status.get("code")),
        status_message=_text(status, "message"),
        trace_state=_text(span, "traceState"),
        flags=_integer(span, "flags"),
        start_ns=_integer(span, "startTimeUnixNano"),
        end_ns=_integer(span, "endTimeUnixNano"),
        dropped=(
            _integer(span, "droppedAttributesCount"),
            _integer(span, "droppedEventsCount"),
            _integer(span, "droppedLinksCount"),
        ),
        events=[_event(event) for event in span.get("events") or ()],
        links=[_link(link) for link in span.get("links") or ()],
    )
    sink.table("spans").add(row, attributes)


def _event(event: Json) -> Json:
    return {
        "time": _integer(event, "timeUnixNano", "time_unix_nano") or None,
        "name": _text(event, "name"),
        "attributes": text_pairs(_pairs(event.get("attributes"))),
        "dropped_attributes_count": _integer(
            event, "droppedAttributesCount", "dropped_attributes_count"
        ),
    }


def _link(link: Json) -> Json:
    return {
        "trace_id": records.identifier(
            "links.traceId", link.get("traceId") or link.get("trace_id"), 16
        ),
        "span_id": records.identifier("links.spanId", link.get("spanId") or link.get("span_id"), 8),
        "trace_state": _text(link, "traceState") or None,
        "attributes": text_pairs(_pairs(link.get("attributes"))),
        "flags": _integer(link, "flags"),
        "dropped_attributes_count": _integer(
            link, "droppedAttributesCount", "dropped_attributes_count"
        ),
    }


def _read_metric(metric: Json, path: str, sink: Sink, limits: Limits) -> None:
    metric, unknown = _normal(metric, _METRIC)
    name = _text(metric, "name")
    if not name:
        raise Reject("name", "missing; a metric needs one")
    kinds = [kind for kind in METRIC_DATA if metric.get(kind) is not None]
    if not kinds:
        raise Reject("data", f"none of {', '.join(METRIC_DATA)} is there")
    kind = kinds[0]
    data, _ = _normal(metric[kind], _fields("dataPoints aggregationTemporality isMonotonic"))
    shared = {
        "name": name,
        "unit": _text(metric, "unit"),
        "description": _text(metric, "description"),
        "kind": "exponential_histogram" if kind == "exponentialHistogram" else kind,
        "temporality": _enum("aggregationTemporality", data.get("aggregationTemporality")),
        "metadata": text_pairs(_pairs(metric.get("metadata"))),
    }
    monotonic = bool(data.get("isMonotonic")) if kind == "sum" else None
    empty = {key: value for key, value in metric.items() if key != kind}
    for number, point in enumerate(data.get("dataPoints") or ()):
        try:
            table, row, attributes = _point(kind, point, unknown, shared, monotonic, sink, limits)
        except (Reject, AttributeError, TypeError, ValueError, OverflowError) as error:
            reason = error.reason if isinstance(error, Reject) else f"wrong type: {error}"
            field = f".{error.field}" if isinstance(error, Reject) else ""
            alone = {**empty, kind: {**data, "dataPoints": [point]}}
            where = f"{path}.{kind}.dataPoints[{number}]{field}"
            sink.reject("metrics", where, reason, wrapped("metrics", {}, alone))
        else:
            sink.table(table).add(row, attributes)


def _point(
    kind: str,
    point: Json,
    unknown: Json,
    shared: Json,
    monotonic: bool | None,
    sink: Sink,
    limits: Limits,
) -> tuple[str, tuple[Any, ...], list[tuple[str, Value]]]:
    point, more = _normal(point, _POINT)
    attributes = _attributes(point, {**unknown, **more} if unknown or more else more, sink)
    flags = _integer(point, "flags")
    head = records.point(
        limits,
        time_ns=_integer(point, "timeUnixNano"),
        start_ns=_integer(point, "startTimeUnixNano"),
        flags=flags,
        **shared,
    )
    exemplars = [_exemplar(exemplar) for exemplar in point.get("exemplars") or ()] or None
    if kind in ("gauge", "sum"):
        whole = point.get("asInt")
        value = records.number(
            _double(point, "asDouble"), None if whole is None else int(whole), flags, monotonic
        )
        return "metric_points", (*head, *value, exemplars), attributes
    counted = (records.count_of(_integer(point, "count")), _double(point, "sum"))
    if kind == "summary":
        quantiles = point.get("quantileValues") or ()
        pairs = (
            [float(q.get("quantile") or 0) for q in quantiles],
            [float(q.get("value") or 0) for q in quantiles],
        )
        return "summary_points", (*head, *counted, *pairs), attributes
    low_high = (_double(point, "min"), _double(point, "max"))
    if kind == "histogram":
        bounds = [float(bound) for bound in point.get("explicitBounds") or ()]
        buckets = _buckets(point.get("bucketCounts"))
        if buckets and len(buckets) != len(bounds) + 1:
            sink.warnings["histogram kept although bucketCounts is not explicitBounds + 1"] += 1
        row = (*head, *counted, *low_high, bounds, buckets, exemplars)
        return "histogram_points", row, attributes
    positive, negative = point.get("positive") or {}, point.get("negative") or {}
    row = (
        *head,
        *counted,
        *low_high,
        _integer(point, "scale"),
        records.count_of(_integer(point, "zeroCount")),
        _double(point, "zeroThreshold") or 0.0,
        _integer(positive, "offset"),
        _buckets(positive.get("bucketCounts") or positive.get("bucket_counts")),
        _integer(negative, "offset"),
        _buckets(negative.get("bucketCounts") or negative.get("bucket_counts")),
        exemplars,
    )
    return "exp_histogram_points", row, attributes


def _exemplar(exemplar: Json) -> Json:
    whole = exemplar.get("asInt", exemplar.get("as_int"))
    value = _double(exemplar, "asDouble") if whole is None else float(int(whole))
    return {
        "time": _integer(exemplar, "timeUnixNano", "time_unix_nano") or None,
        "value": value,
        "trace_id": records.identifier("exemplars.traceId", exemplar.get("traceId"), 16),
        "span_id": records.identifier("exemplars.spanId", exemplar.get("spanId"), 8),
        "attributes": text_pairs(_pairs(exemplar.get("filteredAttributes"))),
    }


def _read_log(log: Json, path: str, sink: Sink, limits: Limits) -> None:
    log, unknown = _normal(log, _LOG)
    attributes = _attributes(log, unknown, sink)
    body = any_value(log["body"]) if log.get("body") else None
    row = records.log(
        limits,
        time_ns=_integer(log, "timeUnixNano"),
        observed_ns=_integer(log, "observedTimeUnixNano"),
        severity_number=_enum("severityNumber", log.get("severityNumber")),
        severity_text=_text(log, "severityText"),
        body=None if body is None else as_text(body),
        event_name=_text(log, "eventName"),
        trace_id=log.get("traceId"),
        span_id=log.get("spanId"),
        flags=_integer(log, "flags"),
        dropped=_integer(log, "droppedAttributesCount"),
    )
    sink.table("logs").add(row, attributes)


def any_value(value: Json) -> Value:
    """Give an OTLP AnyValue as the Python value it holds."""
    for kind, held in value.items():
        if held is None:
            continue
        if kind in ("stringValue", "string_value"):
            if not isinstance(held, str):
                raise Reject("attributes", f"stringValue holds a {type(held).__name__}")
            return held
        if kind in ("intValue", "int_value"):
            return int(held)
        if kind in ("doubleValue", "double_value"):
            return float(held)
        if kind in ("boolValue", "bool_value"):
            return bool(held)
        if kind in ("arrayValue", "array_value"):
            return [any_value(item) for item in held.get("values") or ()]
        if kind in ("kvlistValue", "kvlist_value"):
            return dict(_pairs(held.get("values")))
        if kind in ("bytesValue", "bytes_value"):
            try:
                return base64.b64decode(held, validate=True)
            except binascii.Error as error:
                raise Reject("attributes", f"bytesValue is no base64: {error}") from error
        raise Reject("attributes", f"no OTLP value has the field {kind!r}")
    return None


def _pairs(attributes: Any) -> Iterator[tuple[str, Value]]:
    for attribute in attributes or ():
        yield attribute.get("key") or "", any_value(attribute.get("value") or {})


def _attributes(record: Json, unknown: Json, sink: Sink) -> list[tuple[str, Value]]:
    pairs = records.checked(_pairs(record.get("attributes")))
    for name, value in unknown.items():
        pairs.append((UNKNOWN + name, as_text(value)))
        sink.warnings[f"unknown field {name} kept as attribute {UNKNOWN}{name}"] += 1
    return pairs


def _normal(record: Json, known: frozenset[str]) -> tuple[Json, Json]:
    """Give the record with lowerCamelCase names, and apart the fields that nobody knows."""
    extra = record.keys() - known
    if not extra:
        return record, {}
    kept = {key: value for key, value in record.items() if key in known}
    unknown: Json = {}
    for key in sorted(extra):
        head, *rest = key.split("_")
        camel = head + "".join(part.capitalize() for part in rest)
        if camel in known and camel not in kept:
            kept[camel] = record[key]
        else:
            unknown[key] = record[key]
    return kept, unknown


def _text(record: Json, name: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Reject(name, f"found a {type(value).__name__}, need text")
    return value


def _integer(record: Json, name: str, other: str = "") -> int:
    value = record.get(name)
    if value is None and other:
        value = record.get(other)
    if type(value) is str and value.isdigit():
        return int(value)
    if value is None or value == "":
        return 0
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise Reject(name, f"found {str(value)[:60]!r}, need an integer") from error
    if isinstance(value, float) and value != number:
        raise Reject(name, f"found {value}, need an integer")
    return number


def _double(record: Json, name: str) -> float | None:
    value = record.get(name)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise Reject(name, f"found {str(value)[:60]!r}, need a number") from error


def _buckets(counts: Any) -> list[int]:
    return [records.count_of(int(count)) for count in counts or ()]


def _enum(field: str, value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, str) and not value.lstrip("-").isdigit():
        try:
            return ENUM_NUMBERS[field][value]
        except KeyError:
            allowed = ", ".join(list(ENUM_NUMBERS[field])[:6]) + " ... or its number"
            raise Reject(field, f"found {value[:60]!r}, need one of {allowed}") from None
    return _integer({field: value}, field)
