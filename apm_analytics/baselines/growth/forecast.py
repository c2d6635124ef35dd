"""Forecast when growth takes a signal past a limit, with its uncertainty.

In:  times and values of one signal over at least two weeks, on any grid up to hours.
Out: `Growth`: a robust trend with its uncertainty and a weekly profile; a curve with its band,
     and when it passes a limit: a date with an interval, or a probability.

The trend is a Theil-Sen line through the daily medians after the weekly profile is removed; its
uncertainty comes from lines refitted to resampled residuals with their autocorrelation kept.
Forecasts assume that the growth of the history continues.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import Times, hour_of_week, seconds
from apm_analytics.foundation.errors import BadParameter, NotEnoughData
from apm_analytics.foundation.settings import ForecastParams
from apm_analytics.foundation.time import HOURS_PER_WEEK

Ints = NDArray[np.int64]
Status = Literal["within the horizon", "not within the horizon", "already past it"]

HOUR_S = 3_600.0
HOURS = 24
# Sunday and Saturday; hours of the week begin on Sunday.
WEEKEND = (0, 6)
# A day counts when this share of its hours has a value.
DAY_COVERED = 0.5
# Largest autocorrelation of days: above it trend and noise cannot be separated.
MOST_MEMORY = 0.95
# Parameters fitted to the days: value, slope, autocorrelation, offset between kinds of days.
FITTED = 4.0
# Rounds of fitting profile and trend in turn, each to the residuals of the other.
ROUNDS = 4


@dataclass(frozen=True)
class Crossing:
    """When a forecast passes a limit.

    Parameters
    ----------
    status : the outcome.
    on : the first day (UTC) on which the fit passes the limit; None unless within the horizon.
    earliest, latest : the first and the last day of the interval; `latest` is None when it lies
        beyond the horizon, both are None unless the limit is passed within it.
    probability : share of the replicates that pass the limit within the horizon.
    """

    status: Status
    on: date | None
    earliest: date | None
    latest: date | None
    probability: float


@dataclass(frozen=True)
class Curve:
    """A forecast hour by hour: times (datetime64[us], UTC) and values of shape (n_hours,).

    The band holds the share `level` of hours, trend and noise together.
    """

    times: Times
    expected: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True)
class Growth:
    """The growth of one signal.

    Parameters
    ----------
    end : datetime64[us], UTC, the end of the history.
    profile : float array of shape (168,), what each hour of the week adds; 0 is Sunday 00:00 UTC.
    lines : float array of shape (1 + n_replicates, 2): value at `end` and change per day, the fit
        first, then its replicates.
    noise : float array, residuals of the hours, for the band.
    params : params.yaml `forecast`.
    """

    end: np.datetime64
    profile: Floats
    lines: Floats
    noise: Floats
    params: ForecastParams

    @classmethod
    def fit(cls, times: Times, values: Floats, params: ForecastParams, *, seed: int) -> "Growth":
        """Fit the growth of a signal.

        Parameters
        ----------
        times : datetime64 of shape (n,), UTC, in any order.
        values : float array of shape (n,), in the unit of the signal; NaN is missing.
        params : params.yaml `forecast`.
        seed : of the replicates.

        Raises
        ------
        NotEnoughData
            Fewer than `params.min_days` days have values.

        Examples
        --------
        >>> from apm_analytics.foundation.settings import load
        >>> hours = np.arange("2026-01-01", "2026-02-12", dtype="datetime64[h]")
        >>> rate = 100.0 + np.arange(hours.size) / 24.0
        >>> growth = Growth.fit(hours, rate, load().params.forecast, seed=7)
        >>> growth.crossing(limit=160.0).status
        'within the horizon'
        """
        hours, medians = hourly(times, values)
        day = hours // HOURS
        days, counts = np.unique(day, return_counts=True)
        days = days[counts >= DAY_COVERED * HOURS]
        if days.size < params.min_days:
            raise NotEnoughData(
                f"{days.size} days have values, a forecast needs {params.min_days}; import more "
                "telemetry, or lower forecast.min_days in params.yaml"
            )
        kept = np.isin(day, days)
        hours, medians, day = hours[kept], medians[kept], day[kept]
        week = hour_of_week(_as_times(hours))
        end = hours[-1] + 1
        profile, trend = np.zeros(HOURS_PER_WEEK), np.zeros(hours.size)
        for _ in range(ROUNDS):
            profile = _profile(week, day, medians - trend)
            left = medians - profile[week]
            levels = np.array([np.median(left[day == one]) for one in days])
            middle = (days + 0.5) - end / HOURS
            at_end, slope = _theil_sen(middle, levels[None, :])
            trend = at_end[0] + slope[0] * (hours + 0.5 - end) / HOURS
        residuals = levels - (at_end[0] + slope[0] * middle)
        drawn = _redrawn(residuals, params.replicates, seed)
        starts, slopes = _theil_sen(middle, (levels - residuals)[None, :] + drawn)
        lines = np.column_stack([np.append(at_end, starts), np.append(slope, slopes)])
        return cls(_as_times(np.array([end]))[0], profile, lines, left - trend, params)

    @property
    def per_day(self) -> tuple[float, float, float]:
        """The change per day, in the unit of the signal: the fit, and its interval."""
        tail = (1.0 - self.params.level) / 2.0
        low, high = np.quantile(self.lines[1:, 1], [tail, 1.0 - tail])
        return float(self.lines[0, 1]), float(low), float(high)

    def curve(self, horizon_days: float | None = None) -> Curve:
        """Forecast hour by hour from the end of the history on."""
        times, days = self._ahead(horizon_days)
        expected = self._paths(days, times, self.lines[:1])[0]
        paths = self.lines[1:, :1] + self.lines[1:, 1:] * days
        tail = (1.0 - self.params.level) / 2.0
        noise = np.quantile(self.noise, [tail, 1.0 - tail])
        trend = self.lines[0, 0] + self.lines[0, 1] * days
        spread = np.quantile(paths, [tail, 1.0 - tail], axis=0) - trend
        # Trend and noise are independent, so the squares of their widths add up.
        lower = expected - np.hypot(spread[0], noise[0])
        upper = expected + np.hypot(spread[1], noise[1])
        return Curve(times, expected, lower, upper)

    def crossing(
        self, limit: float, *, below: bool = False, horizon_days: float | None = None
    ) -> Crossing:
        """Return when the expected curve passes a limit at its busiest hour.

        Parameters
        ----------
        limit : in the unit of the signal.
        below : the limit is a floor.
        horizon_days : how far to look; params.yaml `forecast.horizon_days` by default.

        Raises
        ------
        BadParameter
            The limit is not finite.
        """
        if not np.isfinite(limit):
            raise BadParameter(
                f"the limit is {limit}; pass a finite number in the unit of the signal"
            )
        times, days = self._ahead(horizon_days)
        sign = -1.0 if below else 1.0
        # The last week by the fit: is it past the limit without any further growth?
        week = np.arange(-HOURS_PER_WEEK, 0)
        past = self._paths(week / HOURS, _as_times(week + _hour(self.end)), self.lines[:1])
        if (sign * past >= sign * limit).any():
            return Crossing("already past it", None, None, None, 1.0)
        beyond = sign * self._paths(days, times, self.lines) >= sign * limit
        first = np.where(beyond.any(axis=1), beyond.argmax(axis=1), np.inf)
        replicates = np.sort(first[1:])
        probability = float(np.isfinite(replicates).mean())
        if not np.isfinite(first[0]) or probability < 0.5:
            return Crossing("not within the horizon", None, None, None, probability)
        tail = (1.0 - self.params.level) / 2.0
        low, high = np.quantile(replicates, [tail, 1.0 - tail], method="nearest")
        return Crossing(
            "within the horizon",
            _day(times[int(first[0])]),
            _day(times[int(low)]),
            _day(times[int(high)]) if np.isfinite(high) else None,
            probability,
        )

    def _ahead(self, horizon_days: float | None) -> tuple[Times, Floats]:
        horizon = self.params.horizon_days if horizon_days is None else horizon_days
        hours = np.arange(max(round(horizon * HOURS), 1))
        return _as_times(hours + _hour(self.end)), hours / HOURS

    def _paths(self, days: Floats, times: Times, lines: Floats) -> Floats:
        season = self.profile[hour_of_week(times)]
        paths: Floats = lines[:, :1] + lines[:, 1:] * days + season
        return paths


def hourly(times: Times, values: Floats) -> tuple[Ints, Floats]:
    """Return the hours since 1970 that have values, ascending, and the median of each."""
    known = np.isfinite(values)
    hours = np.floor(seconds(times[known]) / HOUR_S).astype(np.int64)
    order = np.lexsort((values[known], hours))
    hours, ordered = hours[order], values[known][order]
    starts, first, sizes = np.unique(hours, return_index=True, return_counts=True)
    medians = (ordered[first + (sizes - 1) // 2] + ordered[first + sizes // 2]) / 2.0
    return starts, medians


def _profile(week: Ints, day: Ints, values: Floats) -> Floats:
    """Return the effect of each hour of the week, 0 on average.

    Working days share one profile by hour, weekends another. Each day of the week has one offset
    from it, shrunk the more the weeks disagree about it (James and Stein), because the largest of
    seven noisy offsets is too high.
    """
    weekend = np.isin(np.arange(HOURS_PER_WEEK) // HOURS, WEEKEND)
    profile = np.zeros(HOURS_PER_WEEK)
    for is_weekend in (False, True):
        for hour in range(HOURS):
            bins = (weekend == is_weekend) & (np.arange(HOURS_PER_WEEK) % HOURS == hour)
            same = values[bins[week]]
            profile[bins] = np.median(same) if same.size else np.median(values)
    left = values - profile[week]
    days = np.unique(day)
    levels = np.array([np.median(left[day == one]) for one in days])
    of_week = np.array([week[day == one][0] // HOURS for one in days])
    offsets, chance, degrees = np.zeros(7), 0.0, 0
    for one in np.unique(of_week):
        same = levels[of_week == one]
        offsets[one] = same.mean()
        chance += ((same - same.mean()) ** 2).sum()
        degrees += same.size - 1
    varied = float((offsets**2).mean())
    by_chance = chance / max(degrees, 1) * 7.0 / days.size
    shrunk = offsets * (max(0.0, 1.0 - by_chance / varied) if varied > 0.0 else 0.0)
    profile += np.repeat(shrunk, HOURS)
    centred: Floats = profile - profile.mean()
    return centred


def _theil_sen(at: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Fit a line to each row: the values at 0 and the slopes, both of shape (n_rows,)."""
    first, second = np.triu_indices(at.size, 1)
    slopes = np.median((rows[:, second] - rows[:, first]) / (at[second] - at[first]), axis=1)
    return np.median(rows - slopes[:, None] * at, axis=1), slopes


