"""Bounds from a model's own errors: empirical quantiles that incidents do not widen.

In:  a series and its residuals on the model's scale.
Out: `Calibration`: spread by hour of the week, and the quantiles of the residuals over it.

This is conformal prediction with a normalised score [1]_: no distribution is assumed. Windows
far beyond the bulk of the residuals, such as those of an incident, are masked first; quantiles
of what is left hold for quiet windows.

References
----------
.. [1] Lei et al., Distribution-Free Predictive Inference for Regression, JASA 2018.
"""

from dataclasses import dataclass

import numpy as np

from apm_analytics.baselines.band import Band, side_score
from apm_analytics.baselines.scales import Floats, Scale
from apm_analytics.baselines.series import (
    HOURS_PER_WEEK,
    Flags,
    Series,
    Times,
    hour_of_week,
    week_profile,
)

MAD_TO_SD = 1.4826
# Hours to each side that share their spread: 5 h of 4 weeks are 240 windows, good to 6 %.
SPREAD_REACH_H = 2
# Beyond 3 times the distance of the 95 % quantile lie 1e-6 of normal residuals and 1e-4 of
# exponential ones; incidents in up to 5 % of the windows do not move that quantile much.
MASK_QUANTILE = 0.95
MASK_FACTOR = 3.0
MASK_DEVIATIONS = 5.0
# More than this is no incident but how the operation is now; then nothing is masked.
MAX_MASKED_RATIO = 0.10


@dataclass(frozen=True)
class Calibration:
    """How far the values of one series stray from a model.

    Parameters
    ----------
    spread : float64 of shape (168,), robust standard deviation by hour of the week.
    requests : float64 of shape (168,), usual requests in a window by hour of the week.
    low, high : quantiles of residual / spread below and above which a value is outside.
    masked : windows left out of the quantiles.
    """

    spread: Floats
    requests: Floats
    low: float
    high: float
    masked: int

    def scaled_band(
        self, scaled: Floats, times: Times, scale: Scale
    ) -> tuple[Floats, Floats, Floats]:
        """Give expected value, lower and upper bound on the model's scale."""
        hours = hour_of_week(times)
        expected = scale.backward(scaled)
        margin = scale.margin(expected, self.requests[hours])
        spread = self.spread[hours]
        upper = np.maximum(scaled + self.high * spread, scale.forward(expected + margin))
        lower = np.minimum(scaled + self.low * spread, scale.forward(expected - margin))
        if not scale.two_sided:
            lower = np.minimum(lower, scale.forward(np.zeros_like(expected)))
        return scaled, lower, upper

    def band(self, scaled: Floats, times: Times, scale: Scale) -> Band:
        """Give expected value and bounds in the signal's unit."""
        return Band(*(scale.backward(part) for part in self.scaled_band(scaled, times, scale)))

    def score(self, scaled: Floats, times: Times, values: Floats, scale: Scale) -> Floats:
        """Score values against their bounds, on the model's scale."""
        score = side_score(scale.forward(values), *self.scaled_band(scaled, times, scale))
        return score if scale.two_sided else np.where(values < scale.backward(scaled), 0.0, score)


def quiet_windows(series: Series, residuals: Floats, *, grid_s: float) -> Flags:
    """Tell which windows look undisturbed, alone and as part of their slot of `grid_s`."""
    standard = residuals / _spread(series, residuals)[hour_of_week(series.times)]
    known = np.isfinite(standard)
    odd = np.zeros(known.shape, dtype=np.bool_)
    odd[known] = _beyond(standard[known], least=MASK_DEVIATIONS)
    # A slot of many slightly odd windows is as unlikely as one very odd window.
    slots = series.times.astype(np.int64) // int(grid_s * 1e6)
    labels, slot_of = np.unique(slots[known], return_inverse=True)
    if labels.size > 1:
        sizes = np.bincount(slot_of)
        means = np.bincount(slot_of, weights=standard[known]) / sizes
        odd[known] |= _beyond(means, least=MASK_DEVIATIONS / np.sqrt(np.median(sizes)))[slot_of]
    if odd.sum() > MAX_MASKED_RATIO * known.sum():
        odd[:] = False
    return ~odd


def calibrate(series: Series, residuals: Floats, quiet: Flags, *, level: float) -> Calibration:
    """Learn the bounds that hold a share `level` of the quiet windows.

    Parameters
    ----------
    series : the history.
    residuals : float64 of shape (n,), value minus model on the model's scale; NaN where unknown.
    quiet : windows to learn from, see `quiet_windows`.
    level : share of windows inside; what is outside is split over the sides that count.
    """
    residuals = np.where(quiet, residuals, np.nan)
    spread = _spread(series, residuals)
    standard = residuals / spread[hour_of_week(series.times)]
    standard = np.sort(standard[np.isfinite(standard)])
    outside = (1.0 - level) / (2.0 if series.scale.two_sided else 1.0)
    # The conformal rank: one further out than the plain quantile, at most the largest seen.
    rank = min(int(np.ceil((standard.size + 1) * (1.0 - outside))), standard.size) - 1
    return Calibration(
        spread=spread,
        requests=requests_profile(series),
        low=min(float(standard[standard.size - 1 - rank]), 0.0),
        high=max(float(standard[rank]), 0.0),
        masked=int((~quiet & series.known).sum()),
    )


def requests_profile(series: Series) -> Floats:
    """Give the usual requests in a window by hour of the week, over windows with a value."""
    known = np.where(series.known, series.requests, np.nan)
    return week_profile(series.times, known, reach=1)


def _spread(series: Series, residuals: Floats) -> Floats:
    """Estimate the noise of each hour of the week, never below what sampling alone makes."""
    hourly = MAD_TO_SD * week_profile(series.times, np.abs(residuals), reach=SPREAD_REACH_H)
    spread: Floats = np.maximum(hourly, series.scale.noise(requests_profile(series)))
    assert spread.shape == (HOURS_PER_WEEK,)
    return spread


def _beyond(standard: Floats, *, least: float) -> Flags:
    """Flag values far beyond the bulk, side by side."""
    low, middle, high = np.quantile(standard, [1 - MASK_QUANTILE, 0.5, MASK_QUANTILE])
    flags: Flags = (standard > middle + max(MASK_FACTOR * (high - middle), least)) | (
        standard < middle - max(MASK_FACTOR * (middle - low), least)
    )
    return flags
