"""Read OTLP JSON documents: traces, metrics and logs.

In:  a parsed document (dicts as orjson returns them).
Out: rows, rejected records and warnings in a `Sink`.

As the specification requires, ids are hex, 64-bit integers may be texts or numbers, and unknown
fields are not an error: they are stored in the record's attributes as `otlp.unknown.<field>` and
counted. Field names may be lowerCamelCase or those of protobuf.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import orjson

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import records
from apm_analytics.ingest.decode.columns import Stamp, as_text, context, text_pairs
from apm_analytics.ingest.decode.records import Limits, Reject
from apm_analytics.ingest.decode.sink import Sink
from apm_analytics.ingest.json import fields
from apm_analytics.ingest.json.fields import Json
from apm_analytics.ingest.json.otlp_metrics import read_metric

# signal -> (top-level field, scope field, record field)
SIGNALS = {
    "traces": ("resourceSpans", "scopeSpans", "spans"),
    "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
    "logs": ("resourceLogs", "scopeLogs", "logRecords"),
}
MAX_DEPTH = 250  # levels; orjson writes 254
# What parsed objects, lists and other values take at most (bytes), and what a document may take.
# A document of 32 MiB whose records have ordinary attributes takes 430 MB.
_OBJECT_BYTES, _LIST_BYTES, _VALUE_BYTES = 200, 64, 60
MAX_PARSED_BYTES = 600_000_000
# Values of one list that should be objects and are not, each with its own rejection.
MAX_NAMED = 100
_NO_UTF8 = "holds bytes that are no UTF-8; correct the text where it is set, or its encoding"
_SPAN = fields.names(
    "traceId spanId parentSpanId traceState flags name kind startTimeUnixNano endTimeUnixNano"
    " attributes droppedAttributesCount events droppedEventsCount links droppedLinksCount status"
)
_LOG = fields.names(
    "timeUnixNano observedTimeUnixNano severityNumber severityText body attributes"
    " droppedAttributesCount flags traceId spanId eventName"
)


def misplaced(signal: str, other: str) -> str:
    """Return the message for a request of one signal that was sent to another signal's service."""
    return (
        f"{SIGNALS[other][0]}: found a {other} request, need {SIGNALS[signal][0]}; "
        f"send {other} to their own service (/v1/{other})"
    )


def parse(document: bytes) -> Any:
    """Parse JSON that can also be written again, which needs stack for each level of nesting.

    Raises
    ------
    orjson.JSONDecodeError
        The document is not JSON.
    BadInput
        It is nested too deep, or would take too much memory.
    """
    sizes = {b"{": _OBJECT_BYTES, b"[": _LIST_BYTES, b",": _VALUE_BYTES}
    if sum(document.count(sign) * size for sign, size in sizes.items()) > MAX_PARSED_BYTES:
        raise BadInput(
            f"{len(document):,} bytes of very many small values; send fewer records at once"
        )
    parsed = orjson.loads(document)
    try:
        orjson.dumps([[[[parsed]]]])  # a dead letter goes around it
    except orjson.JSONEncodeError as error:
        message = f"values are nested deeper than {MAX_DEPTH} levels; send them as text"
        raise BadInput(message) from error
    return parsed


def read_document(
    document: Json, sink: Sink, limits: Limits, damage: str = "", only: str | None = None
) -> None:
    """Read every signal of one document into the sink.

    Parameters
    ----------
    damage : the text that replaced damaged bytes; records with it are rejected.
    only : the only signal that is accepted; all by default.

    Raises
    ------
    BadInput
        The document is not OTLP, because none of its fields is known; or it has another signal.
    """
    if not isinstance(document, dict):
        raise BadInput(f"found a JSON {type(document).__name__}, need an OTLP object")
    document, unknown = fields.normal(document, frozenset(top for top, _, _ in SIGNALS.values()))
    present = [signal for signal, (top, _, _) in SIGNALS.items() if top in document]
    if not present:
        raise BadInput(
            f"no OTLP document: found the fields {sorted(unknown)[:5]}, "
            "need resourceSpans, resourceMetrics or resourceLogs"
        )
    for other in present:
        if only is not None and other != only:
            raise BadInput(misplaced(only, other))
    for name in unknown:
        sink.warnings[f"unknown field {name} ignored"] += 1
    for signal in present:
        _read_signal(signal, document, sink, limits, damage.encode())


def _read_signal(signal: str, document: Json, sink: Sink, limits: Limits, damage: bytes) -> None:
    top, middle, leaf = SIGNALS[signal]
    read: Callable[[Json, str, Sink, Limits], None] = {
        "traces": _read_span,
        "metrics": read_metric,
        "logs": _read_log,
    }[signal]
    for path, entry in _objects(document, top, top, signal, sink):
        entry, _ = fields.normal(entry, fields.names(f"resource schemaUrl {middle}"))
        resource = entry.get("resource") or {}
        for scope_path, group in _objects(entry, middle, f"{path}.{middle}", signal, sink):
            group, _ = fields.normal(group, fields.names(f"scope schemaUrl {leaf}"))
            scope = group.get("scope") or {}
            try:
                if damage:
                    _refuse_damage(damage, {**entry, middle: {**group, leaf: None}})
                shared = _context(entry, resource, group, scope, sink.stamp)
            except (Reject, AttributeError, TypeError, ValueError) as error:
                alone = {top: [{**entry, middle: [group]}]}
                sink.reject(signal, scope_path, f"resource or scope: {error}", alone)
                continue
            sink.open_context(shared, partial(wrapped, signal, entry, group))
            for record_path, record in _objects(group, leaf, f"{scope_path}.{leaf}", signal, sink):
                try:
                    if damage:
                        _refuse_damage(damage, record)
                    read(record, record_path, sink, limits)
                except Reject as error:
                    where = f"{record_path}.{error.field}"
                    sink.reject_record(signal, where, error.reason, record)
                except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
                    reason = f"a field has the wrong type: {error}"
                    sink.reject_record(signal, record_path, reason, record)


