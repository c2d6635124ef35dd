"""Spans that cost little to record, since nine in ten are never sent.

In:  calls of the OpenTelemetry API, from the instrumentations and the application.
Out: spans as the SDK's, which their processors see at start and end.

The SDK's own span copies, locks and checks every attribute when it is set, and copies the span
when it ends. These keep what they are given; limits and checks come when a span is sent, see
`redaction`. A span takes a third of the SDK's time.
"""

from collections.abc import Mapping, Sequence
from time import time_ns
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, Span, SpanLimits, SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
)

from apm_analytics.instrument.sampling import ConsistentSampler

_FLAGS = [TraceFlags(flags) for flags in range(4)]
_UNSET = Status(StatusCode.UNSET)


class LightSpan(Span):
    """A span of the SDK that keeps what it is given; nothing is taken after its end."""

    def __init__(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None,
        links: Sequence[Link] | None,
        resource: Resource,
        scope: InstrumentationScope,
        processor: SpanProcessor,
        limits: SpanLimits,
        record_exception: bool,
        set_status_on_exception: bool,
    ) -> None:
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._attributes: dict[str, Any] = dict(attributes) if attributes else {}
        self._events: list[Event] = []
        self._links: list[Link] = list(links) if links else []
        self._resource = resource
        self._instrumentation_scope = scope
        self._instrumentation_info = None
        self._status = _UNSET
        self._start_time: int | None = None
        self._end_time: int | None = None
        self._span_processor = processor
        self._limits = limits
        self._record_exception = record_exception
        self._set_status_on_exception = set_status_on_exception

    def set_attribute(self, key: str, value: Any) -> None:
        if self._end_time is None:
            self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        if self._end_time is None:
            self._attributes.update(attributes)

    def add_event(
        self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None
    ) -> None:
        most = self._limits.max_events
        if self._end_time is None and (most is None or len(self._events) < most):
            self._events.append(Event(name, dict(attributes or {}), timestamp))

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        most = self._limits.max_links
        if self._end_time is None and (most is None or len(self._links) < most):
            self._links.append(Link(context, dict(attributes or {})))

    def update_name(self, name: str) -> None:
        if self._end_time is None:
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        new = status if isinstance(status, Status) else Status(status, description)
        final = self._status.status_code is StatusCode.OK  # an application's OK is the last word
        if self._end_time is None and not final and new.status_code is not StatusCode.UNSET:
            self._status = new

    def end(self, end_time: int | None = None) -> None:
        if self._end_time is None:
            self._end_time = time_ns() if end_time is None else end_time
            self._span_processor.on_end(self)


class LightTracer(Tracer):
    """The SDK's tracer, with light spans and our sampler asked directly."""

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        above = get_current_span(context).get_span_context()
        ids = self.id_generator
        if above.is_valid:
            parent: SpanContext | None = above
            trace_id = above.trace_id
            random = above.trace_flags & TraceFlags.RANDOM_TRACE_ID
        else:
            parent = None
            trace_id = ids.generate_trace_id()
            random = TraceFlags.RANDOM_TRACE_ID if ids.is_trace_id_random() else 0
        assert isinstance(self.sampler, ConsistentSampler)
        sampled, state = self.sampler.decide(context, above, trace_id)
        span_context = SpanContext(
            trace_id,
            ids.generate_span_id(),
            is_remote=False,
            trace_flags=_FLAGS[random | sampled],
            trace_state=state,
        )
        span = LightSpan(
            name,
            span_context,
            parent,
            kind,
            attributes,
            links,
            self.resource,
            self._instrumentation_scope,
            self.span_processor,
            self._span_limits,
            record_exception,
            set_status_on_exception,
        )
        span._start_time = time_ns() if start_time is None else start_time
        self.span_processor.on_start(span, parent_context=context)
        return span


class LightTracerProvider(TracerProvider):
    """The SDK's provider, whose tracers make light spans."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
        """Give the tracer of an instrumentation."""
        tracer = super().get_tracer(*args, **kwargs)
        if type(tracer) is Tracer:  # not where the SDK is disabled
            tracer.__class__ = LightTracer
        return tracer
