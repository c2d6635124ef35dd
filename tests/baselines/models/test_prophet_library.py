"""The Prophet library as a baseline, and the batched solver compared with it."""

import logging
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from drawn_series import N, fleet, hours, with_gaps

from apm_analytics.baselines.models import prophet, prophet_library
from apm_analytics.baselines.models.prophet_library import LibraryProphetBaseline
from apm_analytics.baselines.models.season import DAILY, WEEKLY
from apm_analytics.foundation.errors import ApmError

SEASONS = (("weekly", 7.0, 3), ("daily", 1.0, 4))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_batched_solver_is_as_good_as_stan_and_the_forecasts_agree(seed: int) -> None:
    times, coming, values = hours(N), hours(48, N), with_gaps(seed)
    batched = prophet.fit_batch(times, values)
    library = LibraryProphetBaseline().fit(times, values)
    ours = prophet.objective(batched, times, values)
    theirs = prophet.objective(library.params_, times, values)
    assert (ours <= theirs + 1e-6 * np.abs(theirs)).all()
    largest = np.nanmax(np.abs(values), axis=1, keepdims=True)
    difference = np.abs(prophet.predict(batched, coming) - library.expected(coming)) / largest
    assert difference.max() <= 0.03


def test_the_stored_parameters_predict_what_the_library_predicts() -> None:
    times, coming = hours(N), hours(48, N)
    values = fleet(4, rows=3)
    values[1][: N - 24 * 10] = np.nan  # ten days: no weekly season
    baseline = LibraryProphetBaseline(SEASONS).fit(times, values)
    for row, seasons in enumerate(((WEEKLY, DAILY), (DAILY,), (WEEKLY, DAILY))):
        model = prophet_library.fit(
            prophet_library.new(seasons, tau=0.05, prior=10.0, uncertainty_samples=0),
            prophet_library.frame_of(times, values[row]),
        )
        with prophet_library.quiet():
            expected = model.predict(prophet_library.frame_of(coming, np.zeros(48)))["yhat"]
        np.testing.assert_allclose(baseline.expected(coming)[row], expected, rtol=1e-9)


def test_odd_series_never_reach_the_library_and_its_table_is_the_way_back() -> None:
    times, values = hours(N), fleet(5, rows=4)
    values[1], values[2] = 4.2, np.nan
    baseline = LibraryProphetBaseline(SEASONS).fit(times, values)
    assert baseline.flags_.tolist() == ["fitted", "constant", "no values", "fitted"]
    expected = baseline.expected(times)
    np.testing.assert_allclose(expected[1], 4.2)
    assert np.isnan(expected[2]).all()
    again = LibraryProphetBaseline(SEASONS).with_frame(baseline.frame())
    assert np.array_equal(again.expected(times), expected, equal_nan=True)


def test_a_fit_that_fails_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    model = prophet_library.new((DAILY,), tau=0.05, prior=10.0)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no convergence")

    monkeypatch.setattr(model, "fit", fails)
    with pytest.raises(ApmError, match=r"could not fit 24 values: no convergence.*`engines`"):
        prophet_library.fit(model, prophet_library.frame_of(hours(24), np.arange(24.0)))


def test_the_library_logs_nothing(caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    with caplog.at_level(logging.DEBUG):
        LibraryProphetBaseline(SEASONS).fit(hours(N), fleet(6, rows=1))
    noisy = [record for record in caplog.records if record.name.startswith("cmdstanpy")]
    assert noisy == [] and capfd.readouterr() == ("", "")


def test_importing_the_baseline_does_not_import_the_library() -> None:
    code = (
        "import sys, apm_analytics.baselines.models.fitted\n"
        "assert not {'prophet', 'cmdstanpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
