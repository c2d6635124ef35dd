"""Estimate the loss of a KPI in an incident: its counterfactual minus its actual value.

In:  one additive KPI (orders, revenue, sessions) in equal windows; start and end of the incident;
     the same KPI of an unaffected segment, if there is one; windows to leave out of the history.
Out: the loss with an interval, and the errors of the same method on quiet times (placebos).

The counterfactual is the KPI's hour-of-week profile, or the control segment times the usual ratio
to it, scaled to the level of the hours before the incident. The interval comes from the errors of
this method on every window of the same length in the past, each predicted without its own week.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import nnls

from apm_analytics.business import week_profile
from apm_analytics.foundation.errors import BadInput, BadParameter, NotEnoughData

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

MIN_HISTORY_DAYS = 14.0
MIN_PLACEBOS = 20  # non-overlapping past windows of the incident's length
MAX_GAP_RATIO = 0.2
# Periods before the incident whose level is used, by start and end in s before it: the last half
# hour shows the current level, the day before shows whether it is a strong day.
LEVELS_S = ((1_800, 0), (7_200, 1_800), (21_600, 7_200), (86_400, 21_600))
EMPTY = 0.05  # share of the usual value that keeps logarithms of near-zero values finite
RIDGE = 1e-3  # share of the levels' variance; keeps weights finite when a level is constant
HOUR_S, DAY_S = 3_600, 86_400
SHOWN_S, AFTER_S = 1_800, 6 * 3_600  # s, in the chart: width of a point, time after the incident
PROFILE, CONTROL, CONTROL_PROFILE = "hour of week", "control", "control by hour of week"


@dataclass(frozen=True)
class Impact:
    """The loss in an incident, in the unit of the KPI; a negative loss is a gain."""

    actual: float
    expected: float
    loss: float
    loss_lower: float
    loss_upper: float
    level: float  # of the interval
    method: str  # "hour of week", "control" or "control by hour of week"
    placebos: int  # non-overlapping past windows of the same length
    placebo_error: float  # mean absolute error on them, as a share of the expected value
    placebo_p: float  # share of placebos with at least this loss
    gap_ratio: float  # share of the incident's windows without a value; they are left out


@dataclass(frozen=True)
class Counterfactual:
    """The impact, and actual and expected values around the incident."""

    impact: Impact
    windows: pl.DataFrame  # time (half hours), actual, expected, lower, upper


@dataclass(frozen=True)
class _History:
    """All windows; `expected` of past windows is estimated without their own week."""

    values: Floats
    expected: Floats
    usable: Flags


def of_incident(
    figure: pl.DataFrame,
    start: datetime,
    end: datetime,
    *,
    control: pl.Series | None = None,
    masked: pl.Series | None = None,
    level: float = 0.95,
) -> Counterfactual:
    """Estimate the loss of one KPI in an incident.

    Parameters
    ----------
    figure : `time` (starts of windows, UTC, equally spaced) and `value`, null where missing.
    start, end : of the incident, UTC.
    control : the KPI of an unaffected segment, one value per window.
    masked : true for windows to leave out of the history, such as other incidents.
    level : share of intervals that contain the true loss.

    Raises
    ------
    NotEnoughData
        There are less than 14 days before the incident, the incident is not wholly inside the
        data, or there are too many gaps or too few placebos.
    BadInput
        Times are not equally spaced, or values are below 0.
    BadParameter
        The end is not after the start.

    Examples
    --------
    >>> of_incident(orders, start, end).impact.loss  # doctest: +SKIP
    37.2
    """
    if end <= start:
        raise BadParameter(f"the incident ends at {end}, not after its start {start}; swap them")
    times, step_s = _times(figure)
    values = _floats(figure["value"])
    if np.nanmin(values, initial=0.0) < 0:
        raise BadInput(
            f"got a value of {np.nanmin(values):g}; an additive KPI has no values below 0"
        )
    first, last = _bounds(times, step_s, start, end)
    usable = np.isfinite(values)
    if masked is not None:
        usable &= ~masked.to_numpy().astype(bool)
    past = np.arange(values.size) < first
    during = slice(first, last)
    gap_ratio = float(1 - np.isfinite(values[during]).mean())
    _require_history(times, step_s, first, last, usable, gap_ratio)
    candidates = {
        PROFILE: _History(
            values, week_profile.expected(values, times, step_s, usable & past), usable
        )
    }
    if control is not None:
        other = _floats(control)
        both = usable & np.isfinite(other) & (other > 0)
        if both[during].mean() >= 1 - MAX_GAP_RATIO and (both & past).mean() > 0:
            ratio = np.where(both, values / np.where(other > 0, other, 1.0), np.nan)
            usual = np.nansum(values[both & past]) / np.nansum(other[both & past])
            by_hour = week_profile.expected(ratio, times, step_s, both & past) * other
            candidates[CONTROL] = _History(values, usual * other, both)
            candidates[CONTROL_PROFILE] = _History(values, by_hour, both)
    judged = {
        name: _judge(history, first, last, step_s, level) for name, history in candidates.items()
    }
    method = min(judged, key=lambda name: judged[name].mean_error)
    return _answer(method, candidates[method], judged[method], times, first, last, step_s, level)


@dataclass(frozen=True)
class _Judged:
    """The errors of a counterfactual on placebos, as shares of the expected value."""

    carry: Floats  # how much of each period's level carries over
    lower: float  # quantiles of the standardised error
    upper: float
    spread: tuple[float, float]  # error variance = spread[0] + spread[1] / expected
    standardised: Floats
    mean_error: float
    placebos: int


def _answer(
    method: str,
    history: _History,
    judged: _Judged,
    times: Ints,
    first: int,
    last: int,
    step_s: int,
    level: float,
) -> Counterfactual:
    before = _levels_before(history, np.array([first]), step_s)[0]
    expected = history.expected * np.exp(before @ judged.carry)
    seen = np.zeros(expected.size, bool)
    seen[first:last] = history.usable[first:last]
    total, actual = float(expected[seen].sum()), float(history.values[seen].sum())
    if total <= 0:
        raise NotEnoughData(
            "the expected value is 0: the KPI is usually 0 at the time of the incident"
        )
    scale = float(np.sqrt(judged.spread[0] + judged.spread[1] / total))
    error = (total - actual) / total
    worse = (judged.standardised >= error / scale).sum() if scale else 0
    impact = Impact(
        actual=actual,
        expected=total,
        loss=total - actual,
        loss_lower=total * (1 - judged.upper * scale) - actual,
        loss_upper=total * (1 - judged.lower * scale) - actual,
        level=level,
        method=method,
        placebos=judged.placebos,
        placebo_error=judged.mean_error,
        placebo_p=float((1 + worse) / (1 + judged.standardised.size)),
        gap_ratio=float(1 - seen[first:last].mean()),
    )
    return Counterfactual(impact, _windows(history, expected, judged, times, first, last, step_s))


def _windows(
    history: _History,
    expected: Floats,
    judged: _Judged,
    times: Ints,
    first: int,
    last: int,
    step_s: int,
) -> pl.DataFrame:
    """Sum values by half hour from the day before to some hours after, for a chart."""
    together = max(SHOWN_S // step_s, 1)
    begin = first - min(DAY_S // step_s, first) // together * together
    count = (min(last + AFTER_S // step_s, times.size) - begin) // together
    starts = begin + np.arange(count) * together
    known = history.usable.astype(float)
    share = _sums(known, starts, together) / together
    actual = np.where(
        share > 0,
        _sums(np.where(history.usable, history.values, 0.0), starts, together)
        / np.maximum(share, 1e-9),
        np.nan,
    )
    sums = _sums(expected, starts, together)
    spread = np.sqrt(judged.spread[0] + judged.spread[1] / np.maximum(sums, 1e-9))
    return pl.DataFrame(
        {
            "time": pl.Series(times[starts] * 10**6).cast(pl.Datetime("us")),
            "actual": actual,
            "expected": sums,
            "lower": np.maximum(sums * (1 - judged.upper * spread), 0.0),
            "upper": sums * (1 - judged.lower * spread),
        },
        nan_to_null=True,
    )


def _judge(history: _History, first: int, last: int, step_s: int, level: float) -> _Judged:
    """Predict every past window of the same length and measure the errors."""
    length = last - first
    starts = np.arange(LEVELS_S[-1][0] // step_s, first - length + 1, max(length // 6, 1))
    good = _sums(history.usable.astype(float), starts, length) >= length * (1 - MAX_GAP_RATIO)
    starts = starts[good]
    actual, expected = (_sums(values, starts, length) for values in _usable(history))
    sound = expected > 0
    if starts.size and not sound.any():
        raise NotEnoughData("the KPI was 0 in all quiet times; nothing could be lost")
    starts, actual, expected = starts[sound], actual[sound], expected[sound]
    placebos = actual.size * max(length // 6, 1) // length
    if placebos < MIN_PLACEBOS:
        raise NotEnoughData(
            f"{placebos} quiet windows of {length * step_s / HOUR_S:g} h in the past, need "
            f"{MIN_PLACEBOS}; import more history"
        )
    before = _levels_before(history, starts, step_s)
    carry = _carried(before, np.log(np.maximum(actual / expected, EMPTY)), expected)
    expected = expected * np.exp(before @ carry)
    error = 1 - actual / expected
    spread = _spread(error, expected)
    standardised = error / np.sqrt(spread[0] + spread[1] / expected)
    tail = (1 - level) / 2
    # As in conformal prediction: the next error exceeds the largest of n with probability 1/(n+1).
    reach = min((1 - tail) * (1 + 1 / placebos), 1.0)
    lower, upper = np.quantile(standardised, [1 - reach, reach])
    return _Judged(
        carry,
        float(lower),
        float(upper),
        spread,
        standardised,
        float(np.abs(error).mean()),
        placebos,
    )


def _carried(before: Floats, after: Floats, weights: Floats) -> Floats:
    """Fit how much of each earlier level carries over: weighted least squares through 0."""
    weighted = before * weights[:, None]
    power = weighted.T @ before
    ridge = RIDGE * np.trace(power) / len(power) + np.finfo(float).tiny
    carry: Floats = np.linalg.solve(power + ridge * np.eye(len(power)), weighted.T @ after)
    return carry


def _spread(error: Floats, expected: Floats) -> tuple[float, float]:
    """Split the variance of the error into a constant part and one that falls with volume."""
    design = np.column_stack([np.ones_like(expected), 1 / expected])
    weight = 1 / (np.median(error**2) + error**2)  # robust against a few outliers
    parts, _ = nnls(design * weight[:, None], error**2 * weight)
    if not parts.any():
        parts[0] = max(float((error**2).mean()), np.finfo(float).tiny)
    return float(parts[0]), float(parts[1])


def _levels_before(history: _History, starts: Ints, step_s: int) -> Floats:
    """Return log(actual / expected) of each period before each start, shape (n_starts, 4)."""
    columns = []
    for begins_s, ends_s in LEVELS_S:
        begins, ends = max(begins_s // step_s, 1), ends_s // step_s
        actual, expected = (
            _sums(values, starts - begins, begins - ends) for values in _usable(history)
        )
        # Keeps the log of an empty night finite.
        little = EMPTY * max(float(expected.mean()), np.finfo(float).tiny)
        columns.append(np.log((actual + little) / (expected + little)))
    return np.column_stack(columns)


def _usable(history: _History) -> tuple[Floats, Floats]:
    """Return actual and expected values, 0 where not usable."""
    return (
        np.where(history.usable, history.values, 0.0),
        np.where(history.usable, history.expected, 0.0),
    )


def _sums(values: Floats, starts: Ints, length: int) -> Floats:
    total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values))])
    sums: Floats = total[starts + length] - total[starts]
    return sums


def _floats(values: pl.Series) -> Floats:
    result = values.cast(pl.Float64).fill_null(np.nan).to_numpy().copy()
    result[~np.isfinite(result)] = np.nan
    return result


def _times(figure: pl.DataFrame) -> tuple[Ints, int]:
    stamps = figure["time"].cast(pl.Datetime("us")).cast(pl.Int64).to_numpy() // 10**6
    steps = np.unique(np.diff(stamps))
    if steps.size != 1 or steps[0] <= 0 or steps[0] > HOUR_S:
        raise BadInput(
            f"got steps of {sorted(set(steps.tolist()))[:3]} s; need one step up to 1 h, "
            "with gaps as nulls"
        )
    return stamps, int(steps[0])


def _bounds(times: Ints, step_s: int, start: datetime, end: datetime) -> tuple[int, int]:
    """Return the first and one past the last whole window that the incident overlaps."""
    first = int(np.searchsorted(times, _epoch_s(start) - step_s, side="right"))
    last = int(np.searchsorted(times, _epoch_s(end), side="left"))
    if _epoch_s(end) > times[-1] + 2 * step_s or last <= first:
        raise NotEnoughData(
            f"the incident from {start} to {end} is not wholly inside the data, which end at "
            f"{datetime.fromtimestamp(int(times[-1]) + step_s, UTC):%Y-%m-%d %H:%M} UTC; "
            "wait for the remaining data"
        )
    return first, last


def _epoch_s(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _require_history(
    times: Ints, step_s: int, first: int, last: int, usable: Flags, gap_ratio: float
) -> None:
    known = np.flatnonzero(usable[:first])
    days = (first - known[0]) * step_s / DAY_S if known.size else 0.0
    if days < MIN_HISTORY_DAYS:
        raise NotEnoughData(
            f"{days:.1f} days of history before the incident, need {MIN_HISTORY_DAYS:g}"
        )
    gaps = 1 - known.size / (first - known[0])
    for where, share in (("the history", gaps), ("the incident", gap_ratio)):
        if share > MAX_GAP_RATIO:
            raise NotEnoughData(
                f"{share:.0%} of the windows of {where} have no value or are masked, at most "
                f"{MAX_GAP_RATIO:.0%} may be"
            )
