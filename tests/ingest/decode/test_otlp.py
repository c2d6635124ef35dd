"""Both encodings of OTLP become the same rows; rejected records are named.

Covers `otlp`, `protobuf`, `records`, `columns` and `sink`, and of `ingest.json` `otlp`, `fields`,
`otlp_metrics` and `jaeger`.
"""

from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from otlp_requests import START_NS, as_json, attribute, logs, metrics, traces

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import otlp
from apm_analytics.ingest.decode.records import MAX_ATTRIBUTE_BYTES
from apm_analytics.ingest.decode.sink import Decoded
from apm_analytics.lake.parquet.schemas import plain
from apm_analytics.lake.schema import TABLES


def from_json(document: dict[str, Any]) -> Decoded:
    return otlp.decode_json(orjson.dumps(document))


def one_span(**changes: Any) -> dict[str, Any]:
    document = as_json(traces(1))
    span = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    span.update(changes)
    return document


@pytest.mark.parametrize(
    ("signal", "request_"), [("traces", traces()), ("metrics", metrics()), ("logs", logs())]
)
def test_json_and_protobuf_of_a_request_give_equal_tables(signal: str, request_: Any) -> None:
    binary = otlp.decode_protobuf(signal, request_.SerializeToString())
    text = from_json(as_json(request_))
    assert binary.tables.keys() == text.tables.keys() and binary.tables
    for name in binary.tables:
        assert binary.tables[name].equals(text.tables[name]), name
    assert not binary.rejected and not text.rejected


values = st.recursive(
    st.text(max_size=20)
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = st.sampled_from(
    ["http.method", "http.request.method", "http.status_code", "http.target", "db.statement", "x"]
) | st.text(max_size=10)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(keys, values, max_size=6), st.text(max_size=10))
def test_any_attributes_decode_alike_in_both_encodings(
    attributes: dict[str, Any], name: str
) -> None:
    request = traces(1)
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.name = name
    span.attributes.extend(attribute(key, value) for key, value in attributes.items())
    span.events.add(name="e", time_unix_nano=START_NS, attributes=span.attributes)
    request.resource_spans[0].resource.attributes.extend(span.attributes)
    binary = otlp.decode_protobuf("traces", request.SerializeToString())
    text = from_json(as_json(request))
    assert binary.tables["spans"].equals(text.tables["spans"])


def test_every_kind_of_metric_point_keeps_its_figures() -> None:
    tables = from_json(as_json(metrics())).tables
    gauge, total = tables["metric_points"].to_pylist()
    assert (gauge["kind"], gauge["value"], gauge["temporality"]) == ("gauge", 0.5, None)
    assert (total["value_int"], total["temporality"], total["monotonic"]) == (
        2**53 + 1,
        "cumulative",
        True,
    )
    assert total["user_id"] == "u1"
    histogram = tables["histogram_points"].to_pylist()[0]
    assert histogram["bucket_counts"] == [1, 2, 3] and histogram["explicit_bounds"] == [0.1, 1.0]
    assert (histogram["count"], histogram["sum"], histogram["min"], histogram["max"]) == (
        6,
        1.5,
        None,
        0.9,
    )
    assert histogram["exemplars"][0]["trace_id"] == "01" * 16
    wide = tables["exp_histogram_points"].to_pylist()[0]
    assert (wide["scale"], wide["zero_count"], wide["positive_offset"]) == (3, 1, 2)
    assert wide["positive_bucket_counts"] == [1, 2] and wide["sum"] is None
    summary = tables["summary_points"].to_pylist()[0]
    assert (summary["quantiles"], summary["quantile_values"]) == ([0.5], [0.2])


def test_attributes_go_to_their_column_or_the_map_of_their_kind() -> None:
    pairs = {
        "http.method": "GET",
        "http.status_code": 200,
        "http.target": "/cart?id=1",
        "server.port": "8080",
        "flag": True,
        "ratio": 0.5,
        "big": 2**60,
        "list": [1, "a"],
        "blob": b"\x00\x01",
        "db.system": 7,
    }
    request = traces(1)
    span = request.resource_spans[0].scope_spans[0].spans[0]
    del span.attributes[:]
    span.attributes.extend(attribute(key, value) for key, value in pairs.items())
    row = otlp.decode_protobuf("traces", request.SerializeToString()).tables["spans"].to_pylist()[0]
    assert row["http_request_method"] == "GET"
    assert row["http_response_status_code"] == 200
    assert row["url_path"] == "/cart"
    assert row["server_port"] == 8080
    assert row["db_system_name"] is None
    assert dict(row["attributes"]) == {
        "http.target": "/cart?id=1",
        "flag": "true",
        "big": str(2**60),
        "list": '[1,"a"]',
        "blob": "AAE=",
    }
    assert dict(row["attributes_num"]) == {"ratio": 0.5, "db.system": 7.0}


