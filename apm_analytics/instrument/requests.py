"""Instrument the requests of a FastAPI application, by FastAPI's or contrib's instrumentation.

In:  an application, the pipeline's providers.
Out: a span and a duration per request; the ids on every response, and the exception behind a failed
     one on its span.

FastAPI 0.142 and newer have their own instrumentation [1]_: it knows the chosen route and costs
half of contrib's ASGI middleware, which matches all routes again. Contrib's is used for older
versions, for applications that switch FastAPI's off, and for variables that only contrib supports.

References
----------
.. [1] https://fastapi.tiangolo.com/advanced/opentelemetry/
"""

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from opentelemetry.trace import Span, get_current_span, use_span

from apm_analytics.instrument.correlation import correlation_id, identify_answer, request_id
from apm_analytics.instrument.meters import LEFT_OUT_HTTP, FewerMeters
from apm_analytics.instrument.pipeline import Pipeline

# Variables that only contrib's instrumentation supports: excluded URLs, recorded headers.
CONTRIBS_VARIABLES = (
    "OTEL_PYTHON_EXCLUDED_URLS",
    "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE",
)

_log = logging.getLogger(__name__)


def watch_requests(app: Any, pipeline: Pipeline) -> None:
    """Instrument the requests of an application that has not served any yet."""
    answer_errors(app)
    if not _watches_itself(app):
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=pipeline.traces,
            meter_provider=FewerMeters(pipeline.meters, LEFT_OUT_HTTP),
            exclude_spans=["receive", "send"],
        )
    build = app.build_middleware_stack

    def build_all() -> Any:
        for mounted in _mounted(app):
            answer_errors(mounted)
        return Answers(build())

    app.build_middleware_stack = build_all


def _mounted(app: Any) -> Iterator[Any]:
    """Yield the applications that are mounted in an application, at any depth."""
    for route in getattr(app, "routes", None) or ():
        inner = getattr(route, "app", None)
        if hasattr(inner, "exception_handlers"):
            yield inner
            yield from _mounted(inner)


def answer_errors(app: Any) -> None:
    """Answer an unhandled exception with a 500 that names the ids.

    Handlers of the application stay; those that it adds later replace ours.
    """
    handlers = getattr(app, "exception_handlers", None)
    if handlers is None or Exception in handlers or 500 in handlers:
        return
    from starlette.responses import JSONResponse

    async def answer(_: Any, error: Exception) -> JSONResponse:
        return JSONResponse(
            {
                "error": "internal server error",
                "correlation_id": correlation_id(),
                "request_id": request_id(),
            },
            status_code=500,
        )

    handlers[Exception] = answer


class Answers:
    """An ASGI application around another that inspects its responses."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        span = get_current_span()

        async def send_identified(message: Any) -> None:
            nonlocal span
            if message["type"] == "http.response.start":
                span = get_current_span()
                try:
                    identify_answer(message)
                    if message["status"] >= 500:
                        _record(
                            sys.exc_info()[1], span
                        )  # handlers run while the exception is handled
                except Exception:
                    _log.debug("a response was not inspected", exc_info=True)
            await send(message)

        try:
            await self.app(scope, receive, send_identified)
        except Exception as error:
            _record(error, span)
            raise


def _record(error: BaseException | None, span: Span) -> None:
    """Record an exception on the span of its request, once; in the log if the span has ended.

    It has ended when a background task or the exit of a dependency fails after the response.
    """
    if not isinstance(error, Exception):
        return
    if span.is_recording():
        if all(event.name != "exception" for event in getattr(span, "events", ())):
            span.record_exception(error)
    elif span.get_span_context().is_valid:
        with use_span(span, record_exception=False, set_status_on_exception=False):
            _log.error("a request failed after its response", exc_info=error)


def _watches_itself(app: Any) -> bool:
    """Return whether FastAPI's own instrumentation is used; switch off the parts we do not need.

    If a later FastAPI keeps its settings elsewhere, contrib's instrumentation is used.
    """
    if any(os.environ.get(name) for name in CONTRIBS_VARIABLES):
        return False
    config = getattr(app, "_telemetry", None)
    if not isinstance(config, dict) or not config.get("tracing") or not config.get("metrics"):
        return False
    # Leave out spans of a request's inner steps, and log records that repeat its span.
    config.update(operation_spans=False, logs=False)
    return True
