"""Requests of a FastAPI application, by its own instrumentation and by contrib's."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.instrumentation import fastapi as contrib
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import StatusCode, get_current_span
from opentelemetry.util.http import parse_excluded_urls

from apm_analytics.instrument import meters, wiring
from apm_analytics.instrument.config import InstrumentSettings
from apm_analytics.instrument.correlation import CorrelationPropagator, Propagation
from apm_analytics.instrument.pipeline import Pipeline
from apm_analytics.instrument.requests import watch_requests


class Ended(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    for signal in ("TRACES", "METRICS", "LOGS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
    monkeypatch.setenv("APM_PRIVACY_SALT", "pepper")
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")
    return Pipeline(InstrumentSettings(), Resource.get_empty())


def answers(pipeline: Pipeline, app: FastAPI, *paths: str) -> tuple[list[Any], list[ReadableSpan]]:
    """Return the answers to requests, and the spans of their ends."""
    ended = Ended()
    pipeline.traces.add_span_processor(ended)

    @app.get("/items/{item}")
    async def item(item: int) -> int:
        return 1 // item

    watch_requests(app, pipeline)

    async def ask() -> list[Any]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(ask()), ended.spans


def telemetry(pipeline: Pipeline, by: str) -> dict[str, Any]:
    if by == "contrib":
        return {"tracing": False}
    return {"tracer_provider": pipeline.traces, "meter_provider": pipeline.meters}


@pytest.mark.parametrize("by", ["fastapi", "contrib"])
def test_a_request_is_one_span_whoever_makes_it(pipeline: Pipeline, by: str) -> None:
    app = FastAPI(telemetry=telemetry(pipeline, by))  # type: ignore[arg-type]
    (good, bad), spans = answers(pipeline, app, "/items/1", "/items/0")
    assert [span.name for span in spans] == ["GET /items/{item}"] * 2
    scopes = {span.instrumentation_scope.name for span in spans if span.instrumentation_scope}
    assert scopes == {"fastapi" if by == "fastapi" else "opentelemetry.instrumentation.fastapi"}
    for answer, span, status in zip((good, bad), spans, (200, 500), strict=True):
        assert span.attributes is not None and span.context is not None
        assert answer.status_code == span.attributes["http.response.status_code"] == status
        assert span.attributes["http.route"] == "/items/{item}"
        assert answer.headers["x-correlation-id"] == f"{span.context.trace_id:032x}"
    assert spans[1].status.status_code is StatusCode.ERROR and not spans[0].events
    [event] = spans[1].events
    assert event.attributes and event.attributes["exception.type"] == "ZeroDivisionError"
    assert bad.json()["correlation_id"] == bad.headers["x-correlation-id"]


def test_urls_that_are_excluded_and_headers_that_are_wanted_are_as_contrib_has_them(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", "accept")
    monkeypatch.setattr(contrib, "_excluded_urls_from_env", parse_excluded_urls("items/2"))
    app = FastAPI(telemetry=telemetry(pipeline, "fastapi"))  # type: ignore[arg-type]
    _, [span] = answers(pipeline, app, "/items/1", "/items/2")
    assert span.attributes is not None and span.attributes["url.path"] == "/items/1"
    assert span.attributes["http.request.header.accept"] == ("*/*",)


@pytest.mark.parametrize(("own", "then"), [((700, 10, 10), 10_000), ((5000, 10, 10), 5000)])
def test_what_an_application_consists_of_is_set_aside_from_garbage_collection(
    pipeline: Pipeline, own: tuple[int, int, int], then: int
) -> None:
    app = FastAPI()
    wiring.watch_application(app, pipeline)

    async def started() -> tuple[int, int]:
        async with app.router.lifespan_context(app):
            return gc.get_freeze_count(), gc.get_threshold()[0]

    before = gc.get_threshold()
    gc.set_threshold(*own)
    try:
        frozen, young = asyncio.run(started())
        assert frozen > 10_000
        assert young == then  # what the application has chosen stays
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def test_what_was_set_aside_is_freed_when_the_application_ends() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDING], capture_output=True, text=True, check=True, env=NOT_SENT
    )
    assert "frozen" in ended.stdout
    assert "leaked" not in ended.stderr  # as DuckDB says when its types are there at the end


# An application that uses DuckDB, from its start to its end.
ENDING = """
import asyncio, gc
import duckdb
from fastapi import BackgroundTasks, Depends, FastAPI
from apm_analytics import instrument