def test_the_present_name_of_an_attribute_wins_over_its_old_one() -> None:
    request = traces(1)
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.attributes.extend(
        [attribute("http.method", "get"), attribute("http.request.method", "GET")]
    )
    row = otlp.decode_protobuf("traces", request.SerializeToString()).tables["spans"].to_pylist()[0]
    assert row["http_request_method"] == "GET"
    assert dict(row["attributes"]) == {"http.method": "get"}


def test_what_has_no_service_belongs_to_an_unknown_one() -> None:
    document = one_span()
    document["resourceSpans"][0].pop("resource")
    table = from_json(document).tables["spans"]
    assert table["service_name"].to_pylist() == ["unknown_service"]


def test_protobuf_field_names_and_enum_names_are_understood() -> None:
    document = {
        "resource_spans": [
            {
                "scope_spans": [
                    {
                        "spans": [
                            {
                                "trace_id": "5B8EFFF798038103D269B633813FC60C",
                                "span_id": "abc",
                                "name": "x",
                                "kind": "SPAN_KIND_CLIENT",
                                "start_time_unix_nano": START_NS,
                                "end_time_unix_nano": str(START_NS + 5),
                                "status": {"code": "STATUS_CODE_ERROR"},
                            }
                        ]
                    }
                ]
            }
        ]
    }
    row = from_json(document).tables["spans"].to_pylist()[0]
    assert row["trace_id"] == "5b8efff798038103d269b633813fc60c"
    assert row["span_id"] == "0000000000000abc"
    assert (row["kind"], row["status_code"], row["duration_ns"]) == ("client", "error", 5)


def test_ids_in_base64_are_understood() -> None:
    document = one_span(traceId="W47/95gDgQPSabYzgT/GDA==", spanId="7uGbfsPBsXQ=")
    row = from_json(document).tables["spans"].to_pylist()[0]
    assert row["trace_id"] == "5b8efff798038103d269b633813fc60c"
    assert row["span_id"] == "eee19b7ec3c1b174"


def test_an_unknown_field_is_kept_and_counted() -> None:
    decoded = from_json(one_span(colour={"rgb": 1}))
    row = decoded.tables["spans"].to_pylist()[0]
    assert dict(row["attributes"])["otlp.unknown.colour"] == '{"rgb":1}'
    assert sum(decoded.warnings.values()) == 1


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"traceId": "zzz"}, "traceId", "no id of 32 hex digits"),
        ({"traceId": ""}, "traceId", "missing"),
        ({"spanId": "0" * 16}, "spanId", "all zero"),
        ({"kind": 99}, "kind", "from 0 to 5"),
        ({"status": {"code": 9}}, "status.code", "from 0 to 2"),
        ({"kind": "SPAN_KIND_ODD"}, "kind", "need one of"),
        ({"endTimeUnixNano": str(START_NS)}, "endTimeUnixNano", "before it starts"),
        ({"startTimeUnixNano": "5"}, "startTimeUnixNano", "--earliest"),
        ({"startTimeUnixNano": 0}, "startTimeUnixNano", "missing"),
        ({"startTimeUnixNano": str(2**62)}, "startTimeUnixNano", "in the future"),
        ({"startTimeUnixNano": str(2**64 - 1)}, "startTimeUnixNano", "64 bits"),
        ({"startTimeUnixNano": "soon"}, "startTimeUnixNano", "need an integer"),
        ({"name": 7}, "name", "need text"),
        (
            {"attributes": [{"key": "blob", "value": {"stringValue": "x" * 10 * 2**20}}]},
            "attributes[blob]",
            f"{MAX_ATTRIBUTE_BYTES:,}",
        ),
        ({"attributes": [{"key": "a", "value": {"stringValue": 5}}]}, "attributes", "stringValue"),
        ({"attributes": 7}, "", "wrong type"),
        ({"events": [{"timeUnixNano": "x"}]}, "timeUnixNano", "need an integer"),
    ],
)
def test_an_invalid_span_is_rejected_and_the_others_are_decoded(
    change: dict[str, Any], field: str, reason: str
) -> None:
    document = one_span(**change)
    spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans.append(as_json(traces(1, first=9))["resourceSpans"][0]["scopeSpans"][0]["spans"][0])
    decoded = from_json(document)
    assert decoded.tables["spans"]["span_id"].to_pylist() == [f"{9:016x}"]
    (rejected,) = decoded.rejected
    assert rejected.path.startswith("resourceSpans[0].scopeSpans[0].spans[0]")
    assert field in rejected.path and reason in rejected.reason


