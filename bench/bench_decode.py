"""Measure decoding alone, and with the Parquet writer: records per CPU second.

In:  generated requests of 1,000 records: spans of 12 attributes, log records, metric points.
Out: a table on standard output; the protobuf library and OTLP JSON beside the scanner.

`a call` is the number of requests decoded into one set of tables: a receiver flushes several.
"""

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from bench_import import SPANS_A_REQUEST, START_NS, _request, otlp_json
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from apm_analytics.ingest import otlp
from apm_analytics.ingest.decode import Limits, Requests, Sink, protobuf
from apm_analytics.lake import parts

REQUESTS = 40
CALLS = (1, 10, 40)
REPEATS = 3
SEED = 7
POINTS_A_METRIC = 10


def main() -> None:
    """Generate, decode, print."""
    otlp.warm_up()
    limits = Limits.around_now()
    print(
        f"{'signal':9}{'bytes':>7}{'requests a call':>17}{'per CPU-s':>12}{'library':>10}"
        f"{'JSON':>10}",
        end="",
    )
    print(f"{'writer':>12}{'bytes on disk':>15}")
    for signal, build in (("traces", _request), ("logs", _logs), ("metrics", _points)):
        draw = random.Random(SEED)
        firsts = range(0, REQUESTS * SPANS_A_REQUEST, SPANS_A_REQUEST)
        payloads = [build(draw, first, SPANS_A_REQUEST).SerializeToString() for first in firsts]
        records = len(payloads) * SPANS_A_REQUEST
        library = 10 * SPANS_A_REQUEST / _cpu_s(_library, signal, payloads[:10], limits)
        requests = map(protobuf.REQUESTS[signal].FromString, payloads[:10])
        documents = [orjson.dumps(otlp_json(request)) for request in requests]
        as_json = 10 * SPANS_A_REQUEST / _cpu_s(_json, documents, limits)
        (table_name,) = otlp.decode_requests(signal, payloads, limits).tables
        for count in CALLS:
            groups = [payloads[at : at + count] for at in range(0, REQUESTS, count)]
            decode_s = _cpu_s(_scanner, signal, groups, limits)
            print(f"{signal:9}{sum(map(len, payloads)) / records:7.0f}{count:17}", end="")
            print(f"{records / decode_s:12,.0f}{library:10,.0f}{as_json:10,.0f}", end="")
            table = otlp.decode_requests(signal, groups[0], limits).tables[table_name]
            with tempfile.TemporaryDirectory() as lake:
                write_s = _cpu_s(_write, Path(lake), table_name, table)
                size = sum(file.stat().st_size for file in Path(lake).rglob("*.tmp"))
            print(f"{table.num_rows / write_s:12,.0f}{size / table.num_rows:15.1f}")


def _cpu_s(action: Callable[..., None], *arguments: Any) -> float:
    """Return the least CPU seconds of some runs."""
    took = []
    for _ in range(REPEATS):
        started = time.process_time()
        action(*arguments)
        took.append(time.process_time() - started)
    return min(took)


def _scanner(signal: str, groups: list[list[bytes]], limits: Limits) -> None:
    for group in groups:
        otlp.decode_requests(signal, group, limits)


def _json(documents: list[bytes], limits: Limits) -> None:
    requests = Requests(Sink(), limits, None, sum(map(len, documents)))
    for document in documents:
        assert requests.take_json(document)
    requests.finish()


def _library(signal: str, payloads: list[bytes], limits: Limits) -> None:
    sink = Sink()
    for payload in payloads:
        request = protobuf.parse(signal, payload)
        protobuf.read_request(signal, request, sink, limits)
    sink.finish()


def _write(lake: Path, table_name: str, table: Any) -> None:
    list(parts.write_parts(lake, table_name, table, "bench", parts.Facts("bench")))


def _attributes(target: Any, values: dict[str, str | int]) -> None:
    for key, value in values.items():
        held = target.add(key=key).value
        if isinstance(value, str):
            held.string_value = value
        else:
            held.int_value = value


def _logs(draw: random.Random, first: int, count: int) -> Any:
    request = ExportLogsServiceRequest()
    entry = request.resource_logs.add()
    _attributes(entry.resource.attributes, {"service.name": f"service-{first // count % 12}"})
    group = entry.scope_logs.add()
    for number in range(first, first + count):
        record = group.log_records.add(
            time_unix_nano=START_NS + number * 10**6,
            severity_number=9,
            severity_text="INFO",
            trace_id=draw.randbytes(16),
            span_id=draw.randbytes(8),
        )
        record.body.string_value = (
            f"order {draw.randrange(10**6)} placed in {draw.randrange(500)} ms"
        )
        values: dict[str, str | int] = {
            "user.id": f"user-{draw.randrange(5000)}",
            "thread.name": f"worker-{draw.randrange(16)}",
            "code.function.name": "place_order",
            "app.build": "2026.03.02",
            "app.cart.items": draw.randrange(20),
        }
        _attributes(record.attributes, values)
    return request


def _points(draw: random.Random, first: int, count: int) -> Any:
    request = ExportMetricsServiceRequest()
    entry = request.resource_metrics.add()
    _attributes(entry.resource.attributes, {"service.name": f"service-{first // count % 12}"})
    group = entry.scope_metrics.add()
    for number in range(count // POINTS_A_METRIC):
        metric = group.metrics.add(name=f"app.metric_{number % 50}", unit="s")
        metric.sum.aggregation_temporality = 2
        metric.sum.is_monotonic = True
        for route in range(POINTS_A_METRIC):
            point = metric.sum.data_points.add(
                start_time_unix_nano=START_NS,
                time_unix_nano=START_NS + (first + number) * 10**6,
                as_double=draw.random(),
            )
            values: dict[str, str | int] = {
                "http.route": f"/api/{route}",
                "http.request.method": "GET",
                "http.response.status_code": 200,
                "app.region": "eu-central",
            }
            _attributes(point.attributes, values)
    return request


if __name__ == "__main__":
    main()
