"""Transcoded OTLP JSON gives the rows of `json.otlp`, its reference. Covers `kernel` as well."""

from typing import Any

import orjson
import pytest
from fuzz_json import batch, disagreement
from otlp_requests import as_json, logs, metrics, traces
from wire_requests import SIGNALS

from apm_analytics.ingest.json import transcode


@pytest.mark.parametrize("signal", SIGNALS)
def test_damaged_documents_give_the_same_rows_or_are_not_transcoded(signal: str) -> None:
    differing, taken = batch(signal, seed=11, count=2_000)
    assert not differing
    # Most damaged documents are not transcoded; enough others must remain to compare.
    assert taken > 100


@pytest.mark.parametrize("build", [traces, metrics, logs])
def test_documents_of_exporters_are_transcoded(build: Any) -> None:
    request = build()
    signal = build.__name__
    if build is logs:  # a body of pairs is left to the library
        request.resource_logs[0].scope_logs[0].log_records[1].body.string_value = "a\n<b>"
    document = as_json(request, enum_numbers=True)
    named = as_json(request)
    for text in (
        orjson.dumps(document),
        orjson.dumps(document, option=orjson.OPT_INDENT_2),
        orjson.dumps(named),
    ):
        differing, taken = disagreement(signal, [text, text.replace(b"<", b"\\u003c")])
        assert not differing and taken == 2


@pytest.mark.parametrize(
    "document",
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
def test_unusual_documents_are_not_transcoded(document: bytes) -> None:
    assert transcode.to_protobuf(document) is None
