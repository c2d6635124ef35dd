"""Measure imports: spans and points per CPU second and peak memory, with a peer.

In:  --spans of generated telemetry, --workers; recorded telemetry where APM_REAL_DATA is set.
Out: a table on standard output.

Each case runs in a fresh process, so that memory is measured per case. CPU counts that process and
its workers. The memory is an upper bound: the process itself plus all workers at the size of the
largest. The peer is the simplest importer: the protobuf library, one dict per span,
`Table.from_pylist`.
"""

import argparse
import base64
import gzip
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from apm_analytics.ingest.files import import_files

START_NS = 1_772_409_600 * 10**9
SPANS_A_REQUEST = 1_000
ATTRIBUTES = 12  # with them a span has about 590 bytes
SEED = 7


@dataclass(frozen=True)
class Cost:
    """The cost of one case."""

    rows: int
    cpu_s: float
    wall_s: float
    peak_mb: float


def main() -> None:
    """Generate, run every case, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        delimited, lines = folder / "spans.pb.zst", folder / "spans.jsonl.gz"
        _generate(arguments.spans, delimited, lines)
        cases: list[tuple[str, str, Callable[..., int], list[Path]]] = [
            ("generated protobuf", "spans", _import, [delimited]),
            ("generated JSON", "spans", _import, [lines]),
            ("peer: row dicts, protobuf", "spans", _peer, [delimited]),
        ]
        if "APM_REAL_DATA" in os.environ:
            day = Path(os.environ["APM_REAL_DATA"]) / "train-ticket" / "2023-01-30"
            cases += [
                ("train-ticket traces", "spans", _import, [day / "traces.jsonl.gz"]),
                ("train-ticket metrics", "points", _import, [day / "metrics.jsonl.gz"]),
            ]
        else:
            print("APM_REAL_DATA is not set: without the recorded telemetry")
        head = f"{'what':28}{'rows':>10}{'':8}{'CPU s':>8}{'per CPU-s':>12}{'wall s':>8}"
        print(f"{head}{'peak MB':>9}")
        for number, (label, unit, action, paths) in enumerate(cases):
            cost = _alone(action, paths, folder / f"lake-{number}", arguments.workers)
            print(
                f"{label:28}{cost.rows:10,} {unit:7}{cost.cpu_s:8.1f}"
                f"{cost.rows / cost.cpu_s:12,.0f}{cost.wall_s:8.1f}{cost.peak_mb:9.0f}"
            )


def _alone(action: Callable[..., int], paths: list[Path], lake: Path, workers: int) -> Cost:
    """Run one case in a separate process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, action, paths, lake, workers))
    process.start()
    theirs.close()
    try:
        cost: Cost = ours.recv()
    except EOFError:
        raise SystemExit("a case of the benchmark failed, see the error above") from None
    finally:
        process.join()
    return cost


def _measure(
    pipe: Any, action: Callable[..., int], paths: list[Path], lake: Path, workers: int
) -> None:
    started = time.perf_counter()
    before = _cpu_s()
    rows = action(paths, lake, workers)
    wall_s = time.perf_counter() - started
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    pipe.send(Cost(rows, _cpu_s() - before, wall_s, (own + workers * largest) / 1024))


def _cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _import(paths: list[Path], lake: Path, workers: int) -> int:
    summary = import_files(paths, lake, workers=workers, progress=False)
    if not summary.ok:
        raise SystemExit("\n".join(summary.lines()))
    return sum(sum(file.rows.values()) for file in summary.files)


def _peer(paths: list[Path], lake: Path, workers: int) -> int:
    """Import with the simplest code, one file per request batch, in one process."""
    lake.mkdir(parents=True)
    count = 0
    for path in paths:
        for number, payload in enumerate(_requests(path)):
            rows = list(_span_rows(ExportTraceServiceRequest.FromString(payload)))
            count += len(rows)
            table = pa.Table.from_pylist(rows)
            pq.write_table(table, lake / f"{number}.parquet", compression="zstd")
    return count


