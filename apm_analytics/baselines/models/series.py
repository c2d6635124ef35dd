"""The calendar that all baselines share.

In:  times, UTC.
Out: seconds, hours of the week, the week to come.
"""

import numpy as np
from numpy.typing import NDArray

from apm_analytics.baselines.models.scales import Floats

Times = NDArray[np.datetime64]
Flags = NDArray[np.bool_]

HOURS_PER_WEEK = 168
HOUR_US = 3_600_000_000
DAY_S = 86_400.0
# 1970-01-01 was a Thursday; week hours start on Sunday, as PromQL's day_of_week().
_EPOCH_HOUR_OF_WEEK = 4 * 24


def seconds(times: Times) -> Floats:
    """Give times as seconds since 1970."""
    return times.astype("datetime64[us]").astype(np.int64) / 1e6


def hour_of_week(times: Times) -> NDArray[np.int64]:
    """Give the hour of the week of each time, UTC: 0 is Sunday 00:00, 167 Saturday 23:00."""
    hours = times.astype("datetime64[us]").astype(np.int64) // HOUR_US
    result: NDArray[np.int64] = (hours + _EPOCH_HOUR_OF_WEEK) % HOURS_PER_WEEK
    return result


def week_after(last: np.datetime64, window_s: float) -> Times:
    """Give the starts of all windows of the 168 hours from the hour of `last` on."""
    start = last.astype("datetime64[h]").astype("datetime64[us]")
    step = np.timedelta64(int(window_s * 1e6), "us")
    # A window of more than an hour still has to give each hour a value.
    step = min(step, np.timedelta64(HOUR_US, "us"))
    return np.arange(start, start + np.timedelta64(HOURS_PER_WEEK * HOUR_US, "us"), step)
