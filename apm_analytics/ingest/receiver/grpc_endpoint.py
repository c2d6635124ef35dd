"""OTLP over gRPC: the three Export services, as plain bytes.

In:  connections on a port.
Out: requests to the intake, answers to their senders.

Handlers are stream handlers although a call has one message: this way the token is checked before
the message is read, and reading the message has a timeout.
"""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from apm_analytics.foundation.errors import ApmError
from apm_analytics.ingest.receiver.intake import Intake
from apm_analytics.ingest.staging import Outcome
from apm_analytics.serve import STATUS_TRAILER, Reason, Refused, decompress_message

SERVICES = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}
# Larger frames cost senders nothing and save a tenth of the CPU of receiving them.
FRAME_BYTES = 1024 * 1024
MAX_METADATA_BYTES = 16 * 1024
MAX_STREAMS = 256  # per connection


def make_server(
    intake: Intake, *, timeout_s: float, max_connections: int, idle_s: float
) -> grpc.aio.Server:
    """Return a server; the caller binds a port and starts it."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", intake.max_request_bytes),
            # gRPC would decompress messages without a size limit; `decompress_message` has one.
            ("grpc.per_message_decompression", 0),
            ("grpc.http2.max_frame_size", FRAME_BYTES),
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.server_handshake_timeout_ms", int(timeout_s * 1000)),
            ("grpc.http2.settings_timeout", int(timeout_s * 1000)),
            ("grpc.max_connection_idle_ms", int(idle_s * 1000)),
            ("grpc.max_allowed_incoming_connections", max_connections),
            ("grpc.so_reuseport", 0),
        ]
    )
    for signal, service in SERVICES.items():
        handler = grpc.stream_unary_rpc_method_handler(_Export(intake, signal).export)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {"Export": handler})]
        )
    return server


def response(outcome: Outcome) -> bytes:
    """Return the response to an accepted request; all signals share one message layout."""
    if not outcome.rejected:
        return b""
    partial = ExportTracePartialSuccess(
        rejected_spans=outcome.rejected, error_message=outcome.message
    )
    return bytes(ExportTraceServiceResponse(partial_success=partial).SerializeToString())


class _Export:
    def __init__(self, intake: Intake, signal: str) -> None:
        self._intake = intake
        self._signal = signal

    async def export(
        self, _requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> bytes:
        try:
            return response(await self._taken(context))
        except Refused as refused:
            self._intake.metrics.refused.labels(refused.reason.name.lower()).inc()
            context.set_trailing_metadata(((STATUS_TRAILER, refused.status().SerializeToString()),))
            await context.abort(refused.reason.grpc_code, str(refused))
            raise ApmError("unreachable: abort raises") from refused

    async def _taken(self, context: grpc.aio.ServicerContext) -> Outcome:
        metadata = dict(context.invocation_metadata() or ())
        sender = self._intake.access.identify(
            metadata.get("authorization"), metadata.get("x-api-key")
        )
        message = await self._intake.readers.read(context.read)
        if message is grpc.aio.EOF:
            raise Refused(Reason.MALFORMED, "the call holds no message; need one Export request")
        limit = self._intake.max_request_bytes
        payload = await self._intake.inflate(message, lambda: decompress_message(message, limit))
        return await self._intake.take(sender, self._signal, payload)