def _requests(path: Path) -> Iterator[bytes]:
    with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
        while prefix := stream.read(4):
            yield stream.read(int.from_bytes(prefix, "big"))


def _span_rows(request: Any) -> Iterator[dict[str, object]]:
    for entry in request.resource_spans:
        shared = {kv.key: kv.value.string_value for kv in entry.resource.attributes}
        for group in entry.scope_spans:
            for span in group.spans:
                found = {
                    kv.key: getattr(kv.value, kv.value.WhichOneof("value"))
                    for kv in span.attributes
                }
                yield {
                    "time": span.start_time_unix_nano,
                    "duration_ns": span.end_time_unix_nano - span.start_time_unix_nano,
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_span_id": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": span.kind,
                    "status_code": span.status.code,
                    "service_name": shared.get("service.name"),
                    **found,
                }


def _generate(spans: int, delimited: Path, lines: Path) -> None:
    """Write the same spans as big-endian-delimited protobuf and as JSON lines."""
    draw = random.Random(SEED)
    with (
        pa.CompressedOutputStream(pa.OSFile(str(delimited), "wb"), "zstd") as binary,
        gzip.open(lines, "wb", compresslevel=1) as text,
    ):
        for first in range(0, spans, SPANS_A_REQUEST):
            request = _request(draw, first, min(SPANS_A_REQUEST, spans - first))
            payload = request.SerializeToString()
            binary.write(len(payload).to_bytes(4, "big") + payload)
            text.write(orjson.dumps(otlp_json(request)) + b"\n")


def _request(draw: random.Random, first: int, count: int) -> Any:
    request = ExportTraceServiceRequest()
    entry = request.resource_spans.add()
    service = entry.resource.attributes.add(key="service.name")
    service.value.string_value = f"service-{first // SPANS_A_REQUEST % 12}"
    group = entry.scope_spans.add()
    group.scope.name = "bench"
    for number in range(first, first + count):
        route = draw.randrange(40)
        start = START_NS + number * 10**6
        span = group.spans.add(
            trace_id=draw.randbytes(16),
            span_id=draw.randbytes(8),
            parent_span_id=draw.randbytes(8),
            name=f"GET /api/v1/resource-{route}/{{id}}",
            kind=2,
            start_time_unix_nano=start,
            end_time_unix_nano=start + draw.randrange(10**8),
        )
        values: dict[str, str | int] = {
            "http.request.method": "GET",
            "http.route": f"/api/v1/resource-{route}/{{id}}",
            "http.response.status_code": 200,
            "url.path": f"/api/v1/resource-{route}/{draw.randrange(10**6)}",
            "server.address": "shop.example",
            "user_agent.original": "Mozilla/5.0 (X11; Linux x86_64)",
            "user.id": f"user-{draw.randrange(5000)}",
            "session.id": f"{draw.getrandbits(64):016x}",
            "thread.name": f"worker-{draw.randrange(16)}",
            "app.build": "2026.03.02",
            "app.cart.items": draw.randrange(20),
            "app.region": "eu-central",
        }
        assert len(values) == ATTRIBUTES
        for key, value in values.items():
            held = span.attributes.add(key=key).value
            if isinstance(value, str):
                held.string_value = value
            else:
                held.int_value = value
    return request


def otlp_json(request: Any) -> Any:
    """Turn a request into OTLP JSON, whose ids are hex and not protobuf's base64."""
    document = MessageToDict(request, use_integers_for_enums=True)
    _hex_ids(document)
    return document


def _hex_ids(node: Any) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("traceId", "spanId", "parentSpanId"):
                node[key] = base64.b64decode(value).hex()
            else:
                _hex_ids(value)
    elif isinstance(node, list):
        for item in node:
            _hex_ids(item)


if __name__ == "__main__":
    main()
