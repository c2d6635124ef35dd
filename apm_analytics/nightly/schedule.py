"""Call the nightly job once a day; a missed run is made up for once.

In:  a time of day (UTC) and the job.
Out: calls of the job, one at a time; a `state` file with the time of the last start.
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
# A machine that was asleep at the time runs the job once when it wakes.
MISFIRE_GRACE_S = 23 * 3_600


def run_schedule(at: str, job: Callable[[], None], *, state: Path) -> None:
    """Call the job every day at a time, until SIGTERM or SIGINT.

    An exception of the job is logged, and the schedule continues. A signal waits for a running
    job to end.

    Parameters
    ----------
    at : time of day, UTC: HH:MM or HH:MM:SS.
    state : file with the time of the last start; a run missed since then starts at once.

    Raises
    ------
    BadParameter
        `at` is not a time of day.
    """
    time_of_day = TIME_OF_DAY.fullmatch(at)
    if not time_of_day:
        raise BadParameter(f"got {at!r}, need a time of day as HH:MM, UTC, as in --at 02:00")
    hour, minute, second = (int(part or 0) for part in time_of_day.groups())
    stop = threading.Event()

    def run() -> None:
        # Written before the job, so that one that crashes the machine is not repeated.
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
    """Return whether the job did not start when it was last due.

    A schedule that never ran has missed nothing; its first run is at its time.
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
    """Return when the job last started; None when it never did or the file is damaged."""
    try:
        return datetime.fromisoformat(json.loads(state.read_text())["last_start"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_state(state: Path, start: datetime) -> None:
    """Write when the job started."""
    state.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(state, json.dumps({"last_start": start.isoformat()}).encode())
