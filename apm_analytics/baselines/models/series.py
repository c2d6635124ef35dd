"""Array types, and the calendar that all baselines share.

In:  times, UTC.
Out: seconds, hours of the week, the coming week.
"""

import numpy as np
from numpy.typing import NDArray

from apm_analytics.foundation.time import EPOCH_HOUR_OF_WEEK, HOURS_PER_WEEK

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Times = NDArray[np.datetime64]

HOUR_US = 3_600_000_000
DAY_S = 86_400.0


def seconds(times: Times) -> Floats:
    """Return times as seconds since 1970."""
    return times.astype("datetime64[us]").astype(np.int64) / 1e6


def hour_of_week(times: Times) -> Ints:
    """Return the hour of the week of each time, UTC: 0 is Sunday 00:00, 167 Saturday 23:00."""
    hours = times.astype("datetime64[us]").astype(np.int64) // HOUR_US
    result: Ints = (hours + EPOCH_HOUR_OF_WEEK) % HOURS_PER_WEEK
    return result


def week_after(last: np.datetime64, window_s: float) -> Times:
    """Return the starts of all windows of the 168 hours that begin with the hour of `last`."""
    start = last.astype("datetime64[h]").astype("datetime64[us]")
    step = np.timedelta64(int(window_s * 1e6), "us")
    # Windows longer than an hour: each hour still needs a value.
    step = min(step, np.timedelta64(HOUR_US, "us"))
    return np.arange(start, start + np.timedelta64(HOURS_PER_WEEK * HOUR_US, "us"), step)
