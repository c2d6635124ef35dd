"""Add the sender's attributes to every resource of a request; a sender cannot forge them.

In:  the bytes of a request, the attributes of its token.
Out: the bytes, with these attributes at the end of every resource.

Of a repeated key the last value counts, and earlier ones are kept under another name. An attribute
that a sender wrote itself under the same key is therefore never mistaken for the stamp.
"""

from collections.abc import Iterator, Mapping

import orjson
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from apm_analytics.foundation import varint
from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import protobuf
from apm_analytics.ingest.decode.records import Limits
from apm_analytics.ingest.decode.sink import Sink
from apm_analytics.ingest.json import otlp as otlp_json
from apm_analytics.serve import Reason, Refused

_FIRST = 0x0A  # field 1, length-delimited: resource_spans, and resource within it
_JSON_KEYS = ("resourceSpans", "resourceMetrics", "resourceLogs")


def stamped(kind: str, payload: bytes, attributes: Mapping[str, str]) -> bytes:
    """Return the request with `attributes` in every resource.

    Raises
    ------
    Refused
        The request is damaged.

    Examples
    --------
    >>> stamped("logs+json", b'{"resourceLogs":[{}]}', {"a": "b"})
    b'{"resourceLogs":[{"resource":{"attributes":[{"key":"a","value":{"stringValue":"b"}}]}}]}'
    """
    try:
        if kind.endswith("+json"):
            return _stamped_json(payload, attributes)
        pairs = [KeyValue(key=k, value=AnyValue(string_value=v)) for k, v in attributes.items()]
        stamp = Resource(attributes=pairs).SerializeToString()
        return b"".join(_stamped_entries(payload, stamp))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise Refused(Reason.MALFORMED, f"{kind}: {_why(kind, payload, error)}") from error


def _why(kind: str, payload: bytes, error: Exception) -> str:
    """Return the decoder's error message, which names the field, as without a stamp."""
    signal, json, _ = kind.partition("+json")
    try:
        if json:
            sink = Sink()
            document = otlp_json.parse(payload)
            otlp_json.read_document(document, sink, Limits.around_now(), only=signal)
            if sink.rejected:
                return f"{sink.rejected[0].path}: {sink.rejected[0].reason}"
        else:
            protobuf.parse(signal, payload)
    except orjson.JSONDecodeError as fault:
        return f"no JSON: {fault.msg} at byte {fault.pos}"
    except BadInput as fault:
        return str(fault)
    return f"{otlp_json.SIGNALS[signal][0]}: not every resource is one: {error}"


def _stamped_json(payload: bytes, attributes: Mapping[str, str]) -> bytes:
    document = orjson.loads(payload)
    pairs = [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
    for name in _JSON_KEYS:
        for entry in document.get(name) or ():
            resource = entry.get("resource") or {}
            resource["attributes"] = [*(resource.get("attributes") or ()), *pairs]
            entry["resource"] = resource
    return orjson.dumps(document)


def _stamped_entries(payload: bytes, stamp: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(payload):
        if payload[at] != _FIRST:
            raise ValueError(f"byte {at} begins no resource")
        size, start = varint.decode(payload, at + 1)
        at = start + size
        if at > len(payload):
            raise ValueError(f"the field at byte {start} says it has {size} bytes")
        entry = _stamped_entry(payload[start:at], stamp)
        yield bytes([_FIRST]) + varint.encode(len(entry))
        yield entry


def _stamped_entry(entry: bytes, stamp: bytes) -> bytes:
    if not entry or entry[0] != _FIRST:
        # Protobuf merges several `resource` fields in any order.
        return entry + bytes([_FIRST]) + varint.encode(len(stamp)) + stamp
    size, start = varint.decode(entry, 1)
    end = start + size
    if end > len(entry):
        raise ValueError(f"its resource says it has {size} bytes")
    resource = entry[start:end] + stamp
    return b"".join((bytes([_FIRST]), varint.encode(len(resource)), resource, entry[end:]))
