"""A wrong clock of the receiver's own machine is doubted, and a sender's wrong clock is not ours.

The last test runs a receiver under libfaketime; the others set what `receiver.clock` reads.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import otlp_requests
import pytest
from live_receiver import count, wait_until

from apm_analytics.ingest.receiver import clock
from apm_analytics.ingest.receiver.clock import DOUBT_S, LIVE_S, MOST_STEP_DOUBT_S, Clock
from apm_analytics.ingest.staging import times
from apm_analytics.lake.journal import Entry

HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S
NOW_S = 1.8e9


class Machine:
    """The clocks that `receiver.clock` reads."""

    def __init__(self) -> None:
        self.wall_s, self.steady_s = NOW_S, 1_000.0

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME

    def time(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.steady_s

    def clock_gettime(self, _: int) -> float:
        return self.steady_s

    def wait(self, seconds: float) -> None:
        self.wall_s += seconds
        self.steady_s += seconds

    def records(self, *ages_s: float) -> Any:
        return ((self.wall_s - np.array(ages_s)) * 1e9).astype(np.int64)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(clock, "time", made)
    return made


def confirmed(machine: Machine) -> Clock:
    judged = Clock()
    judged.hear(machine.records(1.0))
    return judged


@pytest.mark.parametrize("step_s", [-DAY_S, DAY_S, 700.0, -HOUR_S])
def test_a_step_is_doubted_until_the_clock_steps_back(machine: Machine, step_s: float) -> None:
    judged = confirmed(machine)
    machine.wall_s += step_s
    judged.look()
    assert "stepped" in judged.trouble()
    machine.wall_s -= step_s
    judged.look()
    assert not judged.trouble() and not judged.probe_due()


@pytest.mark.parametrize("step_s", [-DAY_S, DAY_S])
def test_a_step_to_the_right_time_is_accepted_as_soon_as_a_sender_agrees(
    machine: Machine, step_s: float
) -> None:
    judged = confirmed(machine)
    machine.wall_s += step_s
    judged.look()
    machine.wait(2.0)
    assert judged.probe_due()
    judged.hear(machine.records(0.0, 5 * DAY_S))
    judged.look()
    assert not judged.trouble()


def test_slow_corrections_and_sleep_are_no_step(machine: Machine) -> None:
    judged = confirmed(machine)
    for _ in range(100):
        machine.wait(HOUR_S)
        machine.wall_s += 60.0
        judged.look()
        assert not judged.trouble()


def test_records_of_the_future_keep_a_doubt_alive_without_end(machine: Machine) -> None:
    judged = confirmed(machine)
    machine.wall_s -= 26 * HOUR_S
    judged.look()
    for _ in range(100):
        machine.wait(DOUBT_S * 0.9)
        judged.hear(machine.records(-26 * HOUR_S))
        assert judged.trouble()
    machine.wait(DOUBT_S * 1.1)
    assert not judged.trouble() and judged.probe_due()
    judged.hear(machine.records(-26 * HOUR_S))
    assert judged.trouble()


def test_records_that_fit_the_clock_before_a_step_keep_its_doubt_alive_for_a_while(
    machine: Machine,
) -> None:
    judged = confirmed(machine)
    machine.wall_s += 26 * HOUR_S
    judged.look()
    for _ in range(int(MOST_STEP_DOUBT_S / DOUBT_S) - 1):
        machine.wait(DOUBT_S * 0.9)
        judged.hear(machine.records(26 * HOUR_S))
        assert judged.trouble()
    machine.wait(MOST_STEP_DOUBT_S)
    judged.hear(machine.records(26 * HOUR_S))
    assert not judged.trouble()


def test_a_doubt_without_senders_ends(machine: Machine) -> None:
    judged = confirmed(machine)
    machine.wall_s -= DAY_S
    judged.look()
    machine.wait(DOUBT_S * 1.1)
    judged.look()
    assert not judged.trouble()


def test_a_sender_whose_clock_is_wrong_is_not_ours_once_others_agree(machine: Machine) -> None:
    judged = confirmed(machine)
    machine.wait(HOUR_S)
    assert not judged.probe_due()
    both = Clock()
    both.hear(machine.records(-30 * DAY_S, 0.5 * LIVE_S))
    assert not both.trouble() and not both.probe_due()


def test_records_of_the_past_are_no_sign_of_a_wrong_clock(machine: Machine) -> None:
    judged = Clock()
    judged.hear(machine.records(400 * DAY_S))
    judged.hear(machine.records())
    assert not judged.trouble() and judged.probe_due() is False
    machine.wait(2.0)
    assert judged.probe_due()


def test_a_lake_written_in_the_future_is_doubted(machine: Machine) -> None:
    assert "last written" in Clock(NOW_S + DAY_S).trouble()
    assert not Clock(NOW_S - DAY_S).trouble()
    assert not Clock(NOW_S + 60.0).trouble()


def test_times_are_read_from_every_kind_of_request() -> None:
    import orjson

    ahead = int(time.time() + 9 * DAY_S) * 10**9
    for signal, request in (
        ("traces", otlp_requests.traces()),
        ("metrics", otlp_requests.metrics()),
        ("logs", otlp_requests.logs()),
    ):
        here = times([Entry(signal, request.SerializeToString())])
        assert here.size == (5 if signal == "metrics" else 2)
        document = orjson.dumps(otlp_requests.as_json(request))
        assert sorted(times([Entry(f"{signal}+json", document)])) == sorted(here)
    request = otlp_requests.traces(1)
    request.resource_spans[0].scope_spans[0].spans[0].start_time_unix_nano = ahead
    request.resource_spans[0].scope_spans[0].spans[0].end_time_unix_nano = ahead
    assert times([Entry("traces", request.SerializeToString())]).tolist() == [ahead]
    assert times([Entry("traces", b"\xff"), Entry("logs+json", b"{")]).size == 0


@contextlib.contextmanager
def with_clock(lake: Path, offset: Path) -> Iterator[tuple[int, int]]:
    """Run `apm receive` with the clock that a file sets; yield its HTTP and admin ports."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    ports = ["--grpc-port=0", "--http-port=0", "--admin-port=0", "--no-retention"]
    command = [sys.executable, "-m", "apm_analytics", "receive", "--lake", str(lake), *ports]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        lines: list[str] = []
        while not any("metrics and health" in line for line in lines):
            lines.append(process.stderr.readline())
            assert lines[-1], "".join(lines)
        found = dict(re.findall(r"(OTLP over HTTP|health) on http://[^:]+:(\d+)", "".join(lines)))
        yield int(found["OTLP over HTTP"]), int(found["health"])
        process.terminate()
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 0, rest
    finally:
        process.kill()
        process.wait()


