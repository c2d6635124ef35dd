"""The batched Prophet beside the library itself, and what it makes of odd series."""

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest

from apm_analytics.baselines.models import grids, prophet
from apm_analytics.baselines.models.prophet_kernels import SIGMA_FLOOR
from apm_analytics.baselines.models.season import DAILY, WEEKLY, fourier
from apm_analytics.foundation.errors import BadInput, BadParameter, NotEnoughData

START = np.datetime64("2026-03-01T00:00", "us")
HOUR = np.timedelta64(3600, "s")
N = 24 * 30


def hours(count: int, first: int = 0) -> Any:
    return START + np.arange(first, first + count) * HOUR


def fleet(seed: int, rows: int = 8, count: int = N) -> Any:
    """Seasons, a bend in the trend and noise, each of another size."""
    draw = np.random.default_rng(seed)
    t = np.arange(count) / 24
    day = np.sin(2 * np.pi * t) * draw.uniform(0.2, 3, (rows, 1))
    week = np.cos(2 * np.pi * t / 7) * draw.uniform(0, 2, (rows, 1))
    bend = np.maximum(t - draw.uniform(5, 20, (rows, 1)), 0) * draw.normal(0, 0.3, (rows, 1))
    noise = draw.normal(0, 1, (rows, count)) * draw.uniform(0.1, 1, (rows, 1))
    return draw.uniform(-20, 50, (rows, 1)) + day + week + bend + noise


def with_gaps(seed: int) -> Any:
    """Missing values, a late start, an early end."""
    values = fleet(seed)
    draw = np.random.default_rng(seed + 1)
    values[1][draw.random(N) < 0.05] = np.nan
    values[2][draw.random(N) < 0.7] = np.nan
    values[3][:200] = np.nan
    values[4][-100:] = np.nan
    values[5][250:400] = np.nan
    return values


@pytest.fixture(scope="module")
def library() -> Any:
    """Fit one series with the library; give the model."""
    logging.getLogger("prophet.plot").disabled = True
    logging.getLogger("prophet").setLevel(logging.ERROR)
    import cmdstanpy  # noqa: F401
    from prophet import Prophet

    logging.getLogger("cmdstanpy").disabled = True

    def fit(times: Any, values: Any) -> Any:
        known = ~np.isnan(values)
        model = Prophet(uncertainty_samples=8000)
        model.fit(pd.DataFrame({"ds": times[known], "y": values[known]}), seed=7)
        return model

    return fit


def as_params(model: Any, like: prophet.ProphetParams, row: int) -> prophet.ProphetParams:
    """Put what Stan found into our parameters."""
    one = like.pick(np.array([row]))
    found = {name: np.asarray(value)[0].ravel() for name, value in model.params.items()}
    one.k[:], one.m[:], one.sigma[:] = found["k"], found["m"], found["sigma_obs"]
    one.beta[0], one.delta[0] = found["beta"], found["delta"]
    np.testing.assert_allclose(one.changepoints[0], model.changepoints_t, atol=1e-12)
    np.testing.assert_allclose(one.y_scale[0], model.y_scale)
    return one


# Prophet's own use of pandas; nothing we could write differently.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_as_good_as_stan_and_forecasts_and_bounds_agree(library: Any, seed: int) -> None:
    times, coming = hours(N), hours(48, N)
    values = with_gaps(seed)
    found = prophet.fit_batch(times, values)
    ours = prophet.objective(found, times, values)
    yhat, lower, upper = prophet.predict(found, coming, 0.8)
    state = np.random.get_state()
    np.random.seed(seed)
    for row in range(len(values)):
        model = library(times, values[row])
        theirs = prophet.objective(as_params(model, found, row), times, values[row : row + 1])[0]
        assert ours[row] <= theirs + 1e-6 * abs(theirs)
        expected = model.predict(pd.DataFrame({"ds": coming}))
        largest = np.nanmax(np.abs(values[row]))
        assert np.abs(yhat[row] - expected["yhat"].to_numpy()).max() <= 0.03 * largest
        width = (expected["yhat_upper"] - expected["yhat_lower"]).mean()
        assert 0.97 <= (upper[row] - lower[row]).mean() / width <= 1.03
    np.random.set_state(state)


