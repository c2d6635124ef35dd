"""Convert Jaeger's JSON (a download of its UI, a response of its API) to OTLP JSON.

In:  a parsed document: `{"data": [trace, ...]}` or one trace with `spans` and `processes`.
Out: an OTLP document with `resourceSpans`.

Source: Jaeger's UI model (times in microseconds, ids in hex, tags with a type).
"""

import hashlib
from typing import Any

Json = dict[str, Any]
_KINDS = {"client": 3, "server": 2, "producer": 4, "consumer": 5, "internal": 1}
NS_PER_US = 1_000


def is_jaeger(document: Any) -> bool:
    """Return whether a parsed document looks like Jaeger's."""
    if not isinstance(document, dict):
        return False
    traces = document.get("data", [document])
    return (
        isinstance(traces, list)
        and bool(traces)
        and all(
            isinstance(trace, dict) and isinstance(trace.get("spans"), list) for trace in traces
        )
    )


def to_otlp(document: Json) -> Json:
    """Convert one document; each Jaeger process becomes a resource.

    Raises
    ------
    KeyError, TypeError, ValueError
        A span lacks a field that every Jaeger span has, or has it in another type.
    """
    entries = []
    for trace in document.get("data", [document]):
        processes = trace.get("processes") or {}
        groups: dict[str, list[Json]] = {}
        for span in trace["spans"]:
            groups.setdefault(str(span.get("processID", "")), []).append(span)
        for process_id, spans in groups.items():
            process = spans[0].get("process") or processes.get(process_id) or {}
            name = process.get("serviceName", "")
            service = {
                "key": "service.name",
                "value": {"stringValue": name},
            }
            entries.append(
                {
                    "resource": {"attributes": [service, *_attributes(process.get("tags"))]},
                    "scopeSpans": [{"scope": {}, "spans": [_span(span) for span in spans]}],
                }
            )
    return {"resourceSpans": entries}


def _span(span: Json) -> Json:
    start_ns = int(span["startTime"]) * NS_PER_US
    tags = {tag["key"]: tag.get("value") for tag in span.get("tags") or ()}
    failed = str(tags.get("error", "")).lower() == "true"
    references = span.get("references") or []
    same_trace = [r for r in references if r.get("traceID") == span["traceID"]]
    parent = next(
        (
            r
            for r in references
            if r.get("refType") == "CHILD_OF" and r.get("traceID") == span["traceID"]
        ),
        same_trace[0] if same_trace else None,
    )
    return {
        "traceId": _id(span["traceID"], 16),
        "spanId": _id(span["spanID"], 8),
        "parentSpanId": _id(parent["spanID"] if parent else span.get("parentSpanID", ""), 8),
        "name": span.get("operationName", ""),
        "kind": _KINDS.get(str(tags.get("span.kind", "")).lower(), 0),
        "startTimeUnixNano": start_ns,
        "endTimeUnixNano": start_ns + int(span.get("duration", 0)) * NS_PER_US,
        "attributes": [
            pair for pair in _attributes(span.get("tags")) if pair["key"] != "span.kind"
        ],
        "events": [_event(log) for log in span.get("logs") or ()],
        "links": [
            {"traceId": _id(r["traceID"], 16), "spanId": _id(r["spanID"], 8)}
            for r in references
            if r is not parent
        ],
        "flags": int(span.get("flags") or 0),
        "status": {"code": 2} if failed else {},
    }


def _id(text: str, size: int) -> str:
    """Pad a hex id; an id that is not hex, as in test traces, becomes the hash of its text."""
    try:
        return f"{int(text, 16):0{2 * size}x}" if text else ""
    except ValueError:
        return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def _event(log: Json) -> Json:
    attributes = _attributes(log.get("fields"))
    name = next((a["value"].get("stringValue") for a in attributes if a["key"] == "event"), None)
    return {
        "timeUnixNano": int(log["timestamp"]) * NS_PER_US,
        "name": name or "log",
        "attributes": [a for a in attributes if a["key"] != "event"],
    }


def _attributes(tags: Any) -> list[Json]:
    return [{"key": tag["key"], "value": _value(tag)} for tag in tags or ()]


def _value(tag: Json) -> Json:
    value = tag.get("value")
    kind = str(tag.get("type", "")).lower()
    if kind == "bool" or isinstance(value, bool):
        return {"boolValue": value if isinstance(value, bool) else str(value).lower() == "true"}
    if kind == "int64" or isinstance(value, int):
        return {"intValue": value}
    if kind == "float64" or isinstance(value, float):
        return {"doubleValue": value}
    if kind == "binary":
        return {"bytesValue": value}
    return {"stringValue": str(value)}
