"""Exporters for the OpenTelemetry Python SDK that write into the lake without a server.

In:  spans, metrics and log records of the SDK in this process.
Out: the same parts that `apm receive` writes, one snapshot per export, on the disk on return.

For a batch job, a notebook, or a service with a few hundred records per second. A busier service
should send to `apm receive`, which writes larger parts outside the service's process.
"""

import logging
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics import export as sdk_metrics
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import export as sdk_trace
from opentelemetry.sdk.trace.export import SpanExportResult

from apm_analytics.foundation.errors import ApmError
from apm_analytics.foundation.privacy import PrivacyRules
from apm_analytics.ingest.redaction.requests import Redactor
from apm_analytics.ingest.staging import Stage, Taken, write_letters
from apm_analytics.ingest.units import Units
from apm_analytics.lake import snapshots
from apm_analytics.lake.journal import Entry

_log = logging.getLogger(__name__)


class _Writer:
    """Writes requests of one signal into a lake; thread-safe."""

    def __init__(self, signal: str, lake: Path, rules: PrivacyRules | None) -> None:
        self._signal = signal
        self._lake = lake
        self._units = Units(lake)
        self._redactor = Redactor(rules or PrivacyRules([], [], b""))
        self._lock = threading.Lock()
        self._closed = False

    def write(self, request: Message) -> bool:
        """Write one request; log an error and return False if that failed."""
        with self._lock:
            if self._closed:
                return False
            try:
                payload = request.SerializeToString()
                stage = Stage(self._units, len(payload))
                (result,) = stage.take([Entry(self._signal, payload)], self._redactor)
                if not isinstance(result, Taken):
                    raise result
                rows = stage.finish()
                document = f"exporter:{uuid.uuid4().hex}"
                write_letters(self._lake, document, rows.letters)
                snapshots.append(
                    self._lake, rows.tables, documents=[document], source="in-process exporter"
                )
            except ApmError as error:
                _log.error("%s were not exported: %s", self._signal, error)
                return False
        return True

    def close(self) -> None:
        """Refuse later requests."""
        with self._lock:
            self._closed = True


class SpanExporter(sdk_trace.SpanExporter):
    """Write spans into a lake.

    Parameters
    ----------
    lake : folder of the lake, created if missing.
    rules : privacy rules, applied before anything is written.

    Examples
    --------
    >>> from opentelemetry.sdk.trace import TracerProvider
    >>> from opentelemetry.sdk.trace.export import BatchSpanProcessor
    >>> provider = TracerProvider()
    >>> exporter = SpanExporter(Path("data/lake"))
    >>> provider.add_span_processor(BatchSpanProcessor(exporter))  # doctest: +SKIP
    """

    def __init__(self, lake: Path, rules: PrivacyRules | None = None) -> None:
        self._writer = _Writer("traces", lake, rules)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write a batch; on SUCCESS it is on the disk."""
        written = self._writer.write(encode_spans(spans))
        return SpanExportResult.SUCCESS if written else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Refuse later batches."""
        self._writer.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: every export writes at once."""
        return True


class MetricExporter(sdk_metrics.MetricExporter):
    """Write metrics into a lake; see `SpanExporter`. `options` go to the SDK's exporter."""

    def __init__(self, lake: Path, rules: PrivacyRules | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._writer = _Writer("metrics", lake, rules)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any
    ) -> MetricExportResult:
        """Write a batch; on SUCCESS it is on the disk."""
        written = self._writer.write(encode_metrics(metrics_data))
        return MetricExportResult.SUCCESS if written else MetricExportResult.FAILURE

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Refuse later batches."""
        self._writer.close()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Return True: every export writes at once."""
        return True


class LogExporter(LogRecordExporter):
    """Write log records into a lake; see `SpanExporter`."""

    def __init__(self, lake: Path, rules: PrivacyRules | None = None) -> None:
        self._writer = _Writer("logs", lake, rules)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Write a batch; on SUCCESS it is on the disk."""
        written = self._writer.write(encode_logs(batch))
        return LogRecordExportResult.SUCCESS if written else LogRecordExportResult.FAILURE

    def shutdown(self) -> None:
        """Refuse later batches."""
        self._writer.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: every export writes at once."""
        return True