def _redrawn(residuals: Floats, count: int, seed: int) -> Floats:
    """Resample residuals of days with their autocorrelation.

    A sieve bootstrap: an autoregression of order 1 with resampled innovations. With few days
    autocorrelation and spread are underestimated and uncertain: the first is corrected to first
    order for a fitted line [1]_, the second is drawn for every path.

    References
    ----------
    .. [1] Marriott and Pope, Bias in the Estimation of Autocorrelations, Biometrika 1954.
    """
    n = residuals.size
    centred = residuals - residuals.mean()
    square = float(centred @ centred)
    memory = float(centred[1:] @ centred[:-1]) / square if square > 0.0 else 0.0
    memory = min(max((n * memory + 2.0) / (n - FITTED), 0.0), MOST_MEMORY)
    fresh = centred[1:] - memory * centred[:-1]
    rng = np.random.default_rng(seed)
    drawn = rng.choice(fresh - fresh.mean(), (count, n))
    drawn *= np.sqrt(n / rng.chisquare(n - FITTED, count))[:, None]
    memories = rng.normal(memory, np.sqrt((1.0 - memory**2) / n), count)
    memories = np.clip(memories, 0.0, MOST_MEMORY)
    paths = np.empty((count, n))
    paths[:, 0] = drawn[:, 0] / np.sqrt(1.0 - memories**2)  # stationary start
    for at in range(1, n):
        paths[:, at] = memories * paths[:, at - 1] + drawn[:, at]
    return paths


def _as_times(hours: Ints) -> Times:
    times: Times = (hours * 3_600_000_000).astype("datetime64[us]")
    return times


def _hour(time: np.datetime64) -> int:
    return int(time.astype("datetime64[h]").astype(np.int64))


def _day(time: np.datetime64) -> date:
    moment: datetime = time.astype("datetime64[us]").astype(datetime)
    return moment.date()
