"""Prophet for thousands of series at once: the same objective, solved exactly in one batch.

In:  times, and values of many series on them; NaN is missing.
Out: `ProphetParams`, one row per series; curves from them.

The objective is that of `prophet.Prophet` with its defaults (linear growth, MAP) [1]_, with y
divided by its largest absolute value and the time of each series scaled to [0, 1]:

    n log s + |y - X th|^2 / 2s^2 + k^2/50 + m^2/50 + |delta|_1/tau + |beta|^2 / 2prior^2 + 2s^2

References
----------
.. [1] Taylor and Letham, Forecasting at Scale, The American Statistician 2018.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from apm_analytics.baselines.models import prophet_kernels
from apm_analytics.baselines.models.estimator import (
    CONSTANT,
    FITTED,
    BatchBaseline,
    FitFlags,
    Rows,
    as_lists,
    as_matrix,
    checked_batch,
)
from apm_analytics.baselines.models.prophet_kernels import SIGMA_FLOOR
from apm_analytics.baselines.models.season import Season, fourier, seasons_of
from apm_analytics.baselines.models.series import DAY_S, Floats, Ints, Times, seconds
from apm_analytics.foundation.errors import BadParameter

N_CHANGEPOINTS = 25
CHANGEPOINT_RANGE = 0.8
MIN_POINTS = 2


@dataclass(frozen=True)
class ProphetParams:
    """The fitted parameters, one row per series; all scaled as in the objective.

    Parameters
    ----------
    seasons : the seasons of the columns of `beta`, in order.
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
    observed: Ints
    n_changepoints: Ints
    iterations: Ints
    flags: FitFlags

    def __len__(self) -> int:
        return int(self.k.size)

    @property
    def theta(self) -> Floats:
        """All parameters of the curve, [k, m, beta, delta], of shape (n, 2 + n_season + 25)."""
        columns = (self.k[:, None], self.m[:, None], self.beta, self.delta)
        return np.ascontiguousarray(np.concatenate(columns, axis=1))

    def pick(self, rows: NDArray[Any]) -> "ProphetParams":
        """Return the parameters of some series, by index or by mask."""
        arrays = {name: getattr(self, name)[rows] for name in ARRAYS}
        return replace(self, **arrays)


ARRAYS = tuple(
    field.name for field in fields(ProphetParams) if field.name not in ("seasons", "tau", "prior")
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
    seasonalities : the same for all series; by default, those that Prophet would choose for the
        span of each series.
    tau, prior : scales of the priors of trend changes and seasons (Prophet's
        changepoint_prior_scale and seasonality_prior_scale).
    by_span : omit from each series the seasons that its span does not cover twice.

    Raises
    ------
    BadInput
        Shapes do not match, times are not ascending, or a value is infinite.
    BadParameter
        A prior is not above 0.
    NotEnoughData
        No series has any value.

    Examples
    --------
    >>> days = np.arange(60).astype("datetime64[D]")
    >>> params = fit_batch(days, np.arange(60.0)[None, :], seasonalities=())
    >>> float(np.round(predict(params, days[-1:] + 1)[0, 0], 3))
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


def predict(params: ProphetParams, ds: Times) -> Floats:
    """Return the curve of every series, of shape (n_series, n_times), in the unit of the values.

    Parameters
    ----------
    ds : datetime64 of shape (n_times,), UTC.
    """
    yhat = np.empty((len(params), len(ds)))
    prophet_kernels.curve_rows(
        seconds(ds),
        fourier(ds, params.seasons),
        params.theta,
        params.changepoints,
        params.start,
        params.t_scale,
        params.y_scale,
        yhat,
    )
    return yhat


def objective(params: ProphetParams, ds: Times, Y: Floats) -> Floats:
    """Return what `fit_batch` minimises, computed from the residuals; shape (n_series,)."""
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
    """`fit_batch` and `predict` as an estimator.

    Parameters
    ----------
    seasons : (name, period in days, Fourier order) of each season, used where the history of a
        series covers it twice; None uses the seasons that Prophet would.
    tau, prior : as in `fit_batch`.

    Examples
    --------
    >>> ProphetBaseline(tau=0.1).fit(times, values).expected(tomorrow)  # doctest: +SKIP
    """

    model = "prophet"
    params_: ProphetParams

    def __init__(
        self,
        seasons: Sequence[tuple[str, float, int]] | None = None,
        tau: float = 0.05,
        prior: float = 10.0,
    ):
        self.seasons = seasons
        self.tau = tau
        self.prior = prior

    def fit(self, times: Times, values: Floats) -> Self:
        seasons = None if self.seasons is None else [Season(*season) for season in self.seasons]
        self.params_ = fit_batch(times, values, seasons, self.tau, self.prior, by_span=True)
        self.flags_ = self.params_.flags
        return self

    def expected(self, times: Times) -> Floats:
        return predict(self.params_, times)

    def frame(self) -> pl.DataFrame:
        params, n = self.params_, len(self.params_)
        columns: dict[str, object] = {
            "flag": params.flags.tolist(),
            "seasons": [[season.name for season in params.seasons]] * n,
            "season_days": [[season.period_days for season in params.seasons]] * n,
            "season_orders": [[season.order for season in params.seasons]] * n,
        }
        for name in ARRAYS:
            array = getattr(params, name)
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
) -> dict[tuple[Season, ...], Ints]:
    """Return the series of each set of seasons."""
    some = np.flatnonzero(rows.count)
    if seasonalities is not None and not by_span:
        return {tuple(seasonalities): some}
    at = seconds(ds)
    step = float(np.diff(at).min()) if at.size > 1 else np.inf
    spans, kind = np.unique(rows.span_s(ds)[some], return_inverse=True)
    groups: dict[tuple[Season, ...], list[Ints]] = {}
    for number, span in enumerate(spans):
        chosen = (
            seasons_of(span, step)
            if seasonalities is None
            else tuple(
                season for season in seasonalities if span + step >= 2 * season.period_days * DAY_S
            )
        )
        groups.setdefault(chosen, []).append(some[kind == number])
    most_first = sorted(groups, key=len, reverse=True)
    return {chosen: np.sort(np.concatenate(groups[chosen])) for chosen in most_first}


def _blank(
    rows: Rows, ds: Times, seasons: tuple[Season, ...], tau: float, prior: float
) -> ProphetParams:
    """Return the parameters before any fit: the value of constants, NaN without values."""
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
    rows: Ints,
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
        [season_columns(params.seasons, season) for season in seasons] or [np.zeros(0, np.int64)]
    )
    params.k[rows], params.m[rows] = theta[:, 0], theta[:, 1]
    params.beta[np.ix_(rows, columns)] = theta[:, 2 : 2 + n_season]
    params.delta[rows] = theta[:, 2 + n_season :]
    params.changepoints[rows] = changepoints
    for name, column in zip(("sigma", "y_scale", "start", "t_scale"), facts.T[:4], strict=True):
        getattr(params, name)[rows] = column
    params.n_changepoints[rows] = facts[:, 5]
    params.iterations[rows] = facts[:, 6]


def season_columns(seasons: Sequence[Season], season: Season) -> Ints:
    """Return the columns of beta that belong to one season."""
    before = sum(2 * other.order for other in seasons[: seasons.index(season)])
    return np.arange(before, before + 2 * season.order)
