"""OTLP JSON that the scanner takes gives the rows that `otlp_json` gives, its reference."""

import random
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from columnar_agreement import LIMITS, difference
from fuzz_columnar import mutated
from otlp_requests import as_json, logs, metrics, traces
from wire_requests import SIGNALS, Requests

from apm_analytics.errors import BadInput
from apm_analytics.ingest import json_wire, otlp_json, otlp_protobuf
from apm_analytics.ingest.columnar import Scanner
from apm_analytics.ingest.sink import Sink

# Pieces of JSON that mean something else, or nothing, in another place.
PIECES = (
    b'"', b"\\", b"\\u00e9", b"\\u003c", b"\\n", b",", b"{", b"}", b"[", b"]", b":", b" ", b"\n",
    b"null", b"true", b"0", b"-", b"1e5", b".5", b'"1"', b"01", b"1.0", b'{"stringValue":"x"}',
    b'"intValue":', b'"doubleValue":1.5', b'"key":"k"', b'"attributes":[', b'"kind":"2"', b"\xff",
    b'"name":', b'"traceId":""', b"\xc3\xa9", b"9223372036854775808", b"-0", b"\x00",
)  # fmt: skip


def disagreement(signal: str, documents: Sequence[bytes]) -> tuple[str, int]:
    """Read documents both ways; gives what differs first, and how many the scanner took."""
    scanner, reference, taken = Scanner(signal, 0, LIMITS, {}), Sink(), 0
    for document in documents:
        found = json_wire.to_protobuf(document)
        if found is None or not scanner.take(found[1]):
            continue
        assert found[0] == signal
        taken += 1
        try:
            otlp_json.read_document(orjson.loads(document), reference, LIMITS, only=signal)
        except (orjson.JSONDecodeError, BadInput) as error:
            return f"the scanner took what is refused: {error}: {document!r}", taken
        if reference.rejected or reference.warnings:
            return f"the scanner took what is odd: {reference.rejected}: {document!r}", taken
    return difference(scanner.tables(), reference.finish().tables), taken


def drawn(draw: random.Random, signal: str, count: int) -> list[bytes]:
    """Draw documents that the scanner takes: anything it leaves would compare nothing."""
    made: list[bytes] = []
    while len(made) < count:
        try:
            request = otlp_protobuf.parse(signal, Requests(draw, 0.0).request(signal))
        except BadInput:
            continue
        document = orjson.dumps(as_json(request, enum_numbers=True))
        if disagreement(signal, [document])[1]:
            made.append(document)
    return made


def spoilt(draw: random.Random, document: bytes, other: bytes) -> bytes:
    """Put a piece where none belongs, or damage a byte."""
    if draw.random() < 0.3:
        return mutated(draw, document, other)
    at = draw.randrange(len(document))
    upto = at + draw.choice((0, 0, 1, 2, 9))
    return document[:at] + draw.choice(PIECES) + document[upto:]


@pytest.mark.parametrize("signal", SIGNALS)
def test_damaged_documents_give_the_same_rows_or_are_left(signal: str) -> None:
    draw = random.Random(11)
    whole = drawn(draw, signal, 30)
    found, taken = disagreement(signal, whole)
    assert not found and taken == len(whole)
    some = [spoilt(draw, draw.choice(whole), draw.choice(whole)) for _ in range(2_000)]
    found, taken = disagreement(signal, some)
    assert not found
    # Most damage is left; what is not must be a good share, or nothing is compared.
    assert taken > 100


@pytest.mark.parametrize("build", [traces, metrics, logs])
def test_what_exporters_write_is_taken(build: Any) -> None:
    request = build()
    signal = build.__name__
    if build is logs:  # a body of pairs is left
        request.resource_logs[0].scope_logs[0].log_records[1].body.string_value = "a\n<b>"
    document = as_json(request, enum_numbers=True)
    for text in (orjson.dumps(document), orjson.dumps(document, option=orjson.OPT_INDENT_2)):
        found, taken = disagreement(signal, [text, text.replace(b"<", b"\\u003c")])
        assert not found and taken == 2


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"[]",
        b'{"resourceSpans":[]',
        b'{"resourceSpans":[]}x',
        b'{"resourceSpans":[],"resourceLogs":[]}',
        b'{"resourceSpans":[],"resourceSpans":[]}',
        b'{"resourceSpans":[{}],}',
        b'{"resourceSpans":[{},]}',
        b'{"resourceSpans":[{"schemaUrl":"\\u00e9"}]}',
        b'{"resourceSpans":[{"resource":{"droppedAttributesCount":01}}]}',
        b'{"resourceSpans":[{"resource":{"droppedAttributesCount":4294967296}}]}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"0a0"}]}]}]}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":"SPAN_KIND_SERVER"}]}]}]}',
        b'{"resourceSpans":'
        + b'[{"resource":{"attributes":[{"value":'
        + b'{"arrayValue":{"values":[' * 99,
    ],
)
def test_what_is_unusual_is_left(odd: bytes) -> None:
    assert json_wire.to_protobuf(odd) is None
