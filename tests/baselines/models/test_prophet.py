"""The batched Prophet: its optimality conditions, and odd series.

`test_prophet_library.py` compares it with the library.
"""

import numpy as np
import pytest
from drawn_series import START, N, fleet, hours, with_gaps

from apm_analytics.baselines.models import prophet
from apm_analytics.baselines.models.prophet_kernels import SIGMA_FLOOR
from apm_analytics.baselines.models.season import DAILY, WEEKLY, fourier
from apm_analytics.foundation.errors import BadInput, BadParameter, NotEnoughData


def test_the_optimality_conditions_hold_at_what_it_found() -> None:
    times, values = hours(N), with_gaps(3)
    fitted = prophet.fit_batch(times, values)
    for row in range(len(values)):
        known = ~np.isnan(values[row])
        t = ((times - START) / np.timedelta64(1, "s") + START.astype(float) / 1e6)[known]
        t = (t - fitted.start[row]) / fitted.t_scale[row]
        hinges = np.maximum(t[:, None] - fitted.changepoints[row], 0.0)
        columns = np.column_stack(
            [t, np.ones(t.size), fourier(times[known], fitted.seasons), hinges]
        )
        residual = values[row][known] / fitted.y_scale[row] - columns @ fitted.theta[row]
        pull = columns.T @ residual / fitted.sigma[row] ** 2
        prior = np.r_[fitted.k[row] / 25, fitted.m[row] / 25, fitted.beta[row] / fitted.prior**2]
        ridge = pull[: prior.size] - prior
        size = np.abs(columns[:, : prior.size]).sum(axis=0) / fitted.sigma[row]
        assert (np.abs(ridge) <= 1e-6 * size).all()
        lasso = pull[prior.size :] * fitted.tau
        assert (np.abs(lasso) <= 1 + 1e-4).all()
        moved = fitted.delta[row] != 0
        np.testing.assert_allclose(lasso[moved], np.sign(fitted.delta[row][moved]), atol=1e-4)
        spread = residual @ residual / (residual.size + 4 * fitted.sigma[row] ** 2)
        assert fitted.sigma[row] ** 2 == pytest.approx(spread, rel=1e-6)


def test_each_series_gets_the_seasons_its_own_span_can_show() -> None:
    values = fleet(4, rows=3)
    values[1][: N - 24 * 10] = np.nan  # ten days: no week
    values[2][: N - 30] = np.nan  # thirty hours: no day
    fitted = prophet.fit_batch(hours(N), values)
    assert fitted.seasons == (WEEKLY, DAILY)
    used = np.abs(fitted.beta) > 0
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
    fitted = prophet.fit_batch(hours(N), values)
    assert fitted.flags.tolist() == ["fitted", "constant", "constant", "no values", "too short"]
    yhat = prophet.predict(fitted, hours(24, N))
    np.testing.assert_allclose(yhat[1], 4.2)
    np.testing.assert_allclose(yhat[2], 0.0)
    assert np.isnan(yhat[3:]).all() and np.isfinite(yhat[0]).all()


def test_a_series_without_noise_keeps_a_floor_under_sigma() -> None:
    t = np.arange(N) / 24
    values = np.stack([3 + 0.5 * t, 7 + np.sin(2 * np.pi * t)])
    fitted = prophet.fit_batch(hours(N), values)
    assert (fitted.sigma >= SIGMA_FLOOR).all() and np.isfinite(fitted.theta).all()
    coming = np.arange(N, N + 24) / 24
    expected = np.stack([3 + 0.5 * coming, 7 + np.sin(2 * np.pi * coming)])
    np.testing.assert_allclose(prophet.predict(fitted, hours(24, N)), expected, rtol=1e-3)


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
