"""OTLP JSON that the scanner takes gives the rows that `otlp_json` gives, its reference."""

from typing import Any

import orjson
import pytest
from fuzz_json import batch, disagreement
from otlp_requests import as_json, logs, metrics, traces
from wire_requests import SIGNALS

from apm_analytics.ingest.json import transcode


@pytest.mark.parametrize("signal", SIGNALS)
def test_damaged_documents_give_the_same_rows_or_are_left(signal: str) -> None:
    found, taken = batch(signal, seed=11, count=2_000)
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
    named = as_json(request)
    for text in (
        orjson.dumps(document),
        orjson.dumps(document, option=orjson.OPT_INDENT_2),
        orjson.dumps(named),
    ):
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
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":"SPAN_KIND_QUEEN"}]}]}]}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":"STATUS_CODE_OK"}]}]}]}',
        b'{"resourceSpans":'
        + b'[{"resource":{"attributes":[{"value":'
        + b'{"arrayValue":{"values":[' * 99,
    ],
)
def test_what_is_unusual_is_left(odd: bytes) -> None:
    assert transcode.to_protobuf(odd) is None
