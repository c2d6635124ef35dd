"""Profiles keep to their duty cycle; memory growth names the place that allocates."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.trace import SpanKind

from apm_analytics.instrument.profiling import RequestProfiler, fold, memory_growth
from apm_analytics.instrument.sampling import ConsistentSampler, Live, Policy
from apm_analytics.instrument.spans import LightTracerProvider


@pytest.fixture
def logs() -> Iterator[tuple[LoggerProvider, InMemoryLogRecordExporter]]:
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def work(seconds: float) -> int:
    ended, total = time.perf_counter() + seconds, 0
    while time.perf_counter() < ended:
        total += add(total)
    return total


def add(number: int) -> int:
    return number % 3 + 1


def requests(logs: LoggerProvider, live: Live, duty: float, count: int, seconds: float) -> None:
    provider = LightTracerProvider(sampler=ConsistentSampler(live), shutdown_on_exit=False)
    provider.add_span_processor(RequestProfiler(live, logs, duty))
    tracer = provider.get_tracer("test")
    for _ in range(count):
        with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            work(seconds)


def test_one_request_in_a_duty_cycle_is_profiled(
    logs: tuple[LoggerProvider, InMemoryLogRecordExporter],
) -> None:
    live = Live(Policy(profiling_enabled=True))
    requests(logs[0], live, 0.2, 20, 0.02)
    profiles = logs[1].get_finished_logs()
    assert 2 <= len(profiles) <= 6  # about every fifth: 20 ms in 100 ms
    body = str(profiles[0].log_record.body)
    assert ":work" in body and profiles[0].log_record.event_name == "profile.samples"
    assert profiles[0].log_record.trace_id and profiles[0].log_record.span_id


def test_profiling_follows_the_policy_of_the_moment(
    logs: tuple[LoggerProvider, InMemoryLogRecordExporter],
) -> None:
    live = Live(Policy(profiling_enabled=False))
    requests(logs[0], live, 1.0, 3, 0.02)
    assert not logs[1].get_finished_logs()
    live.policy = Policy(profiling_enabled=True)
    requests(logs[0], live, 1.0, 3, 0.02)
    assert len(logs[1].get_finished_logs()) == 3


def test_a_stack_is_folded_with_its_time() -> None:
    first = ["<module>\x00/srv/shop/app.py\x001", "pay; now\x00/srv/shop/pay.py\x0012"]
    session = SimpleNamespace(frame_records=[(first, 0.25), (first, 0.25), ([], 1.0)])
    assert fold([session]) == {"shop/app.py:<module>;shop/pay.py:pay,_now": 500_000}


def test_memory_growth_names_the_line_that_allocates(
    logs: tuple[LoggerProvider, InMemoryLogRecordExporter],
) -> None:
    kept: list[Any] = []
    ended = threading.Event()

    def leak() -> None:
        while not ended.wait(0.01):
            kept.append(bytearray(200_000))  # the leak

    leaking = threading.Thread(target=leak)
    leaking.start()
    memory_growth(0.3, logs[0], top=5).join(20)
    ended.set()
    leaking.join()
    largest = logs[1].get_finished_logs()[0].log_record
    assert largest.event_name == "memory.growth"
    found = dict(largest.attributes or {})
    lines = Path(__file__).read_text().splitlines()
    assert found["code.file.path"] == __file__
    assert "# the leak" in lines[int(str(found["code.line.number"])) - 1]
    assert int(str(found["memory.growth.bytes"])) > 1_000_000
