"""Baselines by time of day or week: median profiles with a trend, seasonal naive, no season.

In:  times, and values of many series on them; NaN is missing.
Out: `ProfileBaseline`, `SeasonalNaiveBaseline`, `RobustBaseline`: expected values.

All three keep a profile, the expected value in each slot of a period (one slot where there is no
season), and a straight line. Between the slots the profile is interpolated linearly.
"""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import polars as pl

from apm_analytics.baselines.models import row_kernels
from apm_analytics.baselines.models.estimator import (
    CONSTANT,
    FITTED,
    NO_VALUES,
    TOO_SHORT,
    BatchBaseline,
    FitFlags,
    Rows,
    as_lists,
    as_matrix,
    checked_batch,
)
from apm_analytics.baselines.models.series import DAY_S, Floats, Ints, Times, seconds
from apm_analytics.foundation.errors import BadParameter

PERIODS_S = {"day": DAY_S, "week": 7.0 * DAY_S}
Period = Literal["day", "week"]
Center = Literal["median", "mean"]
# A slot is fitted together with its neighbours within half an hour: what is usual at 9:30 is
# usual at 9:10, and a median of a few weeks alone would be noise.
REACH_S = 1_800.0
# An older period stands in for a slot without a value in the last one.
PERIODS_BACK = 3


@dataclass(frozen=True)
class _Profile:
    """The slots of a period, and the expected value of each series in them.

    `phases` of shape (n_slots,): seconds into the period. `middle` of shape (n_series, n_slots).
    `slope` (1/s) and `anchor` (s) of shape (n_series,).
    """

    period_s: float
    phases: Floats
    middle: Floats
    slope: Floats
    anchor: Floats

    def at(self, times: Times) -> Floats:
        """Return the expected values at any times, of shape (n_series, n_times)."""
        since_1970 = seconds(times)
        trend = self.slope[:, None] * (since_1970 - self.anchor[:, None])
        if self.phases.size == 1:
            return self.middle + trend
        phase = since_1970 % self.period_s
        right = np.searchsorted(self.phases, phase, side="right") % self.phases.size
        left = right - 1
        gap = (self.phases[right] - self.phases[left]) % self.period_s
        weight = ((phase - self.phases[left]) % self.period_s) / gap
        result: Floats = self.middle[:, left] * (1.0 - weight) + self.middle[:, right] * weight
        result += trend
        return result


class _SlotBaseline(BatchBaseline):
    """Base of the baselines with a profile: prediction and the table of parameters."""

    _profile: _Profile

    def expected(self, times: Times) -> Floats:
        return self._profile.at(times)

    def frame(self) -> pl.DataFrame:
        profile = self._profile
        n = self.flags_.size
        return pl.DataFrame(
            {
                "flag": self.flags_.tolist(),
                "period_s": np.full(n, profile.period_s),
                "phases": as_lists(np.tile(profile.phases, (n, 1))),
                "middle": as_lists(profile.middle),
                "slope": profile.slope,
                "anchor_s": profile.anchor,
            },
            schema_overrides={"flag": pl.String},
        )

    def with_frame(self, frame: pl.DataFrame) -> Self:
        self.flags_ = frame["flag"].to_numpy().astype("<U9")
        self._profile = _Profile(
            float(frame["period_s"].first() or DAY_S),  # type: ignore[arg-type]
            as_matrix(frame["phases"].head(1)).ravel(),
            as_matrix(frame["middle"]),
            frame["slope"].to_numpy(),
            frame["anchor_s"].to_numpy(),
        )
        return self

    def _keep(self, slots: "_Slots", middle: Floats, slope: Floats) -> Self:
        """Set the profile; series that are too short predict NaN."""
        row_kernels.close_ring(middle)
        middle[np.isin(self.flags_, (TOO_SHORT, NO_VALUES))] = np.nan
        anchor = np.full(len(middle), slots.anchor)
        self._profile = _Profile(slots.period_s, slots.phases, middle, slope / DAY_S, anchor)
        return self


class ProfileBaseline(_SlotBaseline):
    """Medians by time of day or time of week, carried along a straight trend.

    Parameters
    ----------
    period : "day" or "week".
    days : how far back the profile and the trend look.

    Examples
    --------
    >>> ProfileBaseline(period="week").fit(times, values).expected(tomorrow)  # doctest: +SKIP
    """

    model = "profile"

    def __init__(self, period: Period = "day", days: float = 14.0):
        self.period = period
        self.days = days

    def fit(self, times: Times, values: Floats) -> Self:
        rows = checked_batch(times, values)
        values = rows.values
        slots = _Slots.of(times, self.period)
        self.flags_ = _flags_of_periods(times, rows, slots.period_s)
        oldest = int(np.searchsorted(seconds(times), slots.anchor - self.days * DAY_S))
        recent = np.ascontiguousarray(values[:, oldest:])
        slot, days = slots.slot[oldest:], slots.days[oldest:]
        rough = _ring_medians(recent, slot, slots.count, 0)
        slope = np.empty(len(values))
        row_kernels.slopes(recent, slot, rough, np.floor(days).astype(np.int64), slope)
        level = recent - slope[:, None] * (days - slots.anchor / DAY_S)
        return self._keep(slots, _ring_medians(level, slot, slots.count, slots.reach), slope)


