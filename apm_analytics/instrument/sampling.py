"""Decide which traces are kept: consistent probability sampling, recorded in `ot=th`.

In:  the sampling rate, the parent's trace flags and trace state, 56 random bits.
Out: a decision for every new span, and a trace state from which counts can be weighted.

Every span is recorded; a span that is not sampled here is still kept when its local trace turns out
to be failed, slow or critical, see `local_traces`. The formats are those of OpenTelemetry's
"TraceState: Probability Sampling" [1]_.

References
----------
.. [1] https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from opentelemetry.context import Context, create_key, get_value
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

RANDOM_BITS = 56
NEVER = 1 << RANDOM_BITS  # a threshold above all random values
DIGITS = RANDOM_BITS // 4
PRECISION = 4  # hexadecimal digits of a threshold after leading 0s or fs, as the SDKs do
CRITICAL = create_key("apm-critical")  # set in a context: spans below are sampled

_HEX = re.compile(r"[0-9a-f]{1,14}")


@dataclass(frozen=True)
class Policy:
    """Settings that can change while the service runs."""

    sample_rate: float = 1.0
    slow_s: float = 1.0
    critical_transactions: frozenset[str] = frozenset()
    profiling_enabled: bool = False


class Live:
    """Holds the current policy; one write replaces it for all readers."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy


class ConsistentSampler(Sampler):
    """Sample by the parent's decision, at a root by the rate, and always if critical."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Return the decision for a new span, as the SDK's interface; every span is recorded."""
        parent = get_current_span(parent_context).get_span_context()
        sampled, state = self.decide(parent_context, parent, trace_id)
        decision = Decision.RECORD_AND_SAMPLE if sampled else Decision.RECORD_ONLY
        return SamplingResult(decision, attributes, state)

    def decide(
        self, context: Context | None, parent: SpanContext, trace_id: int
    ) -> tuple[bool, TraceState | None]:
        """Return whether a new span is sampled, and its trace state."""
        if get_value(CRITICAL, context):
            return True, with_threshold(parent.trace_state, 0)
        if not parent.is_valid:
            threshold = threshold_of(self._live.policy.sample_rate)
            sampled = threshold <= trace_id & (NEVER - 1)
            return sampled, _state_of_root(threshold) if sampled else None
        sampled = parent.trace_flags.sampled
        state = parent.trace_state
        if parent.is_remote and state:
            state = _state_of_remote(state, trace_id, sampled)
        return sampled, state

    def get_description(self) -> str:
        """Return the sampler's name with its current rate."""
        return f"ApmConsistent{{{self._live.policy.sample_rate}}}"


@lru_cache(maxsize=64)
def threshold_of(rate: float) -> int:
    """Return the rejection threshold of a sampling rate, rounded to `PRECISION` digits.

    Examples
    --------
    >>> encoded(threshold_of(0.1)), encoded(threshold_of(1.0)), encoded(threshold_of(0.0001))
    ('e666', '0', 'fff9724')
    """
    if rate >= 1.0:
        return 0
    if rate < 2.0**-RANDOM_BITS:
        return NEVER
    _, exponent = math.frexp(rate)
    _, exponent_rejected = math.frexp(1 - rate)
    digits = min(DIGITS, PRECISION + max(-exponent // 4, -exponent_rejected // 4))
    steps = 1 << 4 * digits
    rounded = min(round((1 - rate) * steps), steps - 1)
    return rounded << RANDOM_BITS - 4 * digits


def encoded(threshold: int) -> str:
    """Return the `th` value: hexadecimal without trailing zeros."""
    return f"{threshold:0{DIGITS}x}".rstrip("0") or "0"


def weight(threshold: int) -> float:
    """Return how many spans one kept span represents."""
    return NEVER / (NEVER - threshold)


def with_threshold(state: TraceState | None, threshold: int | None) -> TraceState:
    """Return the trace state with another `th` (None: without), otherwise unchanged."""
    members = [m for m in _members(state) if not m.startswith("th:")]
    if threshold is not None:
        members.insert(0, f"th:{encoded(threshold)}")
    others = [(key, value) for key, value in (state or {}).items() if key != "ot"]
    if not members:
        return TraceState(others)
    if not others:
        return _state_of(";".join(members))
    return TraceState([("ot", ";".join(members)), *others])


@lru_cache(maxsize=256)
def _state_of(value: str) -> TraceState:
    return TraceState([("ot", value)])


@lru_cache(maxsize=64)
def _state_of_root(threshold: int) -> TraceState:
    return _state_of(f"th:{encoded(threshold)}")


def _state_of_remote(state: TraceState, trace_id: int, sampled: bool) -> TraceState:
    """Keep a parent's threshold only where it agrees with the parent's decision."""
    members = {m[:3]: m[3:] for m in _members(state)}
    if "th:" not in members:
        return state
    randomness = trace_id & (NEVER - 1)
    explicit = members.get("rv:", "")
    if len(explicit) == DIGITS and _HEX.fullmatch(explicit):
        randomness = int(explicit, 16)
    value = members["th:"]
    threshold = int(value.ljust(DIGITS, "0"), 16) if _HEX.fullmatch(value) else NEVER
    if sampled and threshold <= randomness:
        return state
    return with_threshold(state, None)


def _members(state: TraceState | None) -> list[str]:
    value = state.get("ot") if state else None
    return value.split(";") if value else []
