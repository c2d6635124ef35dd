"""Seasons as columns: which a span of time can show, and their Fourier terms.

In:  times and the seasons wanted.
Out: a matrix with a sine and a cosine column a term.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apm_analytics.baselines.models.prophet_kernels import Floats
from apm_analytics.baselines.models.series import DAY_S, Times, seconds


@dataclass(frozen=True)
class Season:
    """What repeats: every `period_days`, as `order` sine and cosine pairs."""

    name: str
    period_days: float
    order: int


YEARLY = Season("yearly", 365.25, 10)
WEEKLY = Season("weekly", 7.0, 3)
DAILY = Season("daily", 1.0, 4)
# Prophet's own rules: a season needs two periods, and a grid finer than itself.
_RULES = ((YEARLY, 730.0, np.inf), (WEEKLY, 14.0, 7.0), (DAILY, 2.0, 1.0))


def seasons_of(span_s: float, step_s: float) -> tuple[Season, ...]:
    """Give the seasons that Prophet itself would learn from this much history on this grid.

    Examples
    --------
    >>> [season.name for season in seasons_of(15 * 86_400, 300)]
    ['weekly', 'daily']
    """
    return tuple(
        season
        for season, least_days, coarsest_days in _RULES
        if span_s >= least_days * DAY_S and step_s < coarsest_days * DAY_S
    )


def fourier(times: Times, seasons: Sequence[Season]) -> Floats:
    """Give the columns of all seasons, of shape (n_times, 2 * sum of orders)."""
    days = seconds(times) / DAY_S
    columns = [
        wave(2.0 * np.pi * (term + 1) / season.period_days * days)
        for season in seasons
        for term in range(season.order)
        for wave in (np.sin, np.cos)
    ]
    if not columns:
        return np.zeros((days.size, 0))
    return np.ascontiguousarray(np.column_stack(columns))