def test_a_rejected_record_can_be_corrected_and_imported() -> None:
    (rejected,) = from_json(one_span(kind="SPAN_KIND_ODD")).rejected
    rejected.record["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["kind"] = 2
    row = from_json(rejected.record).tables["spans"].to_pylist()[0]
    assert (row["service_name"], row["kind"], row["scope_name"]) == ("shop", "server", "tests")


def test_a_rejected_protobuf_span_can_be_corrected_and_imported() -> None:
    request = traces(2)
    request.resource_spans[0].scope_spans[0].spans[0].end_time_unix_nano = START_NS - 1
    decoded = otlp.decode_protobuf("traces", request.SerializeToString())
    assert decoded.tables["spans"].num_rows == 1
    (rejected,) = decoded.rejected
    assert "before it starts" in rejected.reason
    span = rejected.record["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    span["endTimeUnixNano"] = str(START_NS + 10**10)
    assert from_json(rejected.record).tables["spans"]["span_id"].to_pylist() == [f"{1:016x}"]


def test_enum_numbers_outside_the_specification_are_refused_in_metrics_and_logs() -> None:
    measured, logged = as_json(metrics()), as_json(logs())
    measured["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][1]["sum"][
        "aggregationTemporality"
    ] = 7
    logged["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["severityNumber"] = 99
    for document, field in ((measured, "aggregationTemporality"), (logged, "severityNumber")):
        (rejected,) = from_json(document).rejected
        assert rejected.path.endswith(field) and "need a number from 0 to" in rejected.reason


@pytest.mark.parametrize("size", [1, 15, 17])
def test_a_protobuf_id_of_another_length_is_refused(size: int) -> None:
    request = traces(1)
    request.resource_spans[0].scope_spans[0].spans[0].trace_id = b"\1" * size
    (rejected,) = otlp.decode_protobuf("traces", request.SerializeToString()).rejected
    assert rejected.path.endswith("traceId") and f"{size} bytes, need 16" in rejected.reason


def test_an_invalid_point_is_rejected_without_the_others_of_its_metric() -> None:
    document = as_json(metrics())
    points = document["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"]
    points.append({"timeUnixNano": "0", "asDouble": 1})
    points.append({"timeUnixNano": str(START_NS)})
    decoded = from_json(document)
    assert decoded.tables["metric_points"].num_rows == 2
    assert [r.path.rpartition(".")[2] for r in decoded.rejected] == ["timeUnixNano", "value"]


def test_a_point_flagged_as_without_value_is_kept() -> None:
    document = as_json(metrics())
    metric = document["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]
    metric["gauge"]["dataPoints"] = [{"timeUnixNano": str(START_NS), "flags": 1}]
    row = from_json(document).tables["metric_points"].to_pylist()[0]
    assert row["value"] is None and row["flags"] == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff\xfe", b"null", b'{"resourceSpans": 7}{']
)
def test_other_documents_than_otlp_are_refused(content: bytes) -> None:
    with pytest.raises(BadInput):
        otlp.decode_json(content)


def test_bytes_of_no_signal_are_refused() -> None:
    with pytest.raises(BadInput):
        otlp.decode_protobuf("traces", b"\x0a\xff\xff\xff\xff\x0f")


def test_empty_requests_give_no_tables() -> None:
    assert otlp.decode_json(b'{"resourceLogs": []}').tables == {}
    assert otlp.decode_protobuf("logs", b"").tables == {}


def test_tables_have_exactly_the_columns_of_the_lake() -> None:
    for name, table in from_json(as_json(metrics())).tables.items():
        plainly = [field.with_type(plain(field.type)) for field in table.schema]
        assert pa.schema(plainly).equals(TABLES[name])


def test_a_document_nested_too_deep_is_refused_and_one_that_is_not_is_kept() -> None:
    def nested(depth: int) -> bytes:
        value = '{"arrayValue":{"values":[' * depth + "]}}" * depth
        return orjson.dumps(one_span(note=1)).replace(b'"note":1', f'"deep":{value}'.encode())

    with pytest.raises(BadInput, match="nested deeper"):
        otlp.decode_json(nested(300))
    decoded = otlp.decode_json(nested(70))
    assert decoded.tables["spans"].num_rows == 1 and not decoded.rejected
