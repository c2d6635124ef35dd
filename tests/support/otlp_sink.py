"""A receiver of OTLP over HTTP that records requests, or misbehaves on command.

In:  a mode: ok, slow, refusing, rubbish, hanging.
Out: every request as it came, decoded when asked.
"""

import gzip
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

MESSAGES = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class Sink:
    """What has arrived; `mode` may change at any time."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.mode = "ok"
        self.requests: list[tuple[str, bytes]] = []
        self.met: Counter[tuple[str, str]] = Counter()  # requests by mode and path
        self.ended = threading.Event()
        self.arrived = threading.Condition()

    def messages(self, path: str) -> list[Any]:
        """Return the decoded requests of one signal."""
        return [MESSAGES[path].FromString(body) for at, body in list(self.requests) if at == path]

    def spans(self) -> list[Any]:
        """Return every span."""
        return [
            span
            for message in self.messages("/v1/traces")
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def logs(self) -> list[Any]:
        """Return every log record."""
        return [
            record
            for message in self.messages("/v1/logs")
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def metrics(self) -> dict[str, Any]:
        """Return the last state of every metric by name."""
        return {
            metric.name: metric
            for message in self.messages("/v1/metrics")
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def await_that(self, found: Any, timeout_s: float = 20.0) -> Any:
        """Wait until a function of the requests returns a true value, and return it."""
        deadline = time.monotonic() + timeout_s
        with self.arrived:
            while not (result := found()):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"not within {timeout_s} s; {len(self.requests)} requests")
                self.arrived.wait(left)
        return result

    def write(self, file: Path) -> None:
        """Write everything as the Collector's file exporter does, with ids in hexadecimal."""
        lines = []
        for path, body in self.requests:
            document = MessageToDict(MESSAGES[path].FromString(body))
            lines.append(json.dumps(_hexadecimal(document)))
        file.write_text("\n".join(lines) + "\n")


def attributes(record: Any) -> dict[str, Any]:
    """Return the attributes of a span, record or point as plain values."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in record.attributes
    }


@contextmanager
def otlp_sink() -> Iterator[Sink]:
    """Run a sink on a free loopback port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            answer, status = b"", 200
            with sink.arrived:
                sink.met[sink.mode, self.path] += 1
                sink.arrived.notify_all()
            if sink.mode == "slow":
                sink.ended.wait(1.0)
            elif sink.mode == "hanging":
                sink.ended.wait(60.0)
            elif sink.mode == "refusing":
                status = 403
            elif sink.mode == "rubbish":
                answer = b"\xff\xfe<html>\x00" * 50
            if sink.mode in ("ok", "slow"):
                with sink.arrived:
                    sink.requests.append((self.path, body))
                    sink.arrived.notify_all()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Write no log line."""

        def handle(self) -> None:
            connections.add(self.connection)
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True
            finally:
                connections.discard(self.connection)

    connections: set[socket.socket] = set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # closing waits for them, so that none leaves a socket behind
    sink = Sink(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield sink
    finally:
        sink.ended.set()
        server.shutdown()
        thread.join()
        for connection in list(connections):
            with suppress(OSError):  # it has just ended
                connection.shutdown(socket.SHUT_RDWR)
        server.server_close()


def _hexadecimal(value: Any) -> Any:
    import base64

    if isinstance(value, list):
        return [_hexadecimal(item) for item in value]
    if isinstance(value, dict):
        return {
            key: base64.b64decode(item).hex()
            if key in ("traceId", "spanId", "parentSpanId")
            else _hexadecimal(item)
            for key, item in value.items()
        }
    return value
