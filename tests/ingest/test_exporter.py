"""The SDK exporters write the same rows into the lake as the receiver, without a server."""

import time
from pathlib import Path

import pytest
from live_receiver import count
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from apm_analytics.foundation.privacy import load_rules
from apm_analytics.ingest.exporter import LogExporter, MetricExporter, SpanExporter
from apm_analytics.lake import query

SHOP = Resource({"service.name": "shop"})


def test_spans_metrics_and_logs_are_in_the_lake_when_flushed(tmp_path: Path) -> None:
    spans = TracerProvider(resource=SHOP)
    spans.add_span_processor(BatchSpanProcessor(SpanExporter(tmp_path)))
    meters = MeterProvider([PeriodicExportingMetricReader(MetricExporter(tmp_path))], SHOP)
    logs = LoggerProvider(SHOP)
    logs.add_log_record_processor(SimpleLogRecordProcessor(LogExporter(tmp_path)))
    tracer = spans.get_tracer("tests")
    with tracer.start_as_current_span("parent", attributes={"http.route": "/cart"}):
        for _ in range(9):
            with tracer.start_as_current_span("child"):
                pass
    meters.get_meter("tests").create_histogram("latency", "s").record(0.2)
    meters.get_meter("tests").create_counter("orders").add(2)
    logs.get_logger("tests").emit(body="declined", timestamp=time.time_ns())
    assert spans.force_flush() and logs.force_flush()
    for provider in (spans, meters, logs):
        provider.shutdown()  # which collects the metrics once
    con = query.connect(tmp_path)
    found = con.execute("select name, http_route, service_name, count(*) from spans group by all")
    assert sorted(found.fetchall(), key=str) == [
        ("child", None, "shop", 9),
        ("parent", "/cart", "shop", 1),
    ]
    assert con.execute("select sum, count from histogram_points").fetchall() == [(0.2, 1)]
    assert con.execute("select name, value from metric_points").fetchall() == [("orders", 2.0)]
    assert con.execute("select body from logs").fetchall() == [("declined",)]


def test_the_privacy_rules_apply(tmp_path: Path, workspace: Path) -> None:
    rules = load_rules(workspace / "specs" / "privacy.yaml", salt="tests")
    spans = TracerProvider(resource=SHOP)
    spans.add_span_processor(BatchSpanProcessor(SpanExporter(tmp_path, rules)))
    with spans.get_tracer("tests").start_as_current_span("login", attributes={"password": "x"}):
        pass
    spans.shutdown()
    assert query.connect(tmp_path).execute("select attributes from spans").fetchall() == [({},)]


def test_a_disk_that_refuses_is_a_failed_export(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "lake"
    blocked.write_text("a file where the lake should be")
    exporter = SpanExporter(blocked)
    tracer = TracerProvider(resource=SHOP).get_tracer("tests")
    span = tracer.start_span("lost")
    span.end()
    assert exporter.export([span]) is SpanExportResult.FAILURE
    assert "were not exported" in caplog.text


def test_after_shutdown_nothing_is_written(tmp_path: Path) -> None:
    exporter = SpanExporter(tmp_path)
    span = TracerProvider().get_tracer("tests").start_span("late")
    span.end()
    assert exporter.export([span]) is SpanExportResult.SUCCESS
    exporter.shutdown()
    assert exporter.export([span]) is SpanExportResult.FAILURE
    assert count(tmp_path) == 1
