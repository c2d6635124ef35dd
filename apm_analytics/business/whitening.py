"""Remove from a series what many series share: trend, weekly pattern, demand, autocorrelation.

In:  one value per window, equally spaced; missing ones are NaN.
Out: residuals, and innovations without autocorrelation.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, solve_toeplitz
from scipy.signal import lfilter

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MAX_ORDER = 26  # of the autoregression: a day of hours and a little more
DEMAND_LAGS = 4  # the demand of this window and of the three before
MIN_VARIANCE_RATIO = 1e-10  # below it a series is constant to the precision of its numbers


def deseasonalised(values: Floats, hour_of_week: Ints) -> Floats:
    """Subtract the linear trend, then the median of each hour of the week.

    Parameters
    ----------
    values : shape (n_windows,), NaN where missing.
    hour_of_week : shape (n_windows,), 0 to 167.
    """
    known = np.isfinite(values)
    if not known.any():
        return np.full_like(values, np.nan)
    steps = np.arange(values.size, dtype=np.float64)
    slope, level = np.polyfit(steps[known], values[known], 1) if known.sum() > 1 else (0.0, 0.0)
    rest = values - (level + slope * steps)
    for hour in np.unique(hour_of_week[known]):
        in_hour = known & (hour_of_week == hour)
        rest[in_hour] -= np.median(rest[in_hour])
    return rest


def without_demand(residuals: Floats, demand: Floats) -> Floats:
    """Partial out demand of this and the three previous windows, by least squares.

    Where demand is NaN, the result is NaN.
    """
    columns = [np.ones_like(demand)]
    for lag in range(DEMAND_LAGS):
        columns.append(np.concatenate([np.full(lag, np.nan), demand[: demand.size - lag]]))
    design = np.column_stack(columns)
    known = np.isfinite(residuals) & np.isfinite(design).all(axis=1)
    if known.sum() <= design.shape[1]:
        return np.full_like(residuals, np.nan)
    weights = np.linalg.lstsq(design[known], residuals[known], rcond=None)[0]
    left: Floats = residuals - design @ weights
    return left


def autoregression(residuals: Floats) -> Floats:
    """Fit AR(p) by Yule-Walker with p <= 26 chosen by AIC; return the p coefficients."""
    known = np.isfinite(residuals)
    count = int(known.sum())
    centred = np.where(known, residuals - residuals[known].mean(), 0.0)
    highest = min(MAX_ORDER, count // 4)
    covariance = np.array(
        [centred[: centred.size - lag] @ centred[lag:] / count for lag in range(highest + 1)]
    )
    best, chosen = count * np.log(max(covariance[0], np.finfo(float).tiny)), np.empty(0)
    for order in range(1, highest + 1):
        try:
            weights = solve_toeplitz(covariance[:order], covariance[1 : order + 1])
        except LinAlgError:
            break
        variance = covariance[0] - weights @ covariance[1 : order + 1]
        if variance <= 0:
            break
        criterion = count * np.log(variance) + 2 * order
        if criterion < best:
            best, chosen = criterion, weights
    return chosen


def filled(residuals: Floats, weights: Floats) -> Floats:
    """Fill gaps with the prediction from the series' past, so that a filter can run over them."""
    known = np.isfinite(residuals)
    result = np.where(known, residuals - residuals[known].mean(), 0.0)
    order = weights.size
    for place in np.flatnonzero(~known):
        past = result[max(place - order, 0) : place][::-1]
        result[place] = past @ weights[: past.size]
    return result


def innovations(series: Floats, weights: Floats) -> Floats:
    """Filter a series without gaps by an autoregression; the first p windows are NaN."""
    result: Floats = lfilter(np.concatenate([[1.0], -weights]), [1.0], series)
    result[: weights.size] = np.nan
    return result


def is_constant(values: Floats) -> bool:
    """Return whether all known values are equal, to the precision of a double."""
    known = values[np.isfinite(values)]
    if not known.size:
        return True
    scale = float(np.mean(known**2))
    return bool(np.var(known) <= MIN_VARIANCE_RATIO * scale) if scale else True