class SeasonalNaiveBaseline(_SlotBaseline):
    """The value one period before; the peer that every richer model has to beat."""

    model = "seasonal_naive"

    def __init__(self, period: Period = "week"):
        self.period = period

    def fit(self, times: Times, values: Floats) -> Self:
        rows = checked_batch(times, values)
        slots = _Slots.of(times, self.period)
        self.flags_ = _flags_of_periods(times, rows, slots.period_s)
        back = slots.anchor - PERIODS_BACK * slots.period_s
        oldest = int(np.searchsorted(seconds(times), back))
        middle = np.full((len(rows.values), slots.count), np.nan)
        row_kernels.last_in_slot(rows.values, slots.slot, oldest, middle)
        return self._keep(slots, middle, np.zeros(len(middle)))


class RobustBaseline(_SlotBaseline):
    """The same value at all times: no season, no trend.

    Parameters
    ----------
    center : "median", or "mean" for ratios of rare failures, whose median is always 0.
    """

    model = "robust"

    def __init__(self, center: Center = "median"):
        self.center = center

    def fit(self, times: Times, values: Floats) -> Self:
        rows = checked_batch(times, values)
        values, self.flags_ = rows.values, rows.flags
        if self.center == "mean":
            known = ~np.isnan(values)
            total = np.sum(values, axis=1, where=known, keepdims=True)
            middle = total / np.maximum(known.sum(axis=1, keepdims=True), 1)
        else:
            middle = np.full((len(values), 1), np.nan)
            row_kernels.quantiles(values, np.array([0.5]), middle)
        anchor = float(seconds(times[-1:])[0])
        slots = _Slots(DAY_S, 1, np.zeros(1), np.zeros(0, np.int64), np.zeros(0), anchor, 0)
        return self._keep(slots, middle, np.zeros(len(values)))


@dataclass(frozen=True)
class _Slots:
    """How a grid of times maps to the slots of a period."""

    period_s: float
    count: int
    phases: Floats
    slot: Ints
    days: Floats
    anchor: float
    reach: int

    @classmethod
    def of(cls, times: Times, period: str) -> "_Slots":
        if period not in PERIODS_S:
            raise BadParameter(f"got period={period!r}, need one of {sorted(PERIODS_S)}")
        period_s = PERIODS_S[period]
        at = seconds(times)
        step = float(np.median(np.diff(at))) if at.size > 1 else period_s
        count = max(int(period_s / max(step, 1.0) + 1e-9), 1)
        slot = np.minimum((at % period_s) / period_s * count, count - 1).astype(np.int64)
        sizes = np.bincount(slot, minlength=count)
        # The mean time in each slot; of a slot without any time, its middle.
        phases = (np.arange(count) + 0.5) * period_s / count
        some = sizes > 0
        phases[some] = (np.bincount(slot, at % period_s, count) / np.maximum(sizes, 1))[some]
        reach = min(round(REACH_S / max(step, 1.0)), (count - 1) // 2)
        return cls(period_s, count, phases, slot, at / DAY_S, float(at[-1]), reach)


def value_before(times: Times, values: Floats, period_s: float) -> Floats:
    """Return the value one period before each time, NaN where there is none."""
    at = seconds(times)
    place = np.minimum(np.searchsorted(at, at - period_s), at.size - 1)
    before: Floats = np.where(at[place] == at - period_s, values[:, place], np.nan)
    return before


def _ring_medians(values: Floats, slot: Ints, count: int, reach: int) -> Floats:
    medians = np.full((len(values), count), np.nan)
    row_kernels.ring_medians(values, slot, count, reach, medians)
    return medians


def _flags_of_periods(times: Times, rows: Rows, period_s: float) -> FitFlags:
    """Return the outcomes; a series that does not cover one period is too short for a season."""
    at = seconds(times)
    step = float(np.median(np.diff(at))) if at.size > 1 else 0.0
    short = rows.span_s(times) + step < period_s
    rows.flags[short & np.isin(rows.flags, (FITTED, CONSTANT))] = TOO_SHORT
    return rows.flags
