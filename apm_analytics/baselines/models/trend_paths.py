"""How far future values stray from Prophet's curve: noise, and trend changes still to come.

In:  noise and past trend changes of many series, and times.
Out: half the width of the interval at each time, on the scale of the objective.

Prophet draws for each series: at every future step the slope changes with the probability of the
past, by a Laplace number of their mean size. That law is the same for all series but for its
scale, so one set of paths serves all; a table over (share of the trend, step) gives its
quantiles. Only series whose probability of a change differs get paths of their own.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from apm_analytics.baselines.models.prophet_kernels import Floats

PATHS = 4000
# Shares of the trend in the deviation, and steps, at which quantiles are tabulated.
SHARES = np.array([0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.87, 0.93, 0.97, 1.0])
STEPS = 24
# Probabilities closer than this factor share their paths: the width goes with their root.
SAME_PROBABILITY = 1.02
# Prophet's own floor under the mean size of a trend change.
LEAST_DELTA = 1e-8


def half_width(
    at: Floats,
    *,
    interval: float,
    end: Floats,
    t_scale: Floats,
    n_changepoints: NDArray[np.int64],
    mean_delta: Floats,
    sigma: Floats,
    seed: int,
) -> Floats:
    """Give half the width of the interval, of shape (n_series, n_times).

    Parameters
    ----------
    at : seconds of shape (n_times,). end, t_scale : last time and length of each history.
    interval : share of values inside.
    n_changepoints, mean_delta, sigma : of each series.
    """
    noise_only = float(ndtri(0.5 + interval / 2.0))
    half = np.repeat(noise_only * sigma[:, None], at.size, axis=1)
    for last in np.unique(end):
        future = at > last
        steps = int(future.sum())
        if not steps:
            continue
        step_s = float(np.diff(np.sort(at[future])).mean()) if steps > 1 else 1.0
        order = np.argsort(np.argsort(at[future], kind="stable"), kind="stable")
        rows = np.flatnonzero((end == last) & (n_changepoints > 0))
        share_of_step = step_s / t_scale[rows]
        chance = np.minimum(n_changepoints[rows] * share_of_step, 1.0)
        kind = np.round(np.log(chance) / math.log(SAME_PROBABILITY))
        for one in np.unique(kind):
            chosen = kind == one
            table = _Table.of(float(np.median(chance[chosen])), steps, interval, seed)
            trend = (mean_delta[rows[chosen]] + LEAST_DELTA) * share_of_step[chosen]
            width = table.width(trend, sigma[rows[chosen]])
            half[np.ix_(rows[chosen], future)] = width[:, order]
    return half


class _Table:
    """Quantiles of the deviation in units of its standard deviation, by step and trend share."""

    def __init__(self, steps: Floats, sd: Floats, quantiles: Floats) -> None:
        self._steps, self._sd, self._quantiles = steps, sd, quantiles

    @classmethod
    def of(cls, chance: float, steps: int, interval: float, seed: int) -> "_Table":
        draw = np.random.default_rng(seed)
        path = np.zeros((PATHS, steps))
        changed = draw.random(path.shape) < chance
        path[changed] = draw.laplace(size=int(changed.sum()))
        # A change takes place in the middle of its step, as in Prophet.
        path[:, 1:] = (path[:, 1:] + path[:, :-1]) / 2.0
        path[:, 0] /= 2.0
        path = path.cumsum(axis=1).cumsum(axis=1)
        weight = np.cumsum((np.arange(steps) + 0.5) ** 2)
        sd = np.sqrt(2.0 * chance * weight)
        noise = ndtri((np.arange(PATHS) + 0.5) / PATHS)
        draw.shuffle(noise)
        chosen = np.unique(np.geomspace(1, steps, min(STEPS, steps)).round().astype(np.int64)) - 1
        unit = path[:, chosen] / sd[chosen]
        quantiles = np.stack(
            [
                np.quantile(
                    np.abs(share * unit + math.sqrt(1.0 - share**2) * noise[:, None]),
                    interval,
                    axis=0,
                )
                for share in SHARES
            ],
            axis=1,
        )
        rows = np.arange(steps, dtype=np.float64)
        filled = np.stack([np.interp(rows, chosen, column) for column in quantiles.T], axis=1)
        return cls(rows, sd, filled)

    def width(self, trend: Floats, sigma: Floats) -> Floats:
        """Give half widths of shape (n_series, n_steps); `trend` is the size of a change."""
        from_trend = trend[:, None] * self._sd
        total = np.sqrt(from_trend**2 + sigma[:, None] ** 2)
        share = from_trend / total
        left = np.clip(np.searchsorted(SHARES, share) - 1, 0, SHARES.size - 2)
        weight = (share - SHARES[left]) / (SHARES[left + 1] - SHARES[left])
        step = np.arange(self._steps.size)[None, :]
        low, high = self._quantiles[step, left], self._quantiles[step, left + 1]
        result: Floats = ((1.0 - weight) * low + weight * high) * total
        return result
