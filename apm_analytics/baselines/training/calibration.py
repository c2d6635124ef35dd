"""Bounds from the errors of a model: empirical quantiles that incidents do not widen.

In:  residuals of many series on the model's scale, and which windows to train on.
Out: `Calibration`: spread by hour of the week, and the quantiles of the residuals over it.

This is conformal prediction with a normalised score [1]_: no distribution is assumed. Windows
far beyond the bulk of the residuals, such as those of an incident, are masked first; the
quantiles of the rest hold for quiet windows.

References
----------
.. [1] Lei et al., Distribution-Free Predictive Inference for Regression, JASA 2018.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apm_analytics.baselines.models import row_kernels
from apm_analytics.baselines.models.band import Band, side_score
from apm_analytics.baselines.models.scales import MAD_TO_SD, Floats, Scale
from apm_analytics.baselines.models.series import Flags, Times, hour_of_week
from apm_analytics.foundation.time import HOURS_PER_WEEK

# Hours to each side that share their spread: 5 h of 4 weeks are 240 windows, good to 6 %.
SPREAD_REACH_H = 2
REQUESTS_REACH_H = 1
# Beyond 3 times the distance of the 95 % quantile lie 1e-6 of normal residuals and 1e-4 of
# exponential ones; incidents in up to 5 % of the windows do not move that quantile much.
MASK_QUANTILE = 0.95
MASK_FACTOR = 3.0
MASK_DEVIATIONS = 5.0
# A larger share is not an incident but the new normal; then nothing is masked.
MAX_MASKED_RATIO = 0.10


@dataclass(frozen=True)
class Calibration:
    """Spread and quantiles of the errors of many series.

    Parameters
    ----------
    spread : float64 of shape (n, 168), robust standard deviation by hour of the week.
    requests : float64 of shape (n, 168), usual requests in a window by hour of the week.
    low, high : float64 of shape (n,), the residual / spread below and above which a value is
        outside.
    masked : int64 of shape (n,), windows left out of the quantiles.
    """

    spread: Floats
    requests: Floats
    low: Floats
    high: Floats
    masked: NDArray[np.int64]

    def pick(self, rows: NDArray[np.int64]) -> "Calibration":
        """Keep some series."""
        return Calibration(*(part[rows] for part in vars(self).values()))

    def scaled_band(
        self, scaled: Floats, times: Times, scale: Scale
    ) -> tuple[Floats, Floats, Floats]:
        """Return expected value, lower and upper bound on the model's scale, each (n, n_times)."""
        hours = hour_of_week(times)
        expected = scale.backward(scaled)
        margin = scale.margin(expected, self.requests[:, hours])
        spread = self.spread[:, hours]
        upper = scaled + self.high[:, None] * spread
        upper = np.maximum(upper, scale.forward(expected + margin))
        lower = scaled + self.low[:, None] * spread
        lower = np.minimum(lower, scale.forward(expected - margin))
        if not scale.two_sided:
            lower = np.minimum(lower, scale.forward(np.zeros_like(expected)))
        return scaled, lower, upper

    def band(self, scaled: Floats, times: Times, scale: Scale) -> Band:
        """Return expected value and bounds in the signal's unit."""
        return Band(*(scale.backward(part) for part in self.scaled_band(scaled, times, scale)))

    def score(self, scaled: Floats, times: Times, values: Floats, scale: Scale) -> Floats:
        """Score values against their bounds, on the model's scale."""
        score = side_score(scale.forward(values), *self.scaled_band(scaled, times, scale))
        return score if scale.two_sided else np.where(values < scale.backward(scaled), 0.0, score)


def requests_by_hour(times: Times, values: Floats, requests: Floats) -> Floats:
    """Return the usual requests in a window by hour of the week, over windows with a value."""
    return by_hour(times, np.where(np.isnan(values), np.nan, requests), REQUESTS_REACH_H)


def spread_by_hour(times: Times, residuals: Floats, requests: Floats, scale: Scale) -> Floats:
    """Estimate the noise of each hour of the week, at least that of sampling alone.

    Parameters
    ----------
    residuals : (n, n_time) on the model's scale. requests : (n, 168), usual ones.
    """
    hourly = MAD_TO_SD * by_hour(times, np.abs(residuals), SPREAD_REACH_H)
    spread: Floats = np.fmax(hourly, scale.noise(requests))
    return spread