def test_the_optimality_conditions_hold_at_what_it_found() -> None:
    times, values = hours(N), with_gaps(3)
    found = prophet.fit_batch(times, values)
    for row in range(len(values)):
        known = ~np.isnan(values[row])
        t = ((times - START) / np.timedelta64(1, "s") + START.astype(float) / 1e6)[known]
        t = (t - found.start[row]) / found.t_scale[row]
        hinges = np.maximum(t[:, None] - found.changepoints[row], 0.0)
        columns = np.column_stack(
            [t, np.ones(t.size), fourier(times[known], found.seasons), hinges]
        )
        residual = values[row][known] / found.y_scale[row] - columns @ found.theta[row]
        pull = columns.T @ residual / found.sigma[row] ** 2
        prior = np.r_[found.k[row] / 25, found.m[row] / 25, found.beta[row] / found.prior**2]
        ridge = pull[: prior.size] - prior
        size = np.abs(columns[:, : prior.size]).sum(axis=0) / found.sigma[row]
        assert (np.abs(ridge) <= 1e-6 * size).all()
        lasso = pull[prior.size :] * found.tau
        assert (np.abs(lasso) <= 1 + 1e-4).all()
        moved = found.delta[row] != 0
        np.testing.assert_allclose(lasso[moved], np.sign(found.delta[row][moved]), atol=1e-4)
        spread = residual @ residual / (residual.size + 4 * found.sigma[row] ** 2)
        assert found.sigma[row] ** 2 == pytest.approx(spread, rel=1e-6)


def test_each_series_gets_the_seasons_its_own_span_can_show() -> None:
    values = fleet(4, rows=3)
    values[1][: N - 24 * 10] = np.nan  # ten days: no week
    values[2][: N - 30] = np.nan  # thirty hours: no day
    found = prophet.fit_batch(hours(N), values)
    assert found.seasons == (WEEKLY, DAILY)
    used = np.abs(found.beta) > 0
    assert used[0].all()
    assert not used[1, :6].any() and used[1, 6:].all()
    assert not used[2].any()


def test_constant_empty_and_single_values_have_a_name_and_never_a_silent_number() -> None:
    values = fleet(5, rows=5)
    values[1] = 4.2
    values[2] = 0.0
    values[3] = np.nan
    values[4] = np.nan
    values[4, 7] = 1.0
    found = prophet.fit_batch(hours(N), values)
    assert found.flags.tolist() == ["fitted", "constant", "constant", "no values", "too short"]
    yhat = prophet.predict(found, hours(24, N))
    np.testing.assert_allclose(yhat[1], 4.2)
    np.testing.assert_allclose(yhat[2], 0.0)
    assert np.isnan(yhat[3:]).all() and np.isfinite(yhat[0]).all()


def test_a_series_without_noise_keeps_a_floor_under_sigma() -> None:
    t = np.arange(N) / 24
    values = np.stack([3 + 0.5 * t, 7 + np.sin(2 * np.pi * t)])
    found = prophet.fit_batch(hours(N), values)
    assert (found.sigma >= SIGMA_FLOOR).all() and np.isfinite(found.theta).all()
    coming = np.arange(N, N + 24) / 24
    expected = np.stack([3 + 0.5 * coming, 7 + np.sin(2 * np.pi * coming)])
    np.testing.assert_allclose(prophet.predict(found, hours(24, N)), expected, rtol=1e-3)


def test_what_is_no_batch_of_series_is_refused_by_name() -> None:
    values = fleet(6, rows=2)
    with pytest.raises(NotEnoughData, match="none of 2 series"):
        prophet.fit_batch(hours(N), np.full_like(values, np.nan))
    with pytest.raises(BadInput, match=r"time 3 .* is not after"):
        times = hours(N)
        times[3] = times[2]
        prophet.fit_batch(times, values)
    with pytest.raises(BadInput, match=r"need \(n_series, 720\)"):
        prophet.fit_batch(hours(N), values[:, :-1])
    with pytest.raises(BadParameter, match="both must be above 0"):
        prophet.fit_batch(hours(N), values, tau=0.0)
    values[1, 5] = np.inf
    with pytest.raises(BadInput, match="series 1 has an infinite value"):
        prophet.fit_batch(hours(N), values)


def test_series_on_several_grids_and_spans_are_fitted_as_if_alone() -> None:
    values = fleet(7, rows=4)
    half = np.timedelta64(1800, "s")
    series = [
        (hours(N), values[0]),
        (hours(N - 300, 300), values[1][300:]),  # the same grid, a later start
        (hours(N)[::2], values[2][::2]),  # every other hour
        (hours(N) + half, values[3]),  # between the hours
        (hours(24 * 5), values[0][: 24 * 5]),  # too short for a week
    ]
    found = grids.fit_each(series)
    assert [len(one.seasons) for one in found] == [2, 2, 2, 2, 2]
    assert not found[4].beta[0, :6].any() and found[4].beta[0, 6:].all()
    for params, (times, one) in zip(found, series, strict=True):
        alone = prophet.fit_batch(times, one[None, :])
        coming = times[-1] + np.arange(1, 49) * HOUR
        np.testing.assert_allclose(
            prophet.predict(params, coming), prophet.predict(alone, coming), rtol=1e-6
        )
    with pytest.raises(BadInput, match="series 1 has 3 values at 2 times"):
        grids.fit_each([series[0], (hours(2), np.zeros(3))])
