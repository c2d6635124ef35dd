"""Judge the machine's clock by its steps and by the times of what senders send.

In:  the system's clock, the last commit of the lake, times of received records.
Out: whether the clock may be used, and why not.

A wrong clock is not visible by itself. It is doubted when it steps while the receiver runs, when
the lake was last written in its future, or when every record of a sender lies over a day ahead of
it. One sender whose records are as old as now ends a doubt; so does a step back to where the clock
was, and time without a sign of an error.
"""

import threading
import time

import numpy as np
from numpy.typing import NDArray

from apm_analytics.ingest.decode.records import MAX_AHEAD

# Corrections of a clock that runs (NTP, leap seconds) are far smaller.
STEP_S = 600.0
# Live telemetry arrives within this time (s) of its records.
LIVE_S = 3_600.0
# A doubt ends after this time (s) without a sign that the clock is wrong.
DOUBT_S = 600.0
# Records that fit the clock before a step keep a doubt alive for so long (s): after a machine was
# suspended, the queues of senders begin with records of that time.
MOST_STEP_DOUBT_S = 3_600.0
# Time (s) between two requests whose times are read while the clock is not confirmed.
PROBE_EVERY_S = 1.0


class Clock:
    """The judgement of one receiver; used by any thread.

    Parameters
    ----------
    last_commit_s : when the lake was last written, in seconds since 1970; None for a new lake.
    """

    def __init__(self, last_commit_s: float | None = None) -> None:
        self._lock = threading.Lock()
        self._offset = _offset()
        self._confirmed = False
        self._doubt = ""
        self._step_s = 0.0
        self._since = self._until = 0.0
        self._probed = 0.0
        ahead_s = (last_commit_s or 0.0) - time.time()
        if ahead_s > LIVE_S:
            self._begin(
                f"the lake was last written {_hours(ahead_s)} in the future of this machine's clock"
            )

    def look(self) -> None:
        """Compare the clock with one that never steps; call it often."""
        with self._lock:
            step_s = _offset() - self._offset
            if abs(step_s) > STEP_S and abs(step_s - self._step_s) > STEP_S:
                back = "back" if step_s < 0 else "ahead"
                self._begin(f"this machine's clock stepped {back} by {_hours(abs(step_s))}")
                self._step_s = step_s
            elif self._step_s and abs(step_s) <= STEP_S:  # it stepped back to where it was
                self._end()
            elif not self._step_s:
                self._offset += step_s  # a slow correction

    def trouble(self) -> str:
        """Return why the clock is doubted; empty if it is not."""
        with self._lock:
            return self._doubt if time.monotonic() < self._until else ""

    def probe_due(self) -> bool:
        """Return whether the times of the next requests are to be heard."""
        return not self._confirmed and time.monotonic() - self._probed >= PROBE_EVERY_S

    def hear(self, times_ns: NDArray[np.int64]) -> None:
        """Compare the times of all records of some requests with the clock.

        Parameters
        ----------
        times_ns : array of shape (n_records,), in nanoseconds since 1970.
        """
        ages = time.time() - times_ns / 1e9
        with self._lock:
            self._probed = time.monotonic()
            if not ages.size:
                return
            if (np.abs(ages) < LIVE_S).any():
                self._end()
            elif (ages < -MAX_AHEAD.total_seconds()).all():
                ahead = f"records are {_hours(-ages.max())} ahead of this machine's clock"
                self._begin(self._doubt or ahead)
            elif self._step_s and (np.abs(ages - self._step_s) < LIVE_S).any():
                most = self._since + MOST_STEP_DOUBT_S
                self._until = max(self._until, min(time.monotonic() + DOUBT_S, most))

    def _begin(self, doubt: str) -> None:
        """Begin a doubt, or continue the present one."""
        now = time.monotonic()
        if doubt != self._doubt:
            self._since = now
        self._doubt, self._until, self._confirmed = doubt, now + DOUBT_S, False

    def _end(self) -> None:
        self._doubt, self._until, self._confirmed = "", 0.0, True
        self._step_s, self._offset = 0.0, _offset()


def _offset() -> float:
    """Return the time from the system's start, sleep included, to now by the clock (s)."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h"