def test_a_clock_that_is_a_day_wrong_refuses_until_it_is_right(
    tmp_path: Path, server_binary: Callable[[str], Path]
) -> None:
    server_binary("faketime")
    lake, offset = tmp_path / "lake", tmp_path / "offset"

    def post(port: int) -> httpx.Response:
        request = otlp_requests.traces(1)
        span = request.resource_spans[0].scope_spans[0].spans[0]
        span.span_id = os.urandom(8)
        span.start_time_unix_nano = span.end_time_unix_nano = time.time_ns()
        return httpx.post(
            f"http://127.0.0.1:{port}/v1/traces",
            content=request.SerializeToString(),
            headers={"content-type": "application/x-protobuf"},
            timeout=30,
        )

    def ready(port: int) -> str:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").text

    offset.write_text("-26h")
    with with_clock(lake, offset) as (http_port, admin_port):
        refused = post(http_port)
        assert refused.status_code == 503 and b"clock is doubted" in refused.content
        assert int(refused.headers["retry-after"]) >= 1
        wait_until(lambda: "records are 26.0 h ahead" in ready(admin_port))
        offset.write_text("+0")
        wait_until(lambda: post(http_port).status_code == 200)
        wait_until(lambda: ready(admin_port) == "ready\n")
        for jump in ("-26h", "+26h"):
            offset.write_text(jump)
            wait_until(lambda: "stepped" in ready(admin_port))
            assert post(http_port).status_code == 503
            offset.write_text("+0")
            wait_until(lambda: ready(admin_port) == "ready\n")
            assert post(http_port).status_code == 200
    rows = count(lake)
    offset.write_text("-26h")
    with with_clock(lake, offset) as (http_port, admin_port):
        assert "last written 26.0 h in the future" in ready(admin_port)
        assert post(http_port).status_code == 503
    assert count(lake) == rows >= 3
    assert not (lake / "dead_letter").exists()
