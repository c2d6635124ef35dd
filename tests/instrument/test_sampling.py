"""Sampling: which traces are kept and with which weight; remote settings; the environment."""

import json
import logging
import random
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from opentelemetry.context import Context, set_value
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from apm_analytics.instrument.config import InstrumentSettings
from apm_analytics.instrument.counts import Losses
from apm_analytics.instrument.local_traces import LocalTraces
from apm_analytics.instrument.remote import RemoteSettings
from apm_analytics.instrument.sampling import (
    CRITICAL,
    NEVER,
    ConsistentSampler,
    Live,
    Policy,
    encoded,
    threshold_of,
    weight,
    with_threshold,
)
from apm_analytics.instrument.spans import LightTracerProvider

SECOND = 10**9


class SeededIds(IdGenerator):
    """Ids that are the same in every run."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1


class Process:
    """A tracer with our sampler and local traces; `kept` is what would be sent."""

    def __init__(self, policy: Policy, **limits: Any) -> None:
        self.kept: list[ReadableSpan] = []
        self.losses = Losses()
        self.live = Live(policy)
        self.traces = LocalTraces(self.kept.append, self.live, self.losses, **limits)
        provider = LightTracerProvider(
            self.traces,
            sampler=ConsistentSampler(self.live),
            id_generator=SeededIds(7),
            shutdown_on_exit=False,
        )
        self.tracer = provider.get_tracer("test")

    def states(self) -> set[str]:
        return {span.context.trace_state.to_header() for span in self.kept if span.context}


def remote_parent(sampled: bool, state: str = "", trace_id: int = 1 << 100) -> Context:
    header = TraceState.from_header([state]) if state else None
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else 0)
    parent = SpanContext(trace_id, 5, is_remote=True, trace_flags=flags, trace_state=header)
    return set_span_in_context(NonRecordingSpan(parent), Context())


@pytest.mark.parametrize(
    ("rate", "expected"),
    [  # the table of OpenTelemetry's specification, precision 4
        (1e-6, "ffffef39"),
        (1e-5, "ffff583a"),
        (1e-4, "fff9724"),
        (1e-3, "ffbe77"),
        (0.01, "fd70a"),
        (1 / 16, "f"),
        (0.1, "e666"),
        (0.2, "cccd"),
        (1 / 3, "aaab"),
        (0.5, "8"),
        (1.0, "0"),
    ],
)
def test_thresholds_are_those_of_the_specification(rate: float, expected: str) -> None:
    assert encoded(threshold_of(rate)) == expected
    assert weight(threshold_of(rate)) == pytest.approx(1 / rate, rel=2e-4)


def test_rate_zero_keeps_nothing() -> None:
    assert threshold_of(0.0) == NEVER
    process = Process(Policy(sample_rate=0.0))
    for _ in range(100):
        process.tracer.start_span("a").end()
    assert process.kept == []


def test_the_rate_is_right_over_100_000_requests() -> None:
    sampler = ConsistentSampler(Live(Policy(sample_rate=0.1)))
    ids = SeededIds(11)
    results = (sampler.should_sample(Context(), ids.generate_trace_id(), "a") for _ in range(10**5))
    kept = sum(result.decision is Decision.RECORD_AND_SAMPLE for result in results)
    assert kept == pytest.approx(10_000, rel=0.01)


def test_weights_give_the_number_of_requests_with_errors_and_slow_ones_among_them() -> None:
    process = Process(Policy(sample_rate=0.1, slow_s=1.0))
    for number in range(20_000):
        span = process.tracer.start_span("request", start_time=0)
        process.tracer.start_span("query", set_span_in_context(span), start_time=0).end(1)
        if number % 50 == 0:
            span.set_status(StatusCode.ERROR)
        span.end(2 * SECOND if number % 100 == 1 else SECOND // 10)
    weights = {"": 0.0, "error": 0.0, "slow": 0.0}
    queries = 0.0
    for span in process.kept:
        assert span.context is not None
        th = span.context.trace_state["ot"].removeprefix("th:")
        one = weight(int(th.ljust(14, "0"), 16))
        if span.name == "query":
            queries += one
        else:
            weights[str((span.attributes or {}).get("sampling.reason", ""))] += one
    assert (weights["error"], weights["slow"]) == (400, 200)  # exact: kept with certainty
    assert sum(weights.values()) == pytest.approx(20_000, rel=0.05)  # 2.1 standard deviations
    assert queries == pytest.approx(sum(weights.values()))


def test_a_failed_child_keeps_its_whole_local_trace() -> None:
    process = Process(Policy(sample_rate=0.0))
    root = process.tracer.start_span("root")
    child = process.tracer.start_span("child", set_span_in_context(root))
    grandchild = process.tracer.start_span("grandchild", set_span_in_context(child))
    grandchild.set_status(StatusCode.ERROR)
    for span in (grandchild, child, root):
        span.end()
    assert {span.name for span in process.kept} == {"root", "child", "grandchild"}
    assert process.states() == {"ot=th:0"}
    assert process.traces.open_traces() == 0


def test_a_child_that_ends_after_its_root_follows_the_decision() -> None:
    for rate, names in ((1.0, {"root", "late"}), (0.0, set())):
        process = Process(Policy(sample_rate=rate))
        root = process.tracer.start_span("root")
        late = process.tracer.start_span("late", set_span_in_context(root))
        root.end()
        late.end()
        assert {span.name for span in process.kept} == names


def test_a_critical_context_is_sampled_and_says_so_downstream() -> None:
    process = Process(Policy(sample_rate=0.0))
    root = process.tracer.start_span("root")
    below = set_value(CRITICAL, True, set_span_in_context(root))
    critical = process.tracer.start_span("critical", below)
    call = process.tracer.start_span("call", set_span_in_context(critical))
    context = call.get_span_context()
    assert context.trace_flags.sampled and context.trace_state.to_header() == "ot=th:0"
    for span in (call, critical, root):
        span.end()
    assert len(process.kept) == 3 and process.states() == {"ot=th:0"}


@pytest.mark.parametrize(
    ("sampled", "state", "expected", "kept"),
    [
        (True, "ot=th:c;rv:d0000000000000", "ot=th:c;rv:d0000000000000", True),
        (True, "ot=th:c;rv:10000000000000", "ot=rv:10000000000000", True),  # does not fit
        (True, "other=1", "other=1", True),
        (True, "ot=th:zz,other=1", "other=1", True),
        (True, "", "", True),
        (False, "ot=th:c;rv:d0000000000000,other=1", "ot=rv:d0000000000000,other=1", False),
    ],
)
def test_a_remote_parent_decides_and_its_threshold_must_fit(
    sampled: bool, state: str, expected: str, kept: bool
) -> None:
    process = Process(Policy(sample_rate=0.5))
    span = process.tracer.start_span("a", remote_parent(sampled, state))
    span.end()
    assert span.get_span_context().trace_state.to_header() == expected
    assert bool(process.kept) is kept


def test_another_vendors_trace_state_stays() -> None:
    state = TraceState.from_header(["a=1,ot=th:8;x:y,b=2"])
    assert with_threshold(state, 0).to_header() == "ot=th:0;x:y,a=1,b=2"
    assert with_threshold(state, None).to_header() == "ot=x:y,a=1,b=2"


def test_a_trace_with_too_many_spans_loses_some_and_counts_them() -> None:
    process = Process(Policy(), max_spans=10)
    root = process.tracer.start_span("root")
    for _ in range(30):
        process.tracer.start_span("child", set_span_in_context(root)).end()
    root.end()
    assert len(process.kept) == 10
    assert process.losses.by_reason() == {("spans", "trace_too_long"): 21}


def test_a_trace_that_never_ends_is_decided_after_the_timeout() -> None:
    process = Process(Policy(sample_rate=0.0), timeout_s=0.0)
    stuck = process.tracer.start_span("stuck")
    process.tracer.start_span("child", set_span_in_context(stuck)).end()
    process.tracer.start_span("next").end()
    assert [span.name for span in process.kept] == ["child"]
    assert process.traces.open_traces() == 0


def test_the_profiler_hears_of_every_end_also_after_the_timeout() -> None:
    class Heard(SpanProcessor):
        names: ClassVar[list[str]] = []

        def on_end(self, span: ReadableSpan) -> None:
            self.names.append(span.name)

    process = Process(Policy(), timeout_s=0.0, roots=Heard())
    stuck = process.tracer.start_span("stuck")
    process.tracer.start_span("child", set_span_in_context(stuck)).end()
    process.tracer.start_span("next").end()
    stuck.end()
    assert Heard.names == ["next", "stuck"]


def test_an_exception_of_ours_never_reaches_the_application() -> None:
    def broken(_: ReadableSpan) -> None:
        raise RuntimeError("ours")

    losses = Losses()
    live = Live(Policy())
    traces = LocalTraces(broken, live, losses)
    provider = LightTracerProvider(traces, sampler=ConsistentSampler(live), shutdown_on_exit=False)
    provider.get_tracer("test").start_span("a").end()
    assert losses.by_reason() == {("spans", "failed"): 1}


@pytest.fixture
def say(tmp_path: Path) -> Callable[[Any], None]:
    def write(content: Any) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "remote.json").write_text(text)

    return write


def test_remote_settings_change_a_running_process(
    tmp_path: Path, say: Callable[[Any], None]
) -> None:
    process = Process(Policy(sample_rate=0.0))
    asked: list[float] = []
    remote = RemoteSettings(
        str(tmp_path / "remote.json"), process.live, on_memory=asked.append, poll_s=60
    )
    say({"sample_rate": 1})
    assert remote.poll()
    process.tracer.start_span("a").end()
    assert len(process.kept) == 1
    say({"critical_transactions": ["checkout"], "memory_seconds": 5})
    assert remote.poll() and not remote.poll()
    assert process.live.policy == Policy(
        sample_rate=0.0, critical_transactions=frozenset({"checkout"})
    )
    assert asked == [5.0]


@pytest.mark.parametrize(
    ("content", "needed"),
    [
        ("{", "no JSON"),
        ("[]", "an object"),
        ({"sample_rate": 2}, "from 0 to 1"),
        ({"sample_rate": True}, "from 0 to 1"),
        ({"sample_rat": 0.1}, "sample_rat"),
        ({"critical_transactions": "checkout"}, "a list"),
        ("x" * 100_000, "small JSON"),
    ],
)
def test_bad_remote_settings_leave_the_old_ones_and_are_said_once(
    tmp_path: Path,
    say: Callable[[Any], None],
    caplog: pytest.LogCaptureFixture,
    content: Any,
    needed: str,
) -> None:
    live = Live(Policy(sample_rate=0.25))
    remote = RemoteSettings(str(tmp_path / "remote.json"), live)
    say(content)
    assert not remote.poll() and not remote.poll()
    assert live.policy.sample_rate == 0.25
    [record] = caplog.records
    assert needed in record.message and "stay unchanged" in record.message


@pytest.fixture
def http_settings() -> Iterator[tuple[str, dict[str, bytes]]]:
    answer = {"body": b'{"sample_rate": 0.5}'}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_: Any) -> None:
            """Write no log line."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/settings", answer
    server.shutdown()
    thread.join()
    server.server_close()


