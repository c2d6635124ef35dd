"""One series fitted by the Prophet library and by the batched solver, and its charts."""

import polars as pl
import pytest
from telemetry import features

from apm_analytics.baselines.training import single_series, single_series_charts
from apm_analytics.baselines.training.single_series import BATCHED, COMPLETE, PLAIN, Comparison
from apm_analytics.foundation import settings
from apm_analytics.signals.calendar import Calendar

CHARTS = ("curves", "difference", "components", "forecasts")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    frame = pl.concat(
        [
            features(15, seed=1),
            features(15, seed=2, operation="GET /busy", per_window=120.0),
        ]
    )
    return single_series.compare(frame, settings.load(), Calendar(), country="US")


def test_the_busiest_operation_is_fitted_by_all_models(comparison: Comparison) -> None:
    assert (comparison.service, comparison.operation) == ("shop", "GET /busy")
    assert comparison.reason == ""
    assert set(comparison.errors["model"]) == {COMPLETE, PLAIN, BATCHED}
    assert comparison.errors["MAE"].max() < 0.1
    days = comparison.forecasts["time"].dt.date().n_unique()
    assert days >= single_series.MOST_DAYS
    assert {"trend", "extra regressors", "daily season", "weekly season"} <= set(
        comparison.components["component"]
    )


def test_the_batched_curve_is_the_library_s_own(comparison: Comparison) -> None:
    assert 0 < comparison.difference <= 0.03


def test_a_short_history_or_an_unknown_operation_says_so_in_every_chart() -> None:
    short = single_series.compare(features(2, seed=1), settings.load(), Calendar())
    assert short.reason.startswith("2.0 days of history, a season needs 7")
    unknown = single_series.compare(
        features(2, seed=1), settings.load(), Calendar(), service="shop", operation="GET /gone"
    )
    assert "no such operation" in unknown.reason
    for empty in (short, unknown):
        assert empty.errors.is_empty() and empty.difference == 0.0
        for name in CHARTS:
            assert empty.reason in getattr(single_series_charts, name)(empty).to_json()


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_has_its_data(comparison: Comparison, name: str) -> None:
    assert len(getattr(single_series_charts, name)(comparison).to_json()) > 5_000
