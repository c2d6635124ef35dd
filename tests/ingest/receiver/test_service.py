"""Telemetry is in the lake within a second of its response, over any protocol and encoding."""

import gzip
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import orjson
import otlp_requests
import pyarrow as pa
import pytest
from live_receiver import count, exporting, running
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
    OTLPMetricExporter as HttpMetrics,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from apm_analytics.ingest.receiver import Config, Receiver
from apm_analytics.lake import query

PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def receiver(lake: Path) -> Iterator[Receiver]:
    with running(Config(lake)) as running_receiver:
        yield running_receiver


def wait_for(lake: Path, sql: str, rows: int, within_s: float = 1.0) -> None:
    """Query until the lake has `rows` rows; fail after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            found = query.connect(lake).execute(f"select count(*) from {sql}").fetchone()
        except Exception:
            found = None
        if found and found[0] == rows:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"{found} rows of {sql} after {within_s} s, expected {rows}")
        time.sleep(0.02)


def post(receiver: Receiver, path: str, content: bytes, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"http://127.0.0.1:{receiver.http_port}{path}"
    return httpx.post(url, content=content, headers=names)


@pytest.mark.parametrize("kind", ["grpc", "grpc+gzip", "http", "http+gzip", "http+deflate"])
def test_the_python_sdk_sends_spans(receiver: Receiver, lake: Path, kind: str) -> None:
    url = f"http://127.0.0.1:{receiver.http_port}/v1/traces"
    exporter: GrpcSpans | HttpSpans
    if kind.startswith("grpc"):
        exporter = GrpcSpans(
            endpoint=f"127.0.0.1:{receiver.grpc_port}",
            insecure=True,
            compression=grpc.Compression.Gzip if kind.endswith("gzip") else None,
        )
    else:
        exporter = HttpSpans(endpoint=url, compression=Compression(kind[5:] or "none"))
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    for number in range(30):
        with provider.get_tracer("tests").start_as_current_span(f"{kind} {number}"):
            pass
    assert provider.force_flush()
    wait_for(lake, f"spans where name like '{kind} %'", 30)
    provider.shutdown()


def test_the_python_sdk_sends_metrics_and_logs(receiver: Receiver, lake: Path) -> None:
    url = f"http://127.0.0.1:{receiver.http_port}/v1"
    reader = PeriodicExportingMetricReader(HttpMetrics(endpoint=f"{url}/metrics"))
    meters = MeterProvider([reader])
    meters.get_meter("tests").create_counter("sdk.orders").add(3)
    assert meters.force_flush()
    logs = LoggerProvider()
    logs.add_log_record_processor(SimpleLogRecordProcessor(HttpLogs(endpoint=f"{url}/logs")))
    logs.get_logger("tests").emit(body="from the sdk", timestamp=time.time_ns())
    wait_for(lake, "metric_points where name = 'sdk.orders' and value = 3", 1)
    wait_for(lake, "logs where body = 'from the sdk'", 1)
    meters.shutdown()
    logs.shutdown()


@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "deflate", "raw deflate", "zstd"])
def test_every_encoding_of_http(receiver: Receiver, lake: Path, encoding: str) -> None:
    service = f"encoded {encoding}"
    payload = otlp_requests.traces(3, service=service).SerializeToString()
    packed = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "raw deflate": lambda content: zlib.compress(content, wbits=-15),
        "zstd": lambda content: pa.compress(content, "zstd", asbytes=True),
    }.get(encoding, bytes)(payload)
    headers = {**PROTOBUF, "content-encoding": encoding.removeprefix("raw ")}
    answer = post(receiver, "/v1/traces", packed, **headers)
    assert (answer.status_code, answer.content) == (200, b"")
    wait_for(lake, f"spans where service_name = '{service}'", 3)


def test_json_is_answered_in_json(receiver: Receiver, lake: Path) -> None:
    document = otlp_requests.as_json(otlp_requests.traces(2, service="in json"))
    answer = post(receiver, "/v1/traces", orjson.dumps(document), **JSON)
    assert (answer.status_code, answer.json()) == (200, {})
    wait_for(lake, "spans where service_name = 'in json'", 2)


def test_a_partial_success_names_what_was_rejected(receiver: Receiver, lake: Path) -> None:
    request = otlp_requests.traces(3, service="partly")
    request.resource_spans[0].scope_spans[0].spans[1].start_time_unix_nano = 0
    with exporting(receiver.grpc_port) as export:
        answer = ExportTraceServiceResponse.FromString(export(request.SerializeToString()))
    assert answer.partial_success.rejected_spans == 1
    assert "spans[1].startTimeUnixNano" in answer.partial_success.error_message
    wait_for(lake, "spans where service_name = 'partly'", 2)
    letters = [
        orjson.loads(line)
        for file in (lake / "dead_letter").glob("*.jsonl")
        for line in file.read_bytes().splitlines()
    ]
    assert any("spans[1].startTimeUnixNano" in letter["path"] for letter in letters)
    document = otlp_requests.as_json(request)
    found = post(receiver, "/v1/traces", orjson.dumps(document), **JSON).json()
    assert found["partialSuccess"]["rejectedSpans"] == "1"


def test_a_metric_that_changes_its_unit_is_put_aside(receiver: Receiver, lake: Path) -> None:
    request = otlp_requests.metrics()
    request.resource_metrics[0].resource.attributes[0].value.string_value = "units"
    assert post(receiver, "/v1/metrics", request.SerializeToString(), **PROTOBUF).content == b""
    request.resource_metrics[0].scope_metrics[0].metrics[0].unit = "%"
    with exporting(receiver.grpc_port, "metrics") as export:
        answer = ExportTraceServiceResponse.FromString(export(request.SerializeToString()))
    assert answer.partial_success.rejected_spans == 1
    assert "changed its unit" in answer.partial_success.error_message
    wait_for(lake, "metric_points where service_name = 'units'", 3)


def test_a_broken_request_does_not_disturb_its_neighbours(receiver: Receiver, lake: Path) -> None:
    good = otlp_requests.traces(1, service="neighbour").SerializeToString()
    with exporting(receiver.grpc_port) as export:
        calls = [export.future(good), export.future(good[:-1]), export.future(good)]
        with pytest.raises(grpc.RpcError) as refused:
            calls[1].result()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "resourceSpans" in refused.value.details()
        assert [call.result() for call in (calls[0], calls[2])] == [b"", b""]
    wait_for(lake, "spans where service_name = 'neighbour'", 2)


def test_health_and_metrics_are_served(receiver: Receiver, lake: Path) -> None:
    admin = f"http://127.0.0.1:{receiver.admin_port}"
    assert httpx.get(f"{admin}/healthz").status_code == 200
    assert httpx.get(f"{admin}/readyz").status_code == 200
    with exporting(receiver.grpc_port) as export:
        export(otlp_requests.traces(1).SerializeToString())
    text = httpx.get(f"{admin}/metrics").text
    for name in ("requests_total", "journal_lag_seconds", "part_rows_bucket", "flush_seconds_sum"):
        assert f"apm_receiver_{name}" in text


def test_stopping_writes_what_was_acknowledged(tmp_path: Path) -> None:
    with running(Config(tmp_path)) as receiver, exporting(receiver.grpc_port) as export:
        export(otlp_requests.traces(7).SerializeToString())
    assert count(tmp_path) == 7
    assert list((tmp_path / "journal").iterdir()) == []
