"""Estimate the usual value of a KPI at every hour of the week, leaving out the judged week.

In:  one value per window; the windows to learn from.
Out: the expected value of every window.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from apm_analytics.foundation.time import EPOCH_HOUR_OF_WEEK, HOURS_PER_WEEK

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

HOUR_S = 3_600
EMPTY = 0.02  # share of a typical hour that is added before taking logarithms


def expected(values: Floats, times: Ints, step_s: int, learned: Flags) -> Floats:
    """Return the hour-of-week profile at every window, estimated without the window's own week.

    The profile is the mean of log hourly means, scaled to the sum of the `learned` windows and
    interpolated linearly between hours.
    """
    hours = times // HOUR_S
    slots = hours - hours[0]
    count = int(slots[-1]) + 1
    kept = np.where(learned, np.nan_to_num(values), 0.0)
    seen = np.bincount(slots, learned, count)
    totals = np.bincount(slots, kept, count)
    known = seen > 0
    mean = np.where(known, totals / np.maximum(seen, 1), 0.0)
    typical = mean[known].mean()
    offset = EMPTY * typical + np.finfo(float).tiny  # keeps the log of an empty hour finite
    logs = np.where(known, np.log(mean + offset), 0.0)
    hour_of_week = (hours[0] + np.arange(count) + EPOCH_HOUR_OF_WEEK) % HOURS_PER_WEEK
    week = np.arange(count) // HOURS_PER_WEEK
    sums = np.bincount(hour_of_week, logs * known, HOURS_PER_WEEK)
    numbers = np.bincount(hour_of_week, known, HOURS_PER_WEEK)
    squares = np.bincount(hour_of_week, logs**2 * known, HOURS_PER_WEEK)
    within = squares - sums**2 / np.maximum(numbers, 1)
    noise = max(float(within.sum()) / max((numbers - 1).clip(0).sum(), 1), 0.0)  # of one hour
    result = np.empty(count)
    for number in range(int(week[-1]) + 1):
        inside = week == number
        left_out = hour_of_week[inside & known]
        profile = _shrunk(
            sums - np.bincount(left_out, logs[inside & known], HOURS_PER_WEEK),
            numbers - np.bincount(left_out, minlength=HOURS_PER_WEEK),
            noise,
        )
        result[inside] = np.exp(profile[hour_of_week[inside]]) - offset
    result = np.maximum(result, 0.0)
    # The mean of logs lies below the log of the mean; one factor for all hours corrects this.
    result *= (mean * known).sum() / max((result * known).sum(), np.finfo(float).tiny)
    centres = (np.arange(count) + 0.5) * HOUR_S
    middles = times + step_s / 2 - hours[0] * HOUR_S
    interpolated: Floats = np.interp(middles, centres, result)
    return interpolated


def _shrunk(sums: NDArray[Any], numbers: NDArray[Any], noise: float) -> Floats:
    """Shrink the hours of the week towards the sum of a day effect and an hour-of-day effect.

    A few weeks estimate an hour of the week badly, but days and hours of the day well. Deviations
    from the sum are shrunk by their variance relative to the noise, as in empirical Bayes.
    """
    table, counts = sums.reshape(7, 24), numbers.reshape(7, 24)
    known = counts > 0
    if not known.any():
        return np.zeros(HOURS_PER_WEEK)
    means = np.where(known, table / np.maximum(counts, 1), np.nan)
    grand = float(np.nanmean(means))
    day, hour = np.zeros((7, 1)), np.zeros((1, 24))
    for _ in range(3):  # alternating, because some days lack some hours
        day = _mean(means - grand - hour, axis=1)
        hour = _mean(means - grand - day, axis=0)
    additive = grand + day + hour
    deviation = np.where(known, means - additive, 0.0)
    of_noise = float((noise / counts[known]).mean())
    kept = max(float((deviation[known] ** 2).mean()) - of_noise, 0.0)
    share = kept / (kept + of_noise) if kept > 0 else 0.0
    shrunk: Floats = (additive + share * deviation).ravel()
    return shrunk


def _mean(values: Floats, axis: int) -> Floats:
    """Return the mean of the known values, 0 where there are none."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=axis, keepdims=True)
    mean: Floats = total / np.maximum(known.sum(axis=axis, keepdims=True), 1)
    return mean
