"""Prophet for thousands of series at once: the same objective, solved exactly and together.

In:  times, and values of many series on them; NaN is missing.
Out: `ProphetParams`, one row a series; curves and intervals from them.

The objective is that of `prophet.Prophet` with its defaults (linear growth, MAP) [1]_, with y
divided by its largest absolute value and each series' own time running from 0 to 1:

    n log s + |y - X th|^2 / 2s^2 + k^2/50 + m^2/50 + |delta|_1/tau + |beta|^2 / 2prior^2 + 2s^2

References
----------
.. [1] Taylor and Letham, Forecasting at Scale, The American Statistician 2018.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, overload

import numpy as np
import polars as pl
from numpy.typing import NDArray

from apm_analytics.baselines.models import prophet_kernels, trend_paths
from apm_analytics.baselines.models.band import Band
from apm_analytics.baselines.models.estimator import (
    CONSTANT,
    FITTED,
    BatchBaseline,
    Rows,
    as_lists,
    as_matrix,
    checked_batch,
)
from apm_analytics.baselines.models.prophet_kernels import SIGMA_FLOOR, Floats
from apm_analytics.baselines.models.season import Season, fourier, seasons_of
from apm_analytics.baselines.models.series import DAY_S, Times, seconds
from apm_analytics.foundation.errors import BadParameter

N_CHANGEPOINTS = 25
CHANGEPOINT_RANGE = 0.8
MIN_POINTS = 2


@dataclass(frozen=True)
class ProphetParams:
    """Everything that was learned, one row a series; all scaled as in the objective.

    Parameters
    ----------
    seasons : what the columns of `beta` belong to, in order.
    tau, prior : scales of the priors of `delta` and `beta`.
    k, m, sigma, y_scale : float64 of shape (n,): slope, level, noise, largest |y|.
    start, t_scale : float64 of shape (n,): first time and length of the history, in seconds.
    beta : float64 of shape (n, n_season). delta, changepoints : float64 of shape (n, 25).
    observed, n_changepoints, iterations : int64 of shape (n,).
    flags : str of shape (n,): FITTED, CONSTANT, TOO_SHORT or NO_VALUES; the last two predict NaN.
    """

    seasons: tuple[Season, ...]
    tau: float
    prior: float
    k: Floats
    m: Floats
    beta: Floats
    delta: Floats
    changepoints: Floats
    sigma: Floats
    y_scale: Floats
    start: Floats
    t_scale: Floats
    observed: NDArray[np.int64]
    n_changepoints: NDArray[np.int64]
    iterations: NDArray[np.int64]
    flags: NDArray[np.str_]

    def __len__(self) -> int:
        return int(self.k.size)

    @property
    def theta(self) -> Floats:
        """All parameters of the curve, [k, m, beta, delta], of shape (n, 2 + n_season + 25)."""
        columns = (self.k[:, None], self.m[:, None], self.beta, self.delta)
        return np.ascontiguousarray(np.concatenate(columns, axis=1))

    def pick(self, rows: NDArray[Any]) -> "ProphetParams":
        """Keep some series, by index or by flag."""
        arrays = {name: getattr(self, name)[rows] for name in ARRAYS}
        return replace(self, **arrays)


ARRAYS = tuple(
    one.name for one in fields(ProphetParams) if one.name not in ("seasons", "tau", "prior")
)


def fit_batch(
    ds: Times,
    Y: Floats,
    seasonalities: Sequence[Season] | None = None,
    tau: float = 0.05,
    prior: float = 10.0,
    *,
    by_span: bool = False,
) -> ProphetParams:
    """Fit Prophet's model to many series on one grid.

    Parameters
    ----------
    ds : datetime64 of shape (n_time,), ascending, UTC.
    Y : float64 of shape (n_series, n_time); NaN is missing. A series begins at its first and ends
        at its last value, wherever these are.
    seasonalities : the same for all series; when left out, each series gets those that its own
        span can show, as Prophet would choose.
    tau, prior : scales of the priors of trend changes and seasons (Prophet's
        changepoint_prior_scale and seasonality_prior_scale).
    by_span : leave out, series by series, the seasons that its span does not hold twice.

    Raises
    ------
    BadInput
        Shapes do not fit, times are not ascending, or a value is infinite.
    BadParameter
        A prior is not above 0.
    NotEnoughData
        No series has a single value.

    Examples
    --------
    >>> days = np.arange(60).astype("datetime64[D]")
    >>> found = fit_batch(days, np.arange(60.0)[None, :], seasonalities=())
    >>> float(np.round(predict(found, days[-1:] + 1)[0, 0], 3))
    60.0
    """
    rows = checked_batch(ds, Y, least_points=MIN_POINTS)
    if not (tau > 0.0 and prior > 0.0):
        raise BadParameter(f"got tau={tau} and prior={prior}, both must be above 0")
    groups = _groups(rows, ds, seasonalities, by_span)
    union = tuple(dict.fromkeys(season for chosen in groups for season in chosen))
    params = _blank(rows, ds, union, tau, prior)
    for chosen, members in groups.items():
        fitted = members[rows.flags[members] == FITTED]
        if fitted.size:
            _fit_group(params, ds, rows.values, fitted, chosen)
    return params


@overload
def predict(params: ProphetParams, ds: Times) -> Floats: ...
@overload
def predict(
    params: ProphetParams, ds: Times, interval: float, *, seed: int = 0
) -> tuple[Floats, Floats, Floats]: ...
def predict(
    params: ProphetParams, ds: Times, interval: float | None = None, *, seed: int = 0
) -> Floats | tuple[Floats, Floats, Floats]:
    """Give every series' curve at some times.

    Parameters
    ----------
    ds : datetime64 of shape (n_times,), UTC.
    interval : share of future values between the bounds, such as .8.
    seed : of the trend paths that the bounds of future times come from.

    Returns
    -------
    yhat of shape (n_series, n_times) in the unit of the values; with `interval` the three arrays
    yhat, lower, upper.
    """
    season = fourier(ds, params.seasons)
    yhat = np.empty((len(params), len(ds)))
    prophet_kernels.curve_rows(
        seconds(ds),
        season,
        params.theta,
        params.changepoints,
        params.start,
        params.t_scale,
        params.y_scale,
        yhat,
    )
    if interval is None:
        return yhat
    half = trend_paths.half_width(
        seconds(ds),
        interval=interval,
        end=params.start + params.t_scale,
        t_scale=params.t_scale,
        n_changepoints=params.n_changepoints,
        mean_delta=_mean_delta(params),
        sigma=params.sigma,
        seed=seed,
    )
    half *= params.y_scale[:, None]
    return yhat, yhat - half, yhat + half


def objective(params: ProphetParams, ds: Times, Y: Floats) -> Floats:
    """Give what `fit_batch` makes small, from the residuals themselves; shape (n_series,)."""
    error = (Y - predict(params, ds)) / params.y_scale[:, None]
    squares = np.nansum(error**2, axis=1)
    value: Floats = (
        params.observed * np.log(params.sigma)
        + squares / (2.0 * params.sigma**2)
        + (params.k**2 + params.m**2) / 50.0
        + np.abs(params.delta).sum(axis=1) / params.tau
        + (params.beta**2).sum(axis=1) / (2.0 * params.prior**2)
        + 2.0 * params.sigma**2
    )
    return value


class ProphetBaseline(BatchBaseline):
    """The same as an estimator.

    Parameters
    ----------
    seasons : (name, period in days, Fourier order) of each season, used where the span of a
        series holds it twice; None takes those that Prophet would.
    tau, prior, seed : as in `fit_batch` and `predict`.
    interval : share of values between the bounds.

    Examples
    --------
    >>> ProphetBaseline(tau=0.1).fit(times, values).predict(tomorrow)  # doctest: +SKIP
    """

    model = "prophet"
    params_: ProphetParams

    def __init__(
        self,
        seasons: Sequence[tuple[str, float, int]] | None = None,
        tau: float = 0.05,
        prior: float = 10.0,
        interval: float = 0.99,
        seed: int = 0,
    ):
        self.seasons = seasons
        self.tau = tau
        self.prior = prior
        self.interval = interval
        self.seed = seed

    def fit(self, times: Times, values: Floats) -> Self:
        wanted = None if self.seasons is None else [Season(*one) for one in self.seasons]
        self.params_ = fit_batch(times, values, wanted, self.tau, self.prior, by_span=True)
        self.flags_ = self.params_.flags
        return self

    def expected(self, times: Times) -> Floats:
        return predict(self.params_, times)

    def predict(self, times: Times) -> Band:
        return Band(*predict(self.params_, times, self.interval, seed=self.seed))

    def frame(self) -> pl.DataFrame:
        found, n = self.params_, len(self.params_)
        columns: dict[str, object] = {
            "flag": found.flags.tolist(),
            "seasons": [[one.name for one in found.seasons]] * n,
            "season_days": [[one.period_days for one in found.seasons]] * n,
            "season_orders": [[one.order for one in found.seasons]] * n,
        }
        for name in ARRAYS:
            array = getattr(found, name)
            if name != "flags":
                columns[name] = as_lists(array) if array.ndim == 2 else array
        return pl.DataFrame(columns, schema_overrides=_LISTS)

    def with_frame(self, frame: pl.DataFrame) -> Self:
        named = frame.select(*_LISTS).head(1).rows()
        seasons = tuple(Season(*one) for one in zip(*named[0], strict=True)) if named else ()
        arrays: dict[str, Any] = {
            name: as_matrix(frame[name])
            if frame[name].dtype == pl.List
            else frame[name].to_numpy().copy()
            for name in ARRAYS
            if name != "flags"
        }
        self.flags_ = frame["flag"].to_numpy().astype("<U9")
        self.params_ = ProphetParams(seasons, self.tau, self.prior, flags=self.flags_, **arrays)
        return self


_LISTS = {
    "seasons": pl.List(pl.String),
    "season_days": pl.List(pl.Float64),
    "season_orders": pl.List(pl.Int64),
}


def _groups(
    rows: Rows, ds: Times, seasonalities: Sequence[Season] | None, by_span: bool
) -> dict[tuple[Season, ...], NDArray[np.int64]]:
    """Give the series of each set of seasons."""
    some = np.flatnonzero(rows.count)
    if seasonalities is not None and not by_span:
        return {tuple(seasonalities): some}
    at = seconds(ds)
    step = float(np.diff(at).min()) if at.size > 1 else np.inf
    spans, kind = np.unique(rows.span_s(ds)[some], return_inverse=True)
    groups: dict[tuple[Season, ...], list[NDArray[np.int64]]] = {}
    for number, span in enumerate(spans):
        chosen = (
            seasons_of(span, step)
            if seasonalities is None
            else tuple(one for one in seasonalities if span + step >= 2 * one.period_days * DAY_S)
        )
        groups.setdefault(chosen, []).append(some[kind == number])
    most_first = sorted(groups, key=len, reverse=True)
    return {chosen: np.sort(np.concatenate(groups[chosen])) for chosen in most_first}


def _blank(
    rows: Rows, ds: Times, seasons: tuple[Season, ...], tau: float, prior: float
) -> ProphetParams:
    """Give the parameters before any fit: constants as they are, NaN where nothing is known."""
    n = len(rows.count)
    at = seconds(ds)
    level = rows.values[np.arange(n), rows.first].copy()
    level[~np.isin(rows.flags, (CONSTANT, FITTED))] = np.nan
    scale = np.where(np.abs(level) > 0.0, np.abs(level), 1.0)
    return ProphetParams(
        seasons=seasons,
        tau=tau,
        prior=prior,
        k=np.zeros(n),
        m=level / scale,
        beta=np.zeros((n, 2 * sum(season.order for season in seasons))),
        delta=np.zeros((n, N_CHANGEPOINTS)),
        changepoints=np.full((n, N_CHANGEPOINTS), 2.0),
        sigma=np.full(n, SIGMA_FLOOR),
        y_scale=scale,
        start=np.full(n, at[0]),
        t_scale=np.full(n, max(at[-1] - at[0], 1.0)),
        observed=rows.count,
        n_changepoints=np.zeros(n, dtype=np.int64),
        iterations=np.zeros(n, dtype=np.int64),
        flags=rows.flags,
    )


def _fit_group(
    params: ProphetParams,
    ds: Times,
    Y: Floats,
    rows: NDArray[np.int64],
    seasons: tuple[Season, ...],
) -> None:
    """Fit the series of one set of seasons into `params`."""
    season = fourier(ds, seasons)
    n_season = season.shape[1]
    theta = np.zeros((rows.size, 2 + n_season + N_CHANGEPOINTS))
    changepoints = np.empty((rows.size, N_CHANGEPOINTS))
    facts = np.empty((rows.size, 7))
    prophet_kernels.fit_rows(
        Y if rows.size == len(Y) else Y[rows],
        seconds(ds),
        season,
        np.full(n_season, params.prior**-2.0),
        CHANGEPOINT_RANGE,
        params.tau,
        theta,
        changepoints,
        facts,
    )
    columns = np.concatenate(
        [_columns(params.seasons, one) for one in seasons] or [np.zeros(0, np.int64)]
    )
    params.k[rows], params.m[rows] = theta[:, 0], theta[:, 1]
    params.beta[np.ix_(rows, columns)] = theta[:, 2 : 2 + n_season]
    params.delta[rows] = theta[:, 2 + n_season :]
    params.changepoints[rows] = changepoints
    for name, column in zip(("sigma", "y_scale", "start", "t_scale"), facts.T[:4], strict=True):
        getattr(params, name)[rows] = column
    params.n_changepoints[rows] = facts[:, 5]
    params.iterations[rows] = facts[:, 6]


def _columns(seasons: Sequence[Season], wanted: Season) -> NDArray[np.int64]:
    """Give the columns of beta that belong to one season."""
    before = sum(2 * one.order for one in seasons[: seasons.index(wanted)])
    return np.arange(before, before + 2 * wanted.order)


def _mean_delta(params: ProphetParams) -> Floats:
    """Give the mean size of the trend changes that a series had."""
    mean: Floats = np.abs(params.delta).sum(axis=1) / np.maximum(params.n_changepoints, 1)
    return mean
