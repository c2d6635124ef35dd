"""Hold the spans of a trace until its local root ends, then keep or drop them together.

In:  every recorded span of this process.
Out: the spans to send, with an `ot=th` that makes weighted counts correct.

A local trace is what one request does in one process: its local root has no parent here. When the
root ends, its spans are sent whole
- with threshold 0 (each counts once) when a span failed, the root was slow, or a critical
  transaction ran: such a trace is kept whatever its random bits are, so its probability is 1;
- with the threshold of the head decision when that sampled the trace;
- otherwise not at all.

Across services: the head decision travels in the trace flags, so the traces that it keeps are whole
in every service. A trace that is kept only because it failed or was slow in this process is whole
here alone; other services keep their part only if they have a reason too. Weighted counts stay
correct in each service, because each decides about every request that reaches it.
"""

import time
from collections.abc import Callable

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanContext, StatusCode, TraceFlags

from apm_analytics.instrument.business import add_business_context
from apm_analytics.instrument.counts import Losses
from apm_analytics.instrument.sampling import CRITICAL, Live, with_threshold
from apm_analytics.instrument.spans import LightSpan

MAX_HELD = 50_000  # spans held in total, to bound memory during a stall
REASON = "sampling.reason"


class _LocalTrace:
    """The state of one local trace; `keep` is None until its root has ended."""

    __slots__ = ("keep", "reason", "root", "spans", "started_s")

    def __init__(self, root: LightSpan, started_s: float) -> None:
        self.root: LightSpan | None = root
        self.started_s = started_s
        self.spans: list[LightSpan] = []
        self.reason = ""  # why it must be kept
        self.keep: bool | None = None


class LocalTraces:
    """Decide about whole local traces; safe to share between threads.

    Parameters
    ----------
    forward : called with each span that is kept.
    live : the current policy, for the limit of slow requests.
    losses : counts dropped spans.
    timeout_s : a trace that is open for longer is decided with the spans that it has.
    max_spans : maximum per local trace; more are dropped and counted.
    roots : called at the start and the end of local roots.
    """

    def __init__(
        self,
        forward: Callable[[ReadableSpan], None],
        live: Live,
        losses: Losses,
        *,
        timeout_s: float = 60.0,
        max_spans: int = 1000,
        roots: SpanProcessor | None = None,
    ) -> None:
        self._forward = forward
        self._live = live
        self._losses = losses
        self._timeout_s = timeout_s
        self._max_spans = max_spans
        self._roots = roots
        self._open: dict[_LocalTrace, None] = {}  # oldest first
        self._held = 0

    def began(self, span: LightSpan) -> None:
        """Assign a new span to its local trace, or start one; never raises."""
        try:
            above = span.above
            if above is not None:
                trace = above.local
                if trace is not None and trace.keep is None:
                    span.local = trace
                    if CRITICAL in span.within:
                        trace.reason = trace.reason or "critical"
                    return
            self._begin(span)
        except Exception:
            self._losses.add("spans", "failed")

    def ended(self, span: LightSpan) -> None:
        """Hold a span, or decide its trace when it is the root; never raises."""
        try:
            self._ended(span)
        except Exception:
            self._losses.add("spans", "failed")

    def open_traces(self) -> int:
        """Return the number of local traces that are not decided yet."""
        return len(self._open)

    def _begin(self, span: LightSpan) -> None:
        span.local = trace = _LocalTrace(span, time.monotonic())
        self._expire(trace.started_s - self._timeout_s)
        self._open[trace] = None
        if CRITICAL in span.within:
            trace.reason = "critical"
        if self._roots is not None and span.above is None:
            self._roots.on_start(span, span.within)

    def _ended(self, span: LightSpan) -> None:
        if self._roots is not None and span.above is None:
            self._roots.on_end(span)  # also when the timeout has decided its trace
        trace: _LocalTrace | None = span.local
        failed = span._status.status_code is StatusCode.ERROR
        if trace is None or trace.keep is not None:  # its trace is decided already
            reason = "error" if failed else trace.reason if trace else ""
            self._send(span, reason)
            return
        if failed and not trace.reason:
            trace.reason = "error"
        if span is not trace.root:
            if len(trace.spans) >= self._max_spans - 1 or self._held >= MAX_HELD:
                self._losses.add("spans", "trace_too_long")
            else:
                self._held += 1
                trace.spans.append(span)
                if trace.keep is not None:  # another thread decided meanwhile
                    self._release(trace)
            return
        if not trace.reason and _seconds(span) >= self._live.policy.slow_s:
            trace.reason = "slow"
        self._decide(trace, span._context.trace_flags.sampled)
        self._send(span, trace.reason)

    def _decide(self, trace: _LocalTrace, sampled: bool) -> None:
        self._open.pop(trace, None)
        trace.root = None  # no reference cycle: dropped spans are freed at once
        trace.keep = sampled or bool(trace.reason)
        self._release(trace)

    def _release(self, trace: _LocalTrace) -> None:
        spans, trace.spans = trace.spans, []
        self._held -= len(spans)
        if trace.keep:
            for span in spans:
                self._send(span, trace.reason)

    def _send(self, span: LightSpan, reason: str) -> None:
        if reason:
            add_business_context(span)
            self._forward(_certain(span, reason))
        elif span._context.trace_flags.sampled:
            add_business_context(span)
            self._forward(span)

    def _expire(self, before_s: float) -> None:
        """Decide the oldest trace, as slow, if it was started before a time."""
        try:
            trace = next(iter(self._open))
        except (StopIteration, RuntimeError):  # none, or changed by another thread
            return
        if trace.started_s < before_s:
            trace.reason = trace.reason or "slow"
            self._decide(trace, sampled=False)


def _seconds(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e9


def _certain(span: ReadableSpan, reason: str) -> ReadableSpan:
    """Return the span as one that was kept with probability 1."""
    old = span.context
    assert old is not None
    context = SpanContext(
        old.trace_id,
        old.span_id,
        is_remote=False,
        trace_flags=TraceFlags(old.trace_flags | TraceFlags.SAMPLED),
        trace_state=with_threshold(old.trace_state, 0),
    )
    return ReadableSpan(
        name=span.name,
        context=context,
        parent=span.parent,
        resource=span.resource,
        attributes={**(span.attributes or {}), REASON: reason},
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
