"""Requests of one signal share tables; damage is named. Covers `requests` and `damage`."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from otlp_requests import START_NS, as_json, logs, metrics, traces

from apm_analytics.ingest.decode.otlp import decode_json, decode_protobuf, decode_requests


@pytest.mark.parametrize(
    ("signal", "build"), [("traces", traces), ("metrics", metrics), ("logs", logs)]
)
def test_requests_share_one_set_of_tables(signal: str, build: Callable[[], Any]) -> None:
    payload = build().SerializeToString()
    alone, both = decode_protobuf(signal, payload), decode_requests(signal, [payload, payload])
    assert not both.broken and not both.rejected
    assert {name: table.num_rows for name, table in both.tables.items()} == {
        name: 2 * table.num_rows for name, table in alone.tables.items()
    }


def test_a_rejected_record_names_its_request() -> None:
    request = traces(3)
    request.resource_spans[0].scope_spans[0].spans[1].trace_id = b""
    decoded = decode_requests(
        "traces", [traces(2).SerializeToString(), request.SerializeToString()]
    )
    assert [rejected.document for rejected in decoded.rejected] == [1]
    assert decoded.rejected[0].path == "resourceSpans[0].scopeSpans[0].spans[1].traceId"
    assert decoded.tables["spans"].num_rows == 4


def _field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def _in_span(content: bytes) -> bytes:
    return _field(1, _field(2, _field(2, content)))


SPAN = "resourceSpans[0].scopeSpans[0].spans[0]"


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (_in_span(_field(5, b"a\xff")), f"{SPAN}.name: no UTF-8 at byte 1"),
        (_in_span(bytes([5 << 3 | 2, 200, 1])), f"{SPAN}.name: announces 200 bytes, 0 are left"),
        (_in_span(_field(9, _field(1, b"\xed\xa0\x80"))), f"{SPAN}.attributes[0].key: no UTF-8"),
        (_in_span(bytes([0x39, 1, 2])), f"{SPAN}: startTimeUnixNano needs 8 bytes, 2 are left"),
        (_in_span(bytes([0x30, *[255] * 10, 1])), f"{SPAN}: kind holds a number of more than 10"),
        (_in_span(bytes([0x0E])), f"{SPAN}: traceId has the wire type 6"),
        (_in_span(bytes([0x02, 0])), f"{SPAN}: field number 0 at byte 0"),
        (_in_span(bytes([0x5B])), f"{SPAN}: cut short within a field of a group"),
        (b"\xff", "cut short within the field at byte 0"),
    ],
)
def test_a_damaged_request_is_reported_with_what_is_wrong_and_where(
    payload: bytes, expected: str
) -> None:
    decoded = decode_requests("traces", [traces(2).SerializeToString(), payload])
    assert expected in decoded.broken[1]
    assert list(decoded.broken) == [1] and not decoded.rejected
    assert decoded.tables["spans"].num_rows == 2


def test_nesting_beyond_what_protobuf_reads_is_reported() -> None:
    request = traces(1)
    value = request.resource_spans[0].scope_spans[0].spans[0].attributes.add(key="deep").value
    for _ in range(60):
        value = value.array_value.values.add()
    decoded = decode_requests("traces", [request.SerializeToString()])
    assert "levels deep" in decoded.broken[0]


def test_a_time_beyond_2262_in_an_event_rejects_only_its_span() -> None:
    request = traces(2)
    request.resource_spans[0].scope_spans[0].spans[0].events.add(time_unix_nano=2**63)
    decoded = decode_requests("traces", [request.SerializeToString()])
    assert [rejected.path for rejected in decoded.rejected] == [f"{SPAN}.events.timeUnixNano"]
    assert decoded.tables["spans"].num_rows == 1


def test_a_time_beyond_2262_in_an_exemplar_rejects_only_its_point() -> None:
    request = metrics()
    point = request.resource_metrics[0].scope_metrics[0].metrics[2].histogram.data_points[0]
    point.exemplars[0].time_unix_nano = START_NS + 2**63
    decoded = decode_requests("metrics", [request.SerializeToString()])
    assert "exemplars.timeUnixNano" in decoded.rejected[0].path
    assert "histogram_points" not in decoded.tables


@pytest.mark.parametrize("field", ["flags", "droppedAttributesCount"])
def test_a_json_integer_beyond_64_bits_rejects_only_its_record(field: str) -> None:
    document = as_json(logs())
    document["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0][field] = str(2**70)
    decoded = decode_json(orjson.dumps(document))
    assert [rejected.path.rpartition(".")[2] for rejected in decoded.rejected] == [field]
    assert decoded.tables["logs"].num_rows == 1
