"""OTLP bytes to Arrow: the one door for both encodings.

In:  a JSON document (OTLP, or Jaeger's) or a protobuf request, as bytes.
Out: `Decoded`: tables with the lake's columns, rejected records, warnings.
"""

import re
from collections.abc import Sequence
from typing import Any

import orjson

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import protobuf, requests
from apm_analytics.ingest.decode.records import Limits
from apm_analytics.ingest.decode.requests import warm_up
from apm_analytics.ingest.decode.sink import Decoded, DecodedRequests, RefusedUnits, Rejected, Sink
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
    limits : the times that are believed; by default 2000 to a day from now.

    Raises
    ------
    BadInput
        It is no JSON, or no OTLP.

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
        The bytes are no such message.

    Examples
    --------
    >>> decode_protobuf("traces", b"").tables
    {}
    """
    sink = Sink()
    request = protobuf.parse(signal, payload)
    protobuf.read_request(signal, request, sink, limits or Limits.around_now())
    return sink.finish()


def decode_requests(
    signal: str,
    payloads: Sequence[bytes],
    limits: Limits | None = None,
    refused_units: RefusedUnits | None = None,
) -> DecodedRequests:
    """Decode many Export*ServiceRequests of one signal into one set of tables.

    Parameters
    ----------
    signal : traces, metrics or logs.
    payloads : one protobuf request each.
    limits : the times that are believed; by default 2000 to a day from now.
    refused_units : (service, metric, unit) -> why metric points in this unit are not taken.

    Returns
    -------
    Tables with the lake's columns, whose texts may be dictionary-encoded: `lake.snapshots.append`
    takes both. A rejected record names the index of its request as `document`; a request that is
    no such message is in `broken`, with what is wrong and where, and leaves no row.

    Examples
    --------
    >>> decode_requests("traces", [b"", bytes([255])]).broken
    {1: 'no OTLP traces request in protobuf: cut short within the field at byte 0'}
    """
    return requests.decode(signal, payloads, limits or Limits.around_now(), refused_units)


def read_json(document: bytes, sink: Sink, limits: Limits) -> None:
    """Decode one JSON document into a sink that others share."""
    parsed, damage = _parsed(document)
    if jaeger.is_jaeger(parsed):
        try:
            parsed = jaeger.to_otlp(parsed)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"a Jaeger document whose spans do not fit: {error!r}") from error
    otlp_json.read_document(parsed, sink, limits, damage)


def _parsed(document: bytes) -> tuple[Any, str]:
    """Parse JSON; what is no UTF-8 in it is replaced by a text that is given too."""
    try:
        return otlp_json.parse(document), ""
    except orjson.JSONDecodeError as error:
        found = error
    text = document.decode(errors="surrogateescape")
    low = text.lower()
    # U+FFFD by custom; where the document holds it already, a code point that no text has.
    marks = (chr(code) for code in (0xFFFD, *range(0xFDD0, 0xFDF0)))
    damage = next((m for m in marks if m not in low and f"\\u{ord(m):04x}" not in low), "")
    mended = _NO_UTF8.sub(damage, text)
    if mended != text and damage:
        try:
            return otlp_json.parse(mended.encode()), damage
        except orjson.JSONDecodeError as error:
            found = error
    raise BadInput(
        f"no JSON: {found.msg} at byte {found.pos}; was the file cut short while written?"
    ) from found
