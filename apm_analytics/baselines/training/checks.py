"""Checks of the values of a series before anything is fitted to them.

In:  a fleet.
Out: `Checked`: which series can be learned from, the values to learn from, and outcomes by name.

A counter or a change of unit is refused, because every bound of it would be wrong. A change of
clocks is corrected for the fit and reported. Gaps stay gaps and are reported.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apm_analytics.baselines.models import row_kernels
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import DAY_S, Flags, Times, seconds
from apm_analytics.baselines.training.fleet import MENDED, NO_SEASON, SKIPPED, Fleet, Outcome

# With fewer days a daily season cannot be told from chance, whatever min_season_days is.
MIN_DAYS = 3.0
MIN_GAP_S = 6 * 3_600.0
# A counter grows in almost every window and falls back to near its start.
GROWING_RATIO = 0.98
RESET_RATIO = 0.2
# Factors between units: ms, us and ns to s; minutes, hours, percent, KiB.
UNIT_FACTORS = (60.0, 100.0, 1_000.0, 1_024.0, 3_600.0, 1e6, 1e9)
UNIT_TOLERANCE = 1.25
BLOCK_S = 6 * 3_600.0
# A change of clocks moves the day by an hour.
CLOCK_HOURS = (1, -1)
CLOCK_DAYS = 3
# The daily profile before the change must fit the one after it this much better when shifted than
# when not, and by more than chance. Without a change the ratio stays above 0.59.
CLOCK_FIT = 0.45
CLOCK_SIGNIFICANCE = 1.0


@dataclass(frozen=True)
class Checked:
    """What can be fitted to the values of a fleet.

    Parameters
    ----------
    usable : bool of shape (n,), false for series that were skipped.
    seasonal : bool of shape (n,), true where a season may be looked for.
    teaching : float64 of shape (n, n_time), values to fit.
    outcomes : of all series that are not fitted as they are.
    clocks : by row, the change of clocks that `teaching` is corrected by.
    """

    usable: Flags
    seasonal: Flags
    teaching: Floats
    outcomes: list[Outcome]
    clocks: dict[int, "ClockChange"]


@dataclass(frozen=True)
class ClockChange:
    """From `day` (UTC) on, everything happens `hours` later than in the days before."""

    hours: int
    day: np.datetime64

    def times(self, times: Times) -> Times:
        """Return times as the clock after the change would have shown them."""
        shifted: Times = np.where(times < self.day, times + np.timedelta64(self.hours, "h"), times)
        return shifted

    def align(self, values: Floats, times: Times) -> None:
        """Move values before the change to where the clock after it puts them, in place.

        Parameters
        ----------
        values : float64 of shape (..., n_time); what moves away leaves NaN.
        times : datetime64 of shape (n_time,), equally spaced.
        """
        cut, shift = self._windows(times)
        _shift(values[..., :cut], shift)

    def undo(self, values: Floats, times: Times) -> None:
        """Move values that `align` moved back, in place.

        An hour at the change or at the beginning has none: NaN.
        """
        cut, shift = self._windows(times)
        _shift(values[..., :cut], -shift)

    def _windows(self, times: Times) -> tuple[int, int]:
        cut = int(np.searchsorted(times, self.day.astype("datetime64[us]")))
        window = (times[1] - times[0]) / np.timedelta64(1, "h")
        return cut, round(self.hours / window)


def _shift(values: Floats, windows: int) -> None:
    source = values.copy()
    values[...] = np.nan
    if windows > 0:
        values[..., windows:] = source[..., :-windows]
    else:
        values[..., :windows] = source[..., -windows:]


def check(fleet: Fleet, *, min_windows: int, min_season_days: float) -> Checked:
    """Check every series of a fleet.

    Parameters
    ----------
    min_windows : a series with fewer values gets no bounds.
    min_season_days : a shorter history gets bounds without a season.
    """
    n = len(fleet)
    known = ~np.isnan(fleet.values)
    count, days = known.sum(axis=1), fleet.days
    usable, seasonal = np.ones(n, np.bool_), np.ones(n, np.bool_)
    teaching = np.where(fleet.may_teach, fleet.values, np.nan)
    taught = (~np.isnan(teaching)).sum(axis=1)
    outcomes: list[Outcome] = []
    clocks: dict[int, ClockChange] = {}
    levels, begin = _levels(fleet)

    def say(row: int, outcome: str, reason: str) -> None:
        outcomes.append(Outcome(*fleet.operations[row], fleet.signal, outcome, reason))

    for row in range(n):
        reason = (
            _too_short(int(count[row]), int(taught[row]), fleet.times.size, min_windows)
            or _counter(fleet, row)
            or _unit(levels[row], begin, fleet.times)
        )
        if reason:
            usable[row] = seasonal[row] = False
            say(row, SKIPPED, reason)
            continue
        gap = _gap(fleet, row)
        if gap:
            say(row, MENDED, gap)
        reason = _no_season(fleet.values[row][known[row]], float(days[row]), min_season_days)
        if reason:
            seasonal[row] = False
            say(row, NO_SEASON, reason)
            continue
        change = clock_change(fleet.times, fleet.scale.forward(teaching[row]))
        if change:
            change.align(teaching[row], fleet.times)
            clocks[row] = change
            say(
                row,
                MENDED,
                f"clock change: the day moved by {change.hours:+d} h on {change.day}; earlier "
                "values are learned and scored by the new clock",
            )
    return Checked(usable, seasonal, teaching, outcomes, clocks)


def _too_short(count: int, taught: int, windows: int, min_windows: int) -> str:
    if count == 0:
        return (
            f"all null: none of {windows} windows has a value, need {min_windows}; "
            "lower features.min_requests in params.yaml or import more telemetry"
        )
    if count < min_windows:
        return (
            f"too short: {count} windows have a value, need {min_windows}; import more "
            "telemetry, or lower baselines.min_windows in params.yaml"
        )
    if taught < min_windows:
        return (
            f"all masked: {taught} of {count} windows lie outside known incidents, deployments and "
            f"maintenance, need {min_windows}; shorten the windows in specs/calendar.yaml"
        )
    return ""


def _no_season(values: Floats, days: float, min_season_days: float) -> str:
    if (values == values[0]).all():
        name = "all zero" if values[0] == 0 else "constant"
        return f"{name}: every window has the value {values[0]:g}, no season to learn"
    if days < MIN_DAYS:
        return (
            f"short history: {days:.1f} days, under {MIN_DAYS:g}; the bounds are robust ones, "
            "the same in every hour, and they could not be tested"
        )
    if days < min_season_days:
        return (
            f"short history: {days:.1f} days, a season needs {min_season_days:g}; "
            "it will be learned once the lake holds them"
        )
    return ""


def _counter(fleet: Fleet, row: int) -> str:
    known = ~np.isnan(fleet.values[row])
    values = fleet.values[row][known]
    steps = np.diff(values)
    falls = np.flatnonzero(steps < 0)
    if not falls.size or (steps > 0).sum() < 0.5 * steps.size:
        return ""
    if falls.size > (1.0 - GROWING_RATIO) * steps.size:
        return ""
    if (values[falls + 1] > RESET_RATIO * values[falls]).any():
        return ""
    return (
        f"counter reset: the values only grow and fall back to their start {falls.size} times, "
        f"the first at {fleet.times[known][falls[0] + 1]}; a counter has no normal level, "
        "watch its rate"
    )


def _levels(fleet: Fleet) -> tuple[Floats, NDArray[np.int64]]:
    """Return the median logarithm of each quarter day, (n, n_blocks), and where each begins."""
    block = ((seconds(fleet.times) - seconds(fleet.times[:1])) // BLOCK_S).astype(np.int64)
    levels = np.full((len(fleet), int(block[-1]) + 1), np.nan)
    positive = np.where(fleet.values > 0, fleet.values, np.nan)
    row_kernels.group_medians(positive, block, levels)
    return np.log(levels), np.flatnonzero(np.r_[True, block[1:] != block[:-1]])


def _unit(levels: Floats, begin: NDArray[np.int64], times: Times) -> str:
    known = ~np.isnan(levels)
    level = levels[known]
    if level.size < 4:
        return ""
    cut = int(np.abs(np.diff(level)).argmax()) + 1
    before, after = level[:cut], level[cut:]
    step = float(np.median(after) - np.median(before))
    factor = float(np.exp(min(abs(step), 50.0)))
    near = [one for one in UNIT_FACTORS if 1 / UNIT_TOLERANCE < factor / one < UNIT_TOLERANCE]
    calm = max(np.ptp(before), np.ptp(after)) < abs(step) / 3.0
    if not near or not calm:
        return ""
    way = "up" if step > 0 else "down"
    return (
        f"unit switch: the level goes {way} by a factor of {factor:.4g} about "
        f"{times[begin[known][cut]]} and stays; that is another unit, not another behaviour: "
        "mend the exporter and import again"
    )


def _gap(fleet: Fleet, row: int) -> str:
    missing = np.isnan(fleet.requests[row])
    known = np.flatnonzero(~missing)
    if not known.size:
        return ""
    holes = np.diff(known) - 1
    longest = int(holes.argmax()) if holes.size else 0
    if not holes.size or holes[longest] * fleet.window_s < MIN_GAP_S:
        return ""
    hours = holes[longest] * fleet.window_s / 3_600.0
    return (
        f"gap: {hours:.1f} h without any record from {fleet.times[known[longest] + 1]}; "
        "it was not filled"
    )


def clock_change(times: Times, scaled: Floats) -> ClockChange | None:
    """Find the day from which on the hours of a series are shifted by one; None without a change.

    Parameters
    ----------
    times : datetime64 of shape (n_time,), equally spaced.
    scaled : float64 of shape (n_time,), on a scale where deviations are as wide at every level.
    """
    hours = _by_day_and_hour(times, scaled)
    days = len(hours)
    if days < 2 * CLOCK_DAYS + 1 or np.isnan(hours).mean() > 0.5:
        return None
    some = ~np.isnan(hours).all(axis=1)
    hours[some] -= np.nanmedian(hours[some], axis=1, keepdims=True)
    known = ~np.isnan(hours)
    filled = np.where(known, hours, 0.0)
    sums, counts = filled.cumsum(axis=0), known.cumsum(axis=0)
    if (counts[[CLOCK_DAYS - 1]] == 0).any() or (counts[-1] == counts[-CLOCK_DAYS - 1]).any():
        return None
    overall = sums[-1] / counts[-1]
    noise = float(((filled - overall) ** 2)[known].mean())
    cuts = np.arange(CLOCK_DAYS, days - CLOCK_DAYS + 1)
    before = sums[cuts - 1] / counts[cuts - 1]
    after = (sums[-1] - sums[cuts - 1]) / (counts[-1] - counts[cuts - 1])
    same = ((after - before) ** 2).sum(axis=1)
    chance = 24.0 * noise * (1.0 / cuts + 1.0 / (days - cuts))
    found: ClockChange | None = None
    best = 0.0
    for shift in CLOCK_HOURS:
        moved = ((after - np.roll(before, shift, axis=1)) ** 2).sum(axis=1)
        gain = same - moved
        gain[(moved > CLOCK_FIT * same) | (gain < CLOCK_SIGNIFICANCE * chance)] = 0.0
        if gain.max() > best:
            best = float(gain.max())
            found = ClockChange(shift, times[0].astype("datetime64[D]") + cuts[gain.argmax()])
    return found


def _by_day_and_hour(times: Times, scaled: Floats) -> Floats:
    """Return the mean of each hour of each day, of shape (n_days, 24); NaN without a value."""
    at = seconds(times)
    slot = (at // 3_600.0 - at[0] // DAY_S * 24.0).astype(np.int64)
    known = ~np.isnan(scaled)
    size = int(-(-(slot[-1] + 1) // 24) * 24)
    number = np.bincount(slot[known], minlength=size)
    total = np.bincount(slot[known], scaled[known], minlength=size)
    mean: NDArray[np.float64] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return mean.reshape(-1, 24)
