"""The Prophet library itself, one series at a time, as a baseline beside the batched solver.

In:  times, and values of some series on them; NaN is missing.
Out: `LibraryProphetBaseline`, which stores what Stan found as `ProphetParams` and predicts
     without the library.

The library is imported on first use: the import takes 3 s.
"""

import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from apm_analytics.baselines.models import prophet
from apm_analytics.baselines.models.estimator import FITTED
from apm_analytics.baselines.models.prophet import ProphetBaseline, season_columns
from apm_analytics.baselines.models.season import Season
from apm_analytics.baselines.models.series import DAY_S, Floats, Times, seconds
from apm_analytics.foundation.errors import ApmError

if TYPE_CHECKING:
    import pandas as pd
    from prophet import Prophet

# Stan starts from Prophet's own initial values, so the seed changes nothing; cmdstan needs one.
SEED = 1
# The filters of `warnings` belong to the process, not to a thread.
_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log of the library and its warnings about pandas, one thread at a time."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("prophet.plot").disabled = True
        import cmdstanpy  # noqa: F401

        # Only now: the import sets the level of the logger.
        logging.getLogger("cmdstanpy").disabled = True
        yield


def new(seasons: Sequence[Season], *, tau: float, prior: float, **options: Any) -> "Prophet":
    """Make an unfitted model of the library with these seasons and no others.

    Parameters
    ----------
    tau, prior : as in `prophet.fit_batch`.
    options : of `prophet.Prophet`, such as `holidays`.
    """
    with quiet():
        from prophet import Prophet

        model = Prophet(
            changepoint_prior_scale=tau,
            seasonality_prior_scale=prior,
            yearly_seasonality=False,
            weekly_seasonality=False,
            daily_seasonality=False,
            **options,
        )
        for season in seasons:
            model.add_seasonality(season.name, season.period_days, season.order)
    return model


def fit(model: "Prophet", frame: "pd.DataFrame") -> "Prophet":
    """Fit a model of the library to columns `ds` and `y`, in place.

    Raises
    ------
    ApmError
        Stan did not converge.
    """
    with quiet():
        try:
            return model.fit(frame, seed=SEED)
        except RuntimeError as error:
            raise ApmError(
                f"the Prophet library could not fit {len(frame)} values: {error}; remove the "
                "series from `engines` in specs/signals.yaml"
            ) from error


def frame_of(times: Times, values: Floats) -> "pd.DataFrame":
    """Return the known values as the frame that the library takes."""
    import pandas as pd

    known = ~np.isnan(values)
    return pd.DataFrame({"ds": times[known], "y": values[known]})


def shown(seasons: Sequence[Season], times: Times, values: Floats) -> tuple[Season, ...]:
    """Return the seasons that the span of the known values covers twice."""
    at = seconds(times)
    known = at[~np.isnan(values)]
    span_s = known[-1] - known[0] + float(np.diff(at).min())
    return tuple(season for season in seasons if span_s >= 2 * season.period_days * DAY_S)


class LibraryProphetBaseline(ProphetBaseline):
    """`prophet.Prophet`, fitted to each series by itself; parameters as in `ProphetBaseline`.

    Examples
    --------
    >>> LibraryProphetBaseline([("daily", 1.0, 6)]).fit(times, values)  # doctest: +SKIP
    """

    model = "prophet (library)"

    def fit(self, times: Times, values: Floats) -> Self:
        # The batched solver checks the batch and settles scales, changepoints and flags.
        super().fit(times, values)
        params = self.params_
        for row in np.flatnonzero(self.flags_ == FITTED):
            seasons = shown(params.seasons, times, values[row])
            fitted = fit(
                new(seasons, tau=self.tau, prior=self.prior, uncertainty_samples=0),
                frame_of(times, values[row]),
            )
            _keep(params, int(row), seasons, fitted.params)
        return self


def _keep(
    params: prophet.ProphetParams, row: int, seasons: Sequence[Season], stan: dict[str, Any]
) -> None:
    """Write what Stan found into one row of the parameters."""
    arrays = {name: np.asarray(value)[0].ravel() for name, value in stan.items()}
    params.k[row], params.m[row] = arrays["k"][0], arrays["m"][0]
    params.sigma[row] = arrays["sigma_obs"][0]
    params.delta[row] = 0.0
    params.delta[row, : params.n_changepoints[row]] = arrays["delta"][: params.n_changepoints[row]]
    params.beta[row] = 0.0
    if seasons:
        columns = np.concatenate([season_columns(params.seasons, season) for season in seasons])
        params.beta[row, columns] = arrays["beta"]
    params.iterations[row] = 0
