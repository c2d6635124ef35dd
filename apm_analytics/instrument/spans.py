"""Record spans cheaply, because nine in ten are never sent.

In:  calls of the OpenTelemetry API, from the instrumentations and the application.
Out: spans of the SDK's type, which the processors see at start and end.

The SDK's own span locks and checks every attribute when it is set, and copies the span when it
ends. A light span only copies sequences; limits and checks are applied when it is sent, see
`redaction`. A span below another of this process belongs to the same trace and shares its
decision, so its id is drawn on first use. `SpanHolder` is called directly, other processors as the
SDK calls them.
"""

from collections.abc import Mapping, Sequence
from time import time_ns
from typing import Any, Protocol

from opentelemetry.context import Context, get_current
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

from apm_analytics.instrument.sampling import CRITICAL, ConsistentSampler

_FLAGS = [TraceFlags(flags) for flags in range(4)]
_UNSET = Status(StatusCode.UNSET)
# Types of values that nobody can change after they were set.
_FIXED = frozenset((str, int, float, bool, bytes, type(None)))


class LightSpan(Span):
    """A span of the SDK without copies and checks; it is read-only after its end.

    `above` is its parent span in this process, None for a local root; `within` the context that it
    began in; `local` the state of its local trace, see `local_traces`.
    """

    # Class attributes: most spans never set them.
    _made: SpanContext | None = None
    _from: SpanContext | None = None
    _events: Any = ()
    _links: Any = ()
    _instrumentation_info = None
    _status = _UNSET
    _end_time: int | None = None
    _record_exception = True
    _set_status_on_exception = True
    local: Any = None

    def __init__(
        self,
        tracer: "LightTracer",
        above: "LightSpan | None",
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None,
        start_time: int | None,
        within: Context,
    ) -> None:
        self._tracer = tracer
        self.above = above
        self.within = within
        self._name = name
        self._kind = kind
        self._attributes: dict[str, Any] = _kept(attributes) if attributes else {}
        self._start_time = time_ns() if start_time is None else start_time

    @property
    def _context(self) -> SpanContext:  # type: ignore[override]
        made = self._made
        if made is None:
            above = self.above
            assert above is not None  # a local root gets its context at once
            trace_id, _, _, flags, state, _ = above._context
            span_id = self._tracer.id_generator.generate_span_id()
            made = SpanContext(trace_id, span_id, False, flags, state)
            made = self.__dict__.setdefault("_made", made)  # the same for all threads
        return made

    @property
    def _parent(self) -> SpanContext | None:  # type: ignore[override]
        return self._from if self.above is None else self.above._context

    @property
    def _resource(self) -> Resource:  # type: ignore[override]
        return self._tracer.resource

    @property
    def _instrumentation_scope(self) -> InstrumentationScope:  # type: ignore[override]
        return self._tracer._instrumentation_scope

    @property
    def _limits(self) -> SpanLimits:
        return self._tracer._span_limits

    @property
    def _span_processor(self) -> SpanProcessor:  # type: ignore[override]
        return self._tracer.span_processor

    def set_attribute(self, key: str, value: Any) -> None:
        if self._end_time is None:
            self._attributes[key] = value if type(value) in _FIXED else _copied(value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        if self._end_time is None:
            self._attributes.update(_kept(attributes))

    def add_missing(self, attributes: Mapping[str, Any]) -> None:
        """Set the attributes that the span does not have, also after its end."""
        self._attributes = {**attributes, **self._attributes}

    def add_event(
        self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None
    ) -> None:
        most = self._limits.max_events
        if self._end_time is None and (most is None or len(self._events) < most):
            self._events = self._events or []
            self._events.append(Event(name, _kept(attributes or {}), timestamp))

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        most = self._limits.max_links
        if self._end_time is None and (most is None or len(self._links) < most):
            self._links = self._links or []
            self._links.append(Link(context, _kept(attributes or {})))

    def update_name(self, name: str) -> None:
        if self._end_time is None:
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        new = status if isinstance(status, Status) else Status(status, description)
        final = self._status.status_code is StatusCode.OK  # an OK of the application is final
        if self._end_time is None and not final and new.status_code is not StatusCode.UNSET:
            self._status = new

    def end(self, end_time: int | None = None) -> None:
        if self._end_time is None:
            self._end_time = time_ns() if end_time is None else end_time
            self._tracer.ended(self)


def _kept(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Copy attributes and the sequences in them."""
    return {
        key: value if type(value) in _FIXED else _copied(value) for key, value in attributes.items()
    }


def _copied(value: Any) -> Any:
    """Return a sequence or mapping that its owner cannot change any more; other values as is."""
    if isinstance(value, Mapping):
        return _kept(value)
    if isinstance(value, (list, tuple)):
        return tuple(one if type(one) in _FIXED else _copied(one) for one in value)
    return value


class SpanHolder(Protocol):
    """Called at the start and the end of every span; `LocalTraces` is one."""

    def began(self, span: LightSpan) -> None: ...

    def ended(self, span: LightSpan) -> None: ...


class LightTracer(Tracer):
    """The SDK's tracer, with light spans and direct calls of our sampler."""

    provider: "LightTracerProvider"

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
        present = get_current() if context is None else context
        above = get_current_span(present)
        if type(above) is LightSpan:
            span = LightSpan(self, above, name, kind, attributes, start_time, present)
            if CRITICAL in present:
                self._decide(span, present, above._context)
        else:
            span = LightSpan(self, None, name, kind, attributes, start_time, present)
            self._decide(span, present, above.get_span_context())
        if links:
            span._links = list(links)
        if not record_exception:
            span._record_exception = False
        if not set_status_on_exception:
            span._set_status_on_exception = False
        provider = self.provider
        if provider.local_traces is not None:
            provider.local_traces.began(span)
        if provider.has_others:
            self.span_processor.on_start(span, parent_context=present)
        return span

    def ended(self, span: LightSpan) -> None:
        """Notify the processors of the end of a span."""
        provider = self.provider
        if provider.local_traces is not None:
            provider.local_traces.ended(span)
        if provider.has_others:
            self.span_processor.on_end(span)

    def _decide(self, span: LightSpan, context: Context, parent: SpanContext) -> None:
        """Set the ids of a span and whether it is sampled."""
        ids = self.id_generator
        if parent.is_valid:
            span._from = parent
            trace_id = parent.trace_id
            random = parent.trace_flags & TraceFlags.RANDOM_TRACE_ID
        else:
            trace_id = ids.generate_trace_id()
            random = TraceFlags.RANDOM_TRACE_ID if ids.is_trace_id_random() else 0
        assert isinstance(self.sampler, ConsistentSampler)
        sampled, state = self.sampler.decide(context, parent, trace_id)
        span._made = SpanContext(
            trace_id,
            ids.generate_span_id(),
            is_remote=False,
            trace_flags=_FLAGS[random | sampled],
            trace_state=state,
        )


class LightTracerProvider(TracerProvider):
    """The SDK's provider, whose tracers create light spans.

    Parameters
    ----------
    local_traces : decides which spans are sent; with None no span is sent.
    kwargs : arguments of the SDK's provider; the sampler must be a `ConsistentSampler`.
    """

    def __init__(self, local_traces: SpanHolder | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.local_traces = local_traces
        self.has_others = False  # further processors

    def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tracer of an instrumentation."""
        tracer = super().get_tracer(*args, **kwargs)
        if type(tracer) is Tracer:  # not where the SDK is disabled
            tracer.__class__ = LightTracer
        if isinstance(tracer, LightTracer):
            tracer.provider = self
        return tracer

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Call a processor at the start and end of each span."""
        super().add_span_processor(span_processor)
        self.has_others = True
