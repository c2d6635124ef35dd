"""The clock of the main job: once a day, one at a time, a missed run caught up once.

In:  a time of day (UTC) and the job.
Out: nothing but its calls; `state` keeps when it last ran.
"""

import json
import logging
import re
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadParameter

log = logging.getLogger(__name__)
TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")
# A machine that slept through the minute still runs the job when it wakes, once.
MISFIRE_GRACE_S = 23 * 3_600


def run_schedule(at: str, job: Callable[[], None], *, state: Path) -> None:
    """Call the job every day at a time, until SIGTERM or SIGINT.

    Whatever the job raises is logged and the clock goes on: tonight's failure is no reason to
    miss tomorrow. A job that is running when the signal comes is waited for.

    Parameters
    ----------
    at : time of day, UTC: HH:MM or HH:MM:SS.
    job : called without arguments, never twice at once.
    state : file that keeps when the job last began; a run that was missed since is caught up.

    Raises
    ------
    BadParameter
        `at` is no time of day.

    Examples
    --------
    >>> run_schedule("02:00", nightly, state=Path("data/schedule.json"))  # doctest: +SKIP
    """
    found = TIME_OF_DAY.fullmatch(at)
    if not found:
        raise BadParameter(f"got {at!r}, need a time of day as HH:MM, UTC, as in --at 02:00")
    hour, minute, second = (int(part or 0) for part in found.groups())
    stop = threading.Event()

    def run() -> None:
        # Noted before the job: one that crashes the machine is not repeated at every start.
        write_state(state, datetime.now(UTC))
        try:
            job()
        except Exception:
            log.exception("the scheduled run failed; the next one is at %s UTC", at)

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    scheduler = BackgroundScheduler(
        timezone=UTC,
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={
            "coalesce": True,
            "max_instances": 1,
            "misfire_grace_time": MISFIRE_GRACE_S,
        },
    )
    scheduler.add_job(run, CronTrigger(hour=hour, minute=minute, second=second, timezone=UTC))
    if missed(state, datetime.now(UTC), timedelta(hours=hour, minutes=minute, seconds=second)):
        log.info("a run was missed; catching up now")
        scheduler.add_job(run)
    scheduler.start()
    try:
        stop.wait()
    finally:
        scheduler.shutdown(wait=True)


def missed(state: Path, now: datetime, time_of_day: timedelta) -> bool:
    """Tell whether the last time the job was due passed without it.

    A schedule that never ran has missed nothing: its first run is at its time.
    """
    last = read_state(state)
    if last is None:
        write_state(state, now)
        return False
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    due = midnight + time_of_day
    if due > now:
        due -= timedelta(days=1)
    return last < due


def read_state(state: Path) -> datetime | None:
    """Give when the job last began; None when it never did, or the file is damaged."""
    try:
        return datetime.fromisoformat(json.loads(state.read_text())["last_start"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_state(state: Path, start: datetime) -> None:
    """Keep when the job began."""
    state.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(state, json.dumps({"last_start": start.isoformat()}).encode())
