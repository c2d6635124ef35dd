"""OTLP over HTTP: POST /v1/traces, /v1/metrics and /v1/logs, protobuf or JSON.

In:  requests of an ASGI server.
Out: requests to the intake, responses in the encoding of their request.
"""

import asyncio
import math
from collections.abc import Sequence

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from apm_analytics.ingest.receiver.grpc_endpoint import response as protobuf_response
from apm_analytics.ingest.receiver.intake import Intake
from apm_analytics.ingest.receiver.metrics import CONTENT_TYPE, Metrics
from apm_analytics.ingest.receiver.pipeline import Pipeline
from apm_analytics.ingest.staging import JSON, SIGNALS, Outcome
from apm_analytics.serve import CONNECTION, BoundedProtocol, Reason, Refused, decompress

PROTOBUF_TYPE = "application/x-protobuf"
JSON_TYPE = "application/json"
_BODY_LEFT = (Reason.TOO_LARGE, Reason.TOO_SLOW, Reason.UNAUTHENTICATED, Reason.UNAVAILABLE)
_REJECTED = {
    "traces": "rejectedSpans",
    "metrics": "rejectedDataPoints",
    "logs": "rejectedLogRecords",
}


def make_app(intake: Intake, *, cors_origins: Sequence[str]) -> Starlette:
    """Return the application that receives telemetry."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(cors_origins),
        allow_methods=["POST"],
        allow_headers=["*"],
        max_age=7200,
    )
    endpoint = _Export(intake)
    return Starlette(
        routes=[Route("/v1/{signal}", endpoint.export, methods=["POST"])],
        middleware=[cors] if cors_origins else [],
    )


def make_admin_app(pipeline: Pipeline, metrics: Metrics) -> Starlette:
    """Return the application for operators: metrics, health, readiness."""

    async def show_metrics(_: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    async def health(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readiness(_: Request) -> Response:
        hindrance = pipeline.hindrance()
        if not hindrance:
            return PlainTextResponse("ready\n")
        return PlainTextResponse(f"not ready: {hindrance}\n", 503)

    return Starlette(
        routes=[
            Route("/metrics", show_metrics),
            Route("/healthz", health),
            Route("/readyz", readiness),
        ]
    )


class _Export:
    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def export(self, request: Request) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        as_json = media_type == JSON_TYPE
        connection: BoundedProtocol = request.scope[CONNECTION]
        connection.serving = asyncio.current_task()
        try:
            signal = request.path_params["signal"]
            outcome = await self._taken(request, signal, media_type)
        except (ClientDisconnect, asyncio.CancelledError):
            return Response(status_code=400)  # the client is gone
        except Refused as refused:
            self._intake.metrics.refused.labels(refused.reason.name.lower()).inc()
            return _refusal(refused, as_json)
        finally:
            connection.serving = None
        if not as_json:
            return Response(protobuf_response(outcome), media_type=PROTOBUF_TYPE)
        return Response(_json_response(signal, outcome), media_type=JSON_TYPE)

    async def _taken(self, request: Request, signal: str, media_type: str) -> Outcome:
        if signal not in SIGNALS:
            raise Refused(
                Reason.NOT_FOUND,
                f"no /v1/{signal[:40]} here; there are /v1/{{{','.join(SIGNALS)}}}",
            )
        sender = self._intake.access.identify(
            request.headers.get("authorization"), request.headers.get("x-api-key")
        )
        if media_type not in (PROTOBUF_TYPE, JSON_TYPE):
            raise Refused(
                Reason.UNSUPPORTED,
                f"Content-Type: {media_type[:40]!r} is not known; "
                f"need {PROTOBUF_TYPE} or {JSON_TYPE}",
            )
        limit = self._intake.max_request_bytes
        body = await self._intake.readers.read(lambda: _body(request, limit))
        encoding = request.headers.get("content-encoding", "")
        payload = await self._intake.inflate(body, lambda: decompress(body, encoding, limit))
        kind = signal + JSON if media_type == JSON_TYPE else signal
        return await self._intake.take(sender, kind, payload)


async def _body(request: Request, limit: int) -> bytes:
    announced = request.headers.get("content-length", "")
    too_large = Refused(
        Reason.TOO_LARGE, f"the body has more than {limit:,} bytes; send smaller batches"
    )
    if announced.isdigit() and int(announced) > limit:
        raise too_large
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise too_large
        pieces.append(piece)
    return b"".join(pieces)


def _refusal(refused: Refused, as_json: bool) -> Response:
    headers = {}
    if refused.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(refused.retry_after_s))
    if refused.reason is Reason.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    if refused.reason in _BODY_LEFT:
        # The rest of the body is not read.
        headers["connection"] = "close"
    return Response(
        refused.body(as_json=as_json),
        refused.reason.http_status,
        headers,
        media_type=JSON_TYPE if as_json else PROTOBUF_TYPE,
    )


def _json_response(signal: str, outcome: Outcome) -> bytes:
    if not outcome.rejected:
        return b"{}"
    # OTLP JSON writes 64-bit integers as text.
    partial = {_REJECTED[signal]: str(outcome.rejected), "errorMessage": outcome.message}
    return orjson.dumps({"partialSuccess": partial})
