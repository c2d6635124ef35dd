"""Seasons as Fourier columns, and which seasons a span of time can show.

In:  times and seasons.
Out: a matrix with a sine and a cosine column per term.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apm_analytics.baselines.models.series import DAY_S, Floats, Times, seconds


@dataclass(frozen=True)
class Season:
    """A pattern that repeats every `period_days`, as `order` sine and cosine pairs."""

    name: str
    period_days: float
    order: int


YEARLY = Season("yearly", 365.25, 10)
WEEKLY = Season("weekly", 7.0, 3)
DAILY = Season("daily", 1.0, 4)
# Prophet's rules: a season needs two periods, and a grid finer than one period.
_RULES = ((YEARLY, 730.0, np.inf), (WEEKLY, 14.0, 7.0), (DAILY, 2.0, 1.0))


def seasons_of(span_s: float, step_s: float) -> tuple[Season, ...]:
    """Return the seasons that Prophet would fit to a history of this length on this grid.

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
    """Return the columns of all seasons, of shape (n_times, 2 * sum of orders)."""
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