def test_remote_settings_come_over_http_too(
    http_settings: tuple[str, dict[str, bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    url, answer = http_settings
    live = Live(Policy())
    remote = RemoteSettings(url, live)
    assert remote.poll() and live.policy.sample_rate == 0.5
    answer["body"] = b"<html>"
    assert not remote.poll() and live.policy.sample_rate == 0.5


def test_settings_come_from_the_environment() -> None:
    read = InstrumentSettings.from_environment
    assert read({}) == InstrumentSettings()
    assert read({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}).sample_rate == 1.0
    ratio = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.2"}
    assert read(ratio).sample_rate == 0.2
    assert read({**ratio, "APM_SAMPLE_RATE": "0.3"}).sample_rate == 0.3
    settings = read(
        {
            "APM_ENABLED": "off",
            "APM_TRACE_TIMEOUT": "5",
            "APM_MAX_SPANS_PER_TRACE": "50",
            "APM_PROFILING_ENABLED": "true",
            "APM_OWN_HOSTS": "a.example, *.b.example",
        }
    )
    assert not settings.enabled and settings.profiling_enabled
    assert (settings.trace_timeout_s, settings.max_spans_per_trace) == (5.0, 50)
    assert settings.own_hosts == ("a.example", "*.b.example")


def test_a_bad_setting_is_said_and_its_default_used(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        settings = InstrumentSettings.from_environment(
            {"APM_SAMPLE_RATE": "10%", "APM_ENABLED": "maybe", "OTEL_TRACES_SAMPLER": "jaeger"}
        )
    assert settings == InstrumentSettings()
    text = "\n".join(record.message for record in caplog.records)
    assert "APM_SAMPLE_RATE: found '10%', needs a number from 0 to 1" in text
    assert "APM_ENABLED" in text and "jaeger" in text