def wrapped(signal: str, entry: Json, group: Json, record: Any) -> Json:
    """Return one record as an OTLP document of its own, which can be corrected and imported."""
    top, middle, leaf = SIGNALS[signal]
    scope = {key: group[key] for key in ("scope", "schemaUrl") if group.get(key)}
    around = {key: entry[key] for key in ("resource", "schemaUrl") if entry.get(key)}
    return {top: [{**around, middle: [{**scope, leaf: [record]}]}]}


def _refuse_damage(damage: bytes, holder: Json) -> None:
    """Reject a record, resource or scope that holds the text that replaced damaged bytes."""
    if damage in orjson.dumps(holder):
        field = next(
            name for name, value in holder.items() if damage in orjson.dumps({name: value})
        )
        raise Reject(field, _NO_UTF8)


def _objects(
    holder: Json, name: str, path: str, signal: str, sink: Sink
) -> Iterator[tuple[str, Json]]:
    """Yield the objects of a list with their paths; reject anything else."""
    items = holder.get(name) or []
    if not isinstance(items, list):
        sink.reject(signal, path, f"found a {type(items).__name__}, need a list", items)
        return
    others = [number for number, item in enumerate(items) if not isinstance(item, dict)]
    for number in others[:MAX_NAMED]:
        item = items[number]
        reason = f"found {type(item).__name__}, need an object"
        sink.reject(signal, f"{path}[{number}]", reason, item)
    if len(others) > MAX_NAMED:
        rest = [items[number] for number in others[MAX_NAMED:]]
        reason = f"found {len(rest):,} more values that are no objects"
        sink.reject(signal, f"{path}[{others[MAX_NAMED]}]", reason, rest)
    for number, item in enumerate(items):
        if isinstance(item, dict):
            yield f"{path}[{number}]", item


def _context(
    entry: Json, resource: Json, group: Json, scope: Json, stamp: Stamp
) -> tuple[Any, ...]:
    pairs = list(fields.pairs(resource.get("attributes")))
    if resource.get("droppedAttributesCount"):
        pairs.append(
            (
                "otel.dropped_attributes_count",
                fields.short_integer(resource, "droppedAttributesCount"),
            )
        )
    return context(
        pairs,
        fields.text(entry, "schemaUrl"),
        fields.text(scope, "name"),
        fields.text(scope, "version"),
        fields.pairs(scope.get("attributes")),
        fields.text(group, "schemaUrl"),
        stamp,
    )


def _read_span(span: Json, path: str, sink: Sink, limits: Limits) -> None:
    span, unknown = fields.normal(span, _SPAN)
    status = span.get("status") or {}
    attributes = fields.attributes(span, unknown, sink)
    row = records.span(
        limits,
        trace_id=span.get("traceId"),
        span_id=span.get("spanId"),
        parent_span_id=span.get("parentSpanId"),
        name=fields.text(span, "name"),
        kind=fields.enum("kind", span.get("kind")),
        status_code=fields.enum("status.code", status.get("code")),
        status_message=fields.text(status, "message"),
        trace_state=fields.text(span, "traceState"),
        flags=fields.short_integer(span, "flags"),
        start_ns=fields.integer(span, "startTimeUnixNano"),
        end_ns=fields.integer(span, "endTimeUnixNano"),
        dropped=(
            fields.short_integer(span, "droppedAttributesCount"),
            fields.short_integer(span, "droppedEventsCount"),
            fields.short_integer(span, "droppedLinksCount"),
        ),
        events=[_event(event) for event in span.get("events") or ()],
        links=[_link(link) for link in span.get("links") or ()],
    )
    sink.add("spans", row, attributes)


def _event(event: Json) -> Json:
    return {
        "time": records.moment(
            "events.timeUnixNano", fields.integer(event, "timeUnixNano", "time_unix_nano")
        ),
        "name": fields.text(event, "name"),
        "attributes": text_pairs(fields.pairs(event.get("attributes"))),
        "dropped_attributes_count": fields.short_integer(
            event, "droppedAttributesCount", "dropped_attributes_count"
        ),
    }


def _link(link: Json) -> Json:
    return {
        "trace_id": records.identifier(
            "links.traceId", link.get("traceId") or link.get("trace_id"), 16
        ),
        "span_id": records.identifier("links.spanId", link.get("spanId") or link.get("span_id"), 8),
        "trace_state": fields.text(link, "traceState") or None,
        "attributes": text_pairs(fields.pairs(link.get("attributes"))),
        "flags": fields.short_integer(link, "flags"),
        "dropped_attributes_count": fields.short_integer(
            link, "droppedAttributesCount", "dropped_attributes_count"
        ),
    }


def _read_log(log: Json, path: str, sink: Sink, limits: Limits) -> None:
    log, unknown = fields.normal(log, _LOG)
    attributes = fields.attributes(log, unknown, sink)
    body = fields.any_value(log["body"]) if log.get("body") else None
    row = records.log(
        limits,
        time_ns=fields.integer(log, "timeUnixNano"),
        observed_ns=fields.integer(log, "observedTimeUnixNano"),
        severity_number=fields.enum("severityNumber", log.get("severityNumber")),
        severity_text=fields.text(log, "severityText"),
        body=None if body is None else as_text(body),
        event_name=fields.text(log, "eventName"),
        trace_id=log.get("traceId"),
        span_id=log.get("spanId"),
        flags=fields.short_integer(log, "flags"),
        dropped=fields.short_integer(log, "droppedAttributesCount"),
    )
    sink.add("logs", row, attributes)
