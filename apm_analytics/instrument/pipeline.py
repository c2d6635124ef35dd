"""Build the SDK of this process: providers, exporters and the stages between them.

In:  `InstrumentSettings`, OTEL_* variables.
Out: a `Pipeline`: tracer, meter and logger provider whose telemetry leaves redacted, over OTLP.

OTEL_{TRACES,METRICS,LOGS}_EXPORTER may be `otlp` (the default), `console` or `none`; the protocol
is http/protobuf unless OTEL_EXPORTER_OTLP_PROTOCOL is grpc. OpenTelemetry has removed the Jaeger
and Prometheus exporters: both backends accept OTLP.
"""

import importlib
import logging
import os
import threading
from collections.abc import Sequence
from typing import Any, cast

from opentelemetry.sdk._logs import (
    LoggerProvider,
    LogRecordProcessor,
    ReadableLogRecord,
    ReadWriteLogRecord,
)
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from apm_analytics.foundation.privacy import load_rules
from apm_analytics.instrument.config import InstrumentSettings
from apm_analytics.instrument.counts import Losses
from apm_analytics.instrument.local_traces import LocalTraces
from apm_analytics.instrument.outbox import Outbox
from apm_analytics.instrument.profiling import RequestProfiler
from apm_analytics.instrument.redaction import Redaction
from apm_analytics.instrument.sampling import ConsistentSampler, Live, Policy
from apm_analytics.instrument.spans import LightTracerProvider

LEFT_OUT_LOGGERS = ("opentelemetry.", "urllib3.", "httpx", "httpcore.")
PROTOCOLS = ("http/protobuf", "grpc")
# (Protocol or console, signal) -> the exporter, below the package `opentelemetry`.
EXPORTERS = {
    ("http/protobuf", "TRACES"): "exporter.otlp.proto.http.trace_exporter:OTLPSpanExporter",
    ("http/protobuf", "METRICS"): "exporter.otlp.proto.http.metric_exporter:OTLPMetricExporter",
    ("http/protobuf", "LOGS"): "exporter.otlp.proto.http._log_exporter:OTLPLogExporter",
    ("grpc", "TRACES"): "exporter.otlp.proto.grpc.trace_exporter:OTLPSpanExporter",
    ("grpc", "METRICS"): "exporter.otlp.proto.grpc.metric_exporter:OTLPMetricExporter",
    ("grpc", "LOGS"): "exporter.otlp.proto.grpc._log_exporter:OTLPLogExporter",
    ("console", "TRACES"): "sdk.trace.export:ConsoleSpanExporter",
    ("console", "METRICS"): "sdk.metrics.export:ConsoleMetricExporter",
    ("console", "LOGS"): "sdk._logs.export:ConsoleLogRecordExporter",
}

_log = logging.getLogger(__name__)