async def run(app):
    async with app.router.lifespan_context(app):
        print("frozen" if gc.get_freeze_count() else "not frozen")

app = FastAPI()
instrument.setup(app)
duckdb.connect().execute("select 1").fetchall()
asyncio.run(run(app))
"""
NOT_SENT = {
    **os.environ,
    **{f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")},
}


def test_headers_that_have_not_come_are_not_looked_for() -> None:
    class Asked(W3CBaggagePropagator):
        asked = 0

        def extract(self, *args: Any, **kwargs: Any) -> Any:
            self.asked += 1
            return super().extract(*args, **kwargs)

    part = Asked()
    propagation = Propagation([part], CorrelationPropagator())
    for headers, asked in (([(b"host", b"shop")], 0), ([(b"baggage", b"a=1")], 1)):
        propagation.extract({"type": "http", "headers": headers})
        assert part.asked == asked
    propagation.extract({"baggage": "a=1"})  # a plain mapping: it may have headers besides its keys
    assert part.asked == 2


def test_a_duration_waits_for_others_but_not_for_the_next_collection() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    meter = meters.FewerMeters(provider, meters.LEFT_OUT_HTTP).get_meter("test")
    duration = meter.create_histogram("http.server.request.duration", unit="s")
    running = meter.create_up_down_counter("http.server.active_requests")
    for number in range(meters.BATCH + 3):
        running.add(1)
        duration.record(0.1, {"http.route": f"/{number % 2}"})
    data = reader.get_metrics_data()
    assert data is not None
    [metric] = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
    assert metric.name == "http.server.request.duration"
    counts = {str((p.attributes or {})["http.route"]): p.count for p in metric.data.data_points}
    assert counts == {"/0": 10, "/1": 9}


def failing(by: str, pipeline: Pipeline) -> FastAPI:
    """Return an application with failures where an answer may already be on its way."""
    app = FastAPI(telemetry=telemetry(pipeline, by))  # type: ignore[arg-type]
    inner = FastAPI()

    def fail() -> None:
        raise ValueError("later")

    async def released() -> AsyncIterator[None]:
        yield
        raise ValueError("released")

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(fail)
        return "ok"

    @app.get("/yield", dependencies=[Depends(released)])
    async def after_yield() -> str:
        return "ok"

    @inner.get("/fails")
    async def inner_fails() -> None:
        fail()

    app.mount("/inner", inner)
    return app


@pytest.mark.parametrize("by", ["fastapi", "contrib"])
@pytest.mark.parametrize("path", ["/background", "/yield"])
def test_a_failure_after_the_response_is_logged_with_its_trace(
    pipeline: Pipeline, by: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    traces = []
    caplog.handler.addFilter(
        lambda _: bool(traces.append(get_current_span().get_span_context().trace_id)) or True
    )
    [answer], spans = answers(pipeline, failing(by, pipeline), path)
    [record] = [one for one in caplog.records if "failed after its response" in one.message]
    assert record.exc_info and isinstance(record.exc_info[1], ValueError)
    assert answer.status_code == 200
    assert spans[-1].context and traces == [spans[-1].context.trace_id]


@pytest.mark.parametrize("by", ["fastapi", "contrib"])
def test_a_failure_in_a_mounted_application_is_answered_and_recorded_once(
    pipeline: Pipeline, by: str
) -> None:
    [answer], [span] = answers(pipeline, failing(by, pipeline), "/inner/fails")
    assert answer.status_code == 500
    assert answer.json()["correlation_id"] == answer.headers["x-correlation-id"]
    assert span.status.status_code is StatusCode.ERROR
    assert [event.attributes["exception.type"] for event in span.events if event.attributes] == [
        "ValueError"
    ]
