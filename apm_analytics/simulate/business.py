"""Draw business figures and metrics with known relations, to evaluate methods against.

In:  a seed, the number and strength of leading metrics, the depth of an incident.
Out: hourly series with their true lags; a figure per 5 minutes with its true loss.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Floats = NDArray[np.float64]
HOURS_PER_WEEK, WINDOWS_PER_DAY, WINDOWS_PER_HOUR = 168, 288, 12
BURN_IN = 200


@dataclass(frozen=True)
class Related:
    """A figure and metrics, hourly; `lags` holds the metrics that lead it, with their hours."""

    figure: Floats
    metrics: dict[str, Floats]
    demand: Floats
    lags: dict[str, int]


@dataclass(frozen=True)
class Cut:
    """A figure with an incident in windows [first, last) of 5 minutes, and its true loss."""

    figure: Floats
    control: Floats
    first: int
    last: int
    loss: float


def related(
    seed: int,
    *,
    weeks: int = 6,
    metrics: int = 100,
    leading: int = 10,
    strength: float = 0.35,
    max_lag: int = 6,
    shock: float = 0.0,
) -> Related:
    """Draw a figure and metrics with daily and weekly seasons; some metrics reduce it after a lag.

    Parameters
    ----------
    strength : how much a leading metric's deviation reduces the figure, both of unit variance.
    shock : effect of a swing of demand, outside the seasons, on every series.
    """
    rng = np.random.default_rng(seed)
    hours = weeks * HOURS_PER_WEEK
    swing = _memory(rng, hours, 0.9)
    deviations = [_memory(rng, hours, rng.uniform(0.3, 0.9)) for _ in range(metrics)]
    lags = {f"metric_{number}": int(rng.integers(0, max_lag + 1)) for number in range(leading)}
    news = _memory(rng, hours, 0.6)
    for number, lag in enumerate(lags.values()):
        news = news - strength * np.concatenate([np.zeros(lag), deviations[number][: hours - lag]])
    news = news / news.std() + 1.4 * shock * swing
    demand = swing + rng.normal(0, 0.1, hours)
    return Related(
        _week(rng, hours) * 5 + _slope(rng, hours) + 0.5 * news,
        {
            f"metric_{number}": _week(rng, hours) * 5
            + _slope(rng, hours)
            + 0.5 * (deviation + shock * swing)
            for number, deviation in enumerate(deviations)
        },
        _week(rng, hours) * 5 + demand,
        lags,
    )


def cut(
    seed: int, *, days: int = 28, hours: float = 2.0, depth: float = 0.3, per_window: float = 200.0
) -> Cut:
    """Draw a figure and a control segment; an incident on the last day reduces the figure.

    Parameters
    ----------
    depth : the share that is lost.
    per_window : approximate mean of the figure per window of 5 minutes.
    """
    rng = np.random.default_rng(seed)
    count = days * WINDOWS_PER_DAY
    hour = np.arange(count) % WINDOWS_PER_DAY / WINDOWS_PER_HOUR
    weekend = np.arange(count) // WINDOWS_PER_DAY % 7 >= 5
    usual = per_window * (0.35 + np.exp(np.cos((hour - 15) * np.pi / 12))) / 2
    usual = usual * np.where(weekend, 0.75, 1.0)
    common = 0.05 * _memory(rng, count, 0.9)
    figure = usual * np.exp(common + 0.08 * _memory(rng, count, 0.7))
    control = 1.7 * usual * np.exp(common + 0.08 * _memory(rng, count, 0.7))
    length = round(hours * WINDOWS_PER_HOUR)
    first = count - WINDOWS_PER_DAY + int(rng.integers(60, WINDOWS_PER_DAY - length - 60))
    hit = figure.copy()
    hit[first : first + length] *= 1 - depth
    return Cut(hit, control, first, first + length, float((figure - hit).sum()))


def _memory(rng: np.random.Generator, count: int, phi: float) -> Floats:
    """Draw AR(1) noise of unit variance."""
    shocks = rng.normal(0, np.sqrt(1 - phi**2), count + BURN_IN)
    result: Floats = lfilter([1.0], [1.0, -phi], shocks)[BURN_IN:]
    return result


def _week(rng: np.random.Generator, hours: int) -> Floats:
    """Draw the shape of a business week, 1 on average."""
    clock = np.arange(hours)
    peak = np.exp(
        np.cos((clock % 24 - 14 - rng.normal(0, 1.5)) * np.pi / 12) * rng.uniform(0.8, 1.5)
    )
    weekend = 1 - 0.4 * rng.uniform(0.5, 1) * (clock // 24 % 7 >= 5)
    result: Floats = peak / peak.mean() * weekend
    return result


def _slope(rng: np.random.Generator, hours: int) -> Floats:
    return np.linspace(0, 1, hours) * rng.uniform(-2, 2)