class Pipeline:
    """Providers, redaction, queues and exporters of one process.

    Raises
    ------
    BadParameter
        The privacy rules cannot be read; nothing may be sent without them.
    """

    def __init__(self, settings: InstrumentSettings, resource: Resource) -> None:
        redaction = Redaction(load_rules(settings.privacy_rules), settings.graph_hosts)
        resource = redaction.resource(resource)
        self.settings = settings
        self.losses = Losses()
        self.live = Live(
            Policy(
                settings.sample_rate,
                settings.slow_s,
                frozenset(settings.critical_transactions),
                settings.profiling_enabled,
            )
        )
        self._outboxes: list[Outbox[Any]] = []
        self._exporters: list[Any] = []
        self.meters = self._make_meters(resource, redaction)
        self.logs = self._make_logs(resource, redaction)
        self.traces = self._make_traces(resource, redaction)
        self.losses.show(self.meters.get_meter(__name__))

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Send what is queued; return False when it takes longer than the timeout."""
        sent: list[bool] = []

        def send() -> None:
            sent.append(all([outbox.flush(timeout_s) for outbox in self._outboxes]))
            sent.append(self.meters.force_flush(int(timeout_s * 1000)))

        # In a thread that can be abandoned: metric exporters ignore their timeout.
        thread = threading.Thread(target=send, name="apm-flush", daemon=True)
        thread.start()
        thread.join(timeout_s)
        return len(sent) == 2 and all(sent)

    def close(self, timeout_s: float) -> None:
        """Send what is queued and stop, within the timeout even if the receiver hangs."""
        thread = threading.Thread(target=self._close, args=(timeout_s,), daemon=True)
        thread.start()
        thread.join(timeout_s)

    def _close(self, timeout_s: float) -> None:
        for outbox in self._outboxes:
            outbox.close(timeout_s / 2)
        self.meters.shutdown(int(timeout_s * 500))
        for exporter in self._exporters:
            exporter.shutdown()

    def _make_traces(self, resource: Resource, redaction: Redaction) -> TracerProvider:
        sampler = ConsistentSampler(self.live)
        exporter = _exporter("TRACES")
        if exporter is None:
            return LightTracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._exporters.append(exporter)

        def send(spans: Sequence[ReadableSpan]) -> bool:
            return cast(SpanExporter, exporter).export(spans) is SpanExportResult.SUCCESS

        outbox = Outbox.of_environment("spans", redaction.span, send, self.losses, "OTEL_BSP")
        self._outboxes.append(outbox)
        local_traces = LocalTraces(
            outbox.put,
            self.live,
            self.losses,
            timeout_s=self.settings.trace_timeout_s,
            max_spans=self.settings.max_spans_per_trace,
            roots=RequestProfiler(self.live, self.logs, self.settings.profiling_duty),
        )
        return LightTracerProvider(
            local_traces, sampler=sampler, resource=resource, shutdown_on_exit=False
        )

    def _make_logs(self, resource: Resource, redaction: Redaction) -> LoggerProvider:
        provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        exporter = _exporter("LOGS")
        if exporter is None:
            return provider
        self._exporters.append(exporter)

        def send(records: Sequence[ReadableLogRecord]) -> bool:
            result = cast(LogRecordExporter, exporter).export(records)
            return result is LogRecordExportResult.SUCCESS

        outbox = Outbox.of_environment("logs", redaction.log, send, self.losses, "OTEL_BLRP")
        self._outboxes.append(outbox)
        provider.add_log_record_processor(_ToOutbox(outbox))
        return provider

    def _make_meters(self, resource: Resource, redaction: Redaction) -> MeterProvider:
        exporter = _exporter("METRICS")
        readers = []
        if exporter is not None:
            readers.append(
                PeriodicExportingMetricReader(
                    _RedactedMetrics(cast(MetricExporter, exporter), redaction, self.losses)
                )
            )
        return MeterProvider(readers, resource, shutdown_on_exit=False)


class _ToOutbox(LogRecordProcessor):
    """Queue log records.

    Records of the exporters are left out, because sending them would create more, and those of
    HTTP clients, because their spans hold the same.
    """

    def __init__(self, outbox: Outbox[ReadableLogRecord]) -> None:
        self._outbox = outbox

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        scope = log_record.instrumentation_scope
        if scope is not None and scope.name.startswith(LEFT_OUT_LOGGERS):
            return
        self._outbox.put(
            ReadableLogRecord(
                log_record=log_record.log_record,
                resource=log_record.resource or Resource.get_empty(),
                instrumentation_scope=scope,
                limits=log_record.limits,
            )
        )

    def shutdown(self) -> None:
        self._outbox.close(1.0)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._outbox.flush(timeout_millis / 1000)


class _RedactedMetrics(MetricExporter):
    """A metric exporter that applies the privacy rules and counts failed exports."""

    def __init__(self, exporter: MetricExporter, redaction: Redaction, losses: Losses) -> None:
        super().__init__(
            preferred_temporality=exporter._preferred_temporality,
            preferred_aggregation=exporter._preferred_aggregation,
        )
        self._exporter = exporter
        self._redaction = redaction
        self._losses = losses

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        redacted = self._redaction.metrics(metrics_data)
        result = self._exporter.export(redacted, timeout_millis, **kwargs)
        if result is not MetricExportResult.SUCCESS:
            self._losses.add("metrics", "export_failed")
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._exporter.shutdown(timeout_millis, **kwargs)


def _exporter(signal: str) -> SpanExporter | MetricExporter | LogRecordExporter | None:
    """Create the exporter set in the environment; OTLP, with a warning, for an unknown one."""
    name = os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower() or "otlp"
    if name == "none":
        return None
    if name == "console":
        return _load("console", signal)
    if name != "otlp":
        _log.warning(
            "OTEL_%s_EXPORTER: found %r, needs otlp, console or none; otlp is used (it has "
            "replaced the Jaeger, Zipkin and Prometheus exporters)",
            signal,
            name,
        )
    protocol = (
        os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL")
        or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or PROTOCOLS[0]
    ).strip()
    if protocol not in PROTOCOLS:
        _log.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL: found %r, needs one of %s; %s is used",
            protocol,
            ", ".join(PROTOCOLS),
            PROTOCOLS[0],
        )
    return _load(protocol, signal)


def _load(kind: str, signal: str) -> SpanExporter | MetricExporter | LogRecordExporter:
    """Import and create one exporter; the others, and gRPC where unused, are not imported."""
    module, _, name = EXPORTERS[kind, signal].partition(":")
    exporter: SpanExporter | MetricExporter | LogRecordExporter
    exporter = getattr(importlib.import_module(f"opentelemetry.{module}"), name)()
    return exporter
