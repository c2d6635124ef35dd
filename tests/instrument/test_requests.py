"""Requests of a FastAPI application, by its own instrumentation and by contrib's."""

import asyncio
import gc
import os
import subprocess
import sys
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.instrumentation import fastapi as contrib
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import StatusCode
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
    assert span.attributes["http.request.header.accept"] == ["*/*"]


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
from fastapi import FastAPI
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
