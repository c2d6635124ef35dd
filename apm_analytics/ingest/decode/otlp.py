"""Decode OTLP bytes of either encoding into Arrow tables.

In:  a JSON document (OTLP or Jaeger) or a protobuf request, as bytes.
Out: `Decoded`: tables with the lake's columns, rejected records, warnings.
"""

import re
from typing import Any

import orjson

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import protobuf
from apm_analytics.ingest.decode.records import Limits
from apm_analytics.ingest.decode.requests import decode_requests, warm_up
from apm_analytics.ingest.decode.sink import Decoded, DecodedRequests, Rejected, Sink
from apm_analytics.ingest.json import jaeger
from apm_analytics.ingest.json import otlp as otlp_json

_NO_UTF8 = re.compile("[\udc80-\udcff]+")
__all__ = [
    "Decoded",
    "DecodedRequests",
    "Rejected",
    "decode_json",
    "decode_protobuf",
    "decode_requests",
    "read_json",
    "warm_up",
]


def decode_json(document: bytes, limits: Limits | None = None) -> Decoded:
    """Decode one OTLP JSON document.

    Parameters
    ----------
    document : UTF-8 JSON with resourceSpans, resourceMetrics or resourceLogs.
    limits : the limits of valid times; by default 2000-01-01 to a day from now.

    Raises
    ------
    BadInput
        The document is not JSON, or not OTLP.

    Examples
    --------
    >>> decode_json(b'{"resourceSpans": []}').tables
    {}
    """
    sink = Sink()
    read_json(document, sink, limits or Limits.around_now())
    return sink.finish()


def decode_protobuf(signal: str, payload: bytes, limits: Limits | None = None) -> Decoded:
    """Decode one Export*ServiceRequest; `signal` is traces, metrics or logs.

    Raises
    ------
    BadInput
        The bytes are not such a message.

    Examples
    --------
    >>> decode_protobuf("traces", b"").tables
    {}
    """
    sink = Sink()
    request = protobuf.parse(signal, payload)
    protobuf.read_request(signal, request, sink, limits or Limits.around_now())
    return sink.finish()


def read_json(document: bytes, sink: Sink, limits: Limits) -> None:
    """Decode one JSON document into a sink.

    Raises
    ------
    BadInput
        The document is not JSON, not OTLP, or a damaged Jaeger document.
    """
    parsed, damage = _parsed(document)
    if jaeger.is_jaeger(parsed):
        try:
            parsed = jaeger.to_otlp(parsed)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"a Jaeger document whose spans do not fit: {error!r}") from error
    otlp_json.read_document(parsed, sink, limits, damage)


def _parsed(document: bytes) -> tuple[Any, str]:
    """Parse JSON; return it, and the text that replaces bytes that are not UTF-8."""
    try:
        return otlp_json.parse(document), ""
    except orjson.JSONDecodeError as error:
        failure = error
    text = document.decode(errors="surrogateescape")
    low = text.lower()
    # U+FFFD is customary; if the document holds it already, use a code point that no text has.
    marks = (chr(code) for code in (0xFFFD, *range(0xFDD0, 0xFDF0)))
    damage = next((m for m in marks if m not in low and f"\\u{ord(m):04x}" not in low), "")
    repaired = _NO_UTF8.sub(damage, text)
    if repaired != text and damage:
        try:
            return otlp_json.parse(repaired.encode()), damage
        except orjson.JSONDecodeError as error:
            failure = error
    raise BadInput(
        f"no JSON: {failure.msg} at byte {failure.pos}; was the file cut short while written?"
    ) from failure