def by_hour(times: Times, values: Floats, reach: int) -> Floats:
    """Return the median of each hour of the week with its neighbours, of shape (n, 168).

    Hours without any value take the median of all; no value at all gives NaN.
    """
    profile = np.full((len(values), HOURS_PER_WEEK), np.nan)
    row_kernels.ring_medians(values, hour_of_week(times), HOURS_PER_WEEK, reach, profile)
    holes = np.isnan(profile).any(axis=1)
    if holes.any():
        overall = np.full((int(holes.sum()), 1), np.nan)
        row_kernels.quantiles(values[holes], np.array([0.5]), overall)
        profile[holes] = np.where(np.isnan(profile[holes]), overall, profile[holes])
    return profile


def quiet_windows(times: Times, residuals: Floats, spread: Floats, *, slot_s: float) -> Flags:
    """Return which windows look undisturbed, alone and as part of their slot of `slot_s`.

    A slot of many slightly odd windows is as unlikely as one very odd window.
    """
    standard = residuals / spread[:, hour_of_week(times)]
    odd = _beyond(standard, np.full((len(standard), 1), MASK_DEVIATIONS))
    slots = times.astype(np.int64) // int(slot_s * 1e6)
    begin = np.flatnonzero(np.r_[True, slots[1:] != slots[:-1]])
    if begin.size > 1:
        known = ~np.isnan(standard)
        sizes = np.add.reduceat(known.astype(np.float64), begin, axis=1)
        sums = np.add.reduceat(np.where(known, standard, 0.0), begin, axis=1)
        sizes[sizes == 0] = np.nan
        usual = np.full((len(sizes), 1), np.nan)
        row_kernels.quantiles(sizes, np.array([0.5]), usual)
        far = _beyond(sums / sizes, MASK_DEVIATIONS / np.sqrt(usual))
        widths = np.diff(np.r_[begin, slots.size])
        odd |= np.repeat(far, widths, axis=1)
    odd &= ~np.isnan(standard)
    too_many = odd.sum(axis=1) > MAX_MASKED_RATIO * (~np.isnan(standard)).sum(axis=1)
    odd[too_many] = False
    return ~odd


def conformal(standard: Floats, scale: Scale, level: float) -> tuple[Floats, Floats]:
    """Return the residuals over spread below and above which a value is outside, each (n,).

    Parameters
    ----------
    standard : (n, n_windows), residual / spread of quiet windows the models had not seen.
    level : share of windows inside; the rest is split over the sides that can be anomalous.
    """
    outside = (1.0 - level) / (2.0 if scale.two_sided else 1.0)
    ordered = np.sort(standard, axis=1)  # NaN last
    size = (~np.isnan(ordered)).sum(axis=1)
    # The conformal rank: one further out than the plain quantile, at most the largest seen.
    rank = np.clip(np.ceil((size + 1) * (1.0 - outside)).astype(np.int64), 1, size) - 1
    rows = np.arange(len(ordered))
    low = np.minimum(ordered[rows, np.maximum(size - 1 - rank, 0)], 0.0)
    high = np.maximum(ordered[rows, np.maximum(rank, 0)], 0.0)
    return np.where(size > 0, low, np.nan), np.where(size > 0, high, np.nan)


def _beyond(standard: Floats, least: Floats) -> Flags:
    """Flag values far beyond the bulk of their row, on each side; `least` is (n, 1)."""
    quantiles = np.full((len(standard), 3), np.nan)
    shares = np.array([1 - MASK_QUANTILE, 0.5, MASK_QUANTILE])
    row_kernels.quantiles(standard, shares, quantiles)
    low, middle, high = quantiles[:, :1], quantiles[:, 1:2], quantiles[:, 2:]
    above = middle + np.fmax(MASK_FACTOR * (high - middle), least)
    below = middle - np.fmax(MASK_FACTOR * (middle - low), least)
    flags: Flags = (standard > above) | (standard < below)
    return flags
