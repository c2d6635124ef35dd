"""The schedule runs the job once at its time, and makes up for missed runs once."""

import configparser
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.nightly import schedule

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
TWO = timedelta(hours=2)

CLOCK = """
import sys, time
from pathlib import Path
from apm_analytics.nightly.schedule import run_schedule
calls = Path(sys.argv[3])
def job():
    with calls.open("a") as out: out.write("start\\n")
    time.sleep(float(sys.argv[4]))
    with calls.open("a") as out: out.write("end\\n")
    if sys.argv[5] == "fail": raise RuntimeError("the job failed")
run_schedule(sys.argv[1], job, state=Path(sys.argv[2]))
"""


def clock(
    folder: Path, at: datetime, *, job_s: float = 0.0, how: str = "well"
) -> subprocess.Popen[str]:
    arguments = [
        f"{at:%H:%M:%S}",
        str(folder / "state.json"),
        str(folder / "calls"),
        str(job_s),
        how,
    ]
    return subprocess.Popen(
        [sys.executable, "-c", CLOCK, *arguments], stderr=subprocess.PIPE, text=True
    )


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return file.read_text().split() if file.exists() else []


def wait_for(folder: Path, count: int, limit_s: float = 40.0) -> None:
    end = time.monotonic() + limit_s
    while len(calls(folder)) < count:
        assert time.monotonic() < end, calls(folder)
        time.sleep(0.05)


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    _, output = process.communicate(timeout=30)
    assert process.returncode == 0, output
    return output


def test_the_job_runs_at_its_time_and_a_failure_does_not_stop_the_clock(tmp_path: Path) -> None:
    process = clock(tmp_path, datetime.now(UTC) + timedelta(seconds=8), how="fail")
    wait_for(tmp_path, 2)
    assert process.poll() is None
    assert "the job failed" in stop(process)
    assert calls(tmp_path) == ["start", "end"]


def test_a_missed_run_is_caught_up_once_and_a_signal_waits_for_it(tmp_path: Path) -> None:
    schedule.write_state(tmp_path / "state.json", datetime.now(UTC) - timedelta(days=3))
    later = datetime.now(UTC) + timedelta(hours=2)
    process = clock(tmp_path, later, job_s=1.5)
    wait_for(tmp_path, 1)
    stop(process)
    assert calls(tmp_path) == ["start", "end"]
    of_day = timedelta(hours=later.hour, minutes=later.minute, seconds=later.second)
    assert not schedule.missed(tmp_path / "state.json", datetime.now(UTC), of_day)


def test_missed_knows_what_was_due(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    assert not schedule.missed(state, NOON, TWO)  # never ran: nothing was missed
    for last, expected in (
        (NOON - timedelta(hours=9), False),
        (NOON - timedelta(hours=11), True),
        (NOON - timedelta(days=5), True),
    ):
        schedule.write_state(state, last)
        assert schedule.missed(state, NOON, TWO) is expected
    assert schedule.missed(state, NOON, timedelta(hours=23))


def test_a_damaged_state_file_counts_as_never_ran(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text("{half")
    assert schedule.read_state(state) is None


@pytest.mark.parametrize("at", ["2", "24:00", "02:60", "soon", ""])
def test_no_time_of_day_is_refused(tmp_path: Path, at: str) -> None:
    with pytest.raises(BadParameter, match="HH:MM"):
        schedule.run_schedule(at, lambda: None, state=tmp_path / "state.json")


def test_the_systemd_units_run_the_nightly_and_catch_up(workspace: Path) -> None:
    units = {}
    for name in ("service", "timer"):
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(workspace / "deploy/systemd" / f"apm-nightly.{name}")
        units[name] = parser
    assert " nightly " in units["service"]["Service"]["ExecStart"]
    assert units["service"]["Service"]["Type"] == "oneshot"
    assert units["timer"]["Timer"]["Persistent"] == "true"
    assert units["timer"]["Timer"]["OnCalendar"].endswith("UTC")


def test_systemd_accepts_the_units(
    tmp_path: Path, workspace: Path, server_binary: Callable[[str], Path]
) -> None:
    analyze = server_binary("systemd-analyze")
    units = []
    for file in sorted((workspace / "deploy/systemd").glob("apm-*.[st]*")):
        # systemd checks that the program exists, and this checkout is not in /opt.
        text = file.read_text().replace("/opt/apm-analytics/.venv/bin/apm", sys.executable)
        units.append(tmp_path / file.name)
        units[-1].write_text(text)
    assert sum(unit.suffix == ".service" for unit in units) == 3
    done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
