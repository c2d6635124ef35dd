"""Light spans: what the SDK's spans do, limits and checks when they are sent."""

from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, Tracer, TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode

from apm_analytics.foundation.privacy import load_rules
from apm_analytics.instrument.redaction import Redaction
from apm_analytics.instrument.sampling import ConsistentSampler, Live, Policy
from apm_analytics.instrument.spans import LightSpan, LightTracer, LightTracerProvider

RULES = load_rules(Path(__file__).resolve().parents[2] / "specs" / "privacy.yaml", salt="s")


class Ended(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def tracer_of(kind: str) -> tuple[Any, Ended]:
    sampler = ConsistentSampler(Live(Policy()))
    made = LightTracerProvider if kind == "light" else TracerProvider
    provider = made(sampler=sampler, shutdown_on_exit=False)
    ended = Ended()
    provider.add_span_processor(ended)
    return provider.get_tracer("test", "1"), ended


def a_request(tracer: Any) -> None:
    """Use most of the API, also wrongly."""
    first: dict[str, Any] = {"kind": SpanKind.SERVER, "attributes": {"a": 1}}
    with pytest.raises(ValueError), tracer.start_as_current_span("root", **first) as root:
        root.set_attribute("b", "x")
        root.set_attributes({"c": [1, 2], "a": 2})
        root.update_name("renamed")
        root.add_event("seen", {"k": "v"}, timestamp=5)
        child = tracer.start_span("child", start_time=10)
        child.set_status(StatusCode.OK)
        child.set_status(Status(StatusCode.ERROR, "too late"))
        root.add_link(child.get_span_context(), {"l": 1})
        child.end(20)
        child.end(30)
        raise ValueError("theirs")


def seen(span: ReadableSpan) -> dict[str, Any]:
    return {
        "name": span.name,
        "kind": span.kind,
        "attributes": dict(span.attributes or {}),
        "status": (span.status.status_code, span.status.description),
        "events": [(event.name, sorted(event.attributes or {})) for event in span.events],
        "links": [dict(link.attributes or {}) for link in span.links],
        "root": span.parent is None,
        "scope": span.instrumentation_scope and span.instrumentation_scope.name,
        "flags": span.context and int(span.context.trace_flags),
        "state": span.context and span.context.trace_state.to_header(),
    }


def test_what_the_application_changes_later_is_not_in_the_span() -> None:
    tracer, held = tracer_of("light")
    rows, nested = [1, 2], {"k": ["a"]}
    span = tracer.start_span("s", attributes={"at start": rows})
    span.set_attribute("one", rows)
    span.set_attributes({"several": rows, "nested": nested})  # type: ignore[dict-item]
    span.add_event("seen", {"in event": rows})
    rows.append(3)
    nested["k"].append("b")
    span.end()
    [done] = held.spans
    assert dict(done.attributes or {}) == {
        "at start": (1, 2),
        "one": (1, 2),
        "several": (1, 2),
        "nested": {"k": ("a",)},
    }
    assert dict(done.events[0].attributes or {}) == {"in event": (1, 2)}


def test_a_light_span_says_what_the_sdks_span_says() -> None:
    light, lights = tracer_of("light")
    plain, plains = tracer_of("plain")
    a_request(light)
    a_request(plain)
    assert isinstance(light, LightTracer) and type(plain) is Tracer
    assert isinstance(lights.spans[0], LightSpan) and isinstance(lights.spans[0], Span)
    as_told = [seen(span) for span in lights.spans]
    expected = [seen(span) for span in plains.spans]
    assert as_told == expected
    assert (lights.spans[0].start_time, lights.spans[0].end_time) == (10, 20)


def test_nothing_is_taken_after_the_end() -> None:
    tracer, ended = tracer_of("light")
    span = tracer.start_span("a")
    assert span.is_recording()
    span.end()
    span.set_attribute("late", 1)
    span.set_attributes({"late": 1})
    span.add_event("late")
    span.add_link(span.get_span_context())
    span.update_name("late")
    span.set_status(StatusCode.ERROR)
    assert not span.is_recording() and len(ended.spans) == 1
    assert seen(span) == seen(ended.spans[0]) and "late" not in str(seen(span))


def test_limits_and_checks_come_when_a_span_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4")
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "2")
    tracer, ended = tracer_of("light")
    with tracer.start_as_current_span("a") as span:
        for number in range(5):
            span.set_attribute(f"k{number}", "abcdefgh")
            span.add_event("e")
        span.set_attribute("object", object())
    sent = Redaction(RULES).span(ended.spans[0])
    assert sent.attributes is not None and len(sent.attributes) == 3
    assert set(sent.attributes.values()) <= {"abcd", "<obj"} and sent.dropped_attributes == 3
    assert len(sent.events) == 2


def test_a_disabled_sdk_makes_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracer, ended = tracer_of("light")
    with tracer.start_as_current_span("a"):
        assert not trace.get_current_span().is_recording()
    assert not ended.spans
