"""Results of the backtest become charts and tables, also without a backtest."""

import polars as pl
import pytest

from apm_analytics.baselines.training import selection_charts
from apm_analytics.baselines.training.backtest import SELECTION_SCHEMA

ROWS = [
    ("shop", "GET /", "rate", "prophet", True, 7, 5, 0.6, 0.1, 0.991, "prophet: MASE 0.6"),
    ("shop", "GET /", "rate", "seasonal_naive", False, 7, 1, 1.0, 0.2, 0.99, ""),
    ("shop", "GET /", "rate", "seasonal_naive_day", False, 7, 1, 0.8, 0.2, 0.99, ""),
    ("shop", "POST /", "rate", "robust", True, 7, 4, 0.9, 0.1, 0.98, "robust: MASE 0.9"),
    ("shop", "POST /", "rate", "seasonal_naive", False, 7, 3, 0.9, 0.1, 0.99, ""),
]


@pytest.fixture
def frame() -> pl.DataFrame:
    return pl.DataFrame(ROWS, schema=SELECTION_SCHEMA, orient="row")


def test_the_gain_is_against_the_better_naive_and_the_least_comes_first(
    frame: pl.DataFrame,
) -> None:
    reasons = selection_charts.reasons(frame)
    assert reasons["model"].to_list() == ["robust", "prophet"]
    assert reasons["gain"].to_list() == pytest.approx([0.0, 0.25])


def test_winners_are_counted_by_signal_and_model(frame: pl.DataFrame) -> None:
    winners = {row["model"]: row for row in selection_charts.winners(frame).iter_rows(named=True)}
    assert (winners["prophet"]["won"], winners["prophet"]["series"]) == (1, 1)
    assert (winners["seasonal_naive"]["won"], winners["seasonal_naive"]["series"]) == (0, 2)


def test_charts_hold_what_is_drawn_and_say_when_there_is_nothing(frame: pl.DataFrame) -> None:
    errors = selection_charts.errors_by_model(frame).to_dict()
    assert len(next(iter(errors["datasets"].values()))) == 5
    covered = selection_charts.coverage(frame, level=0.99).to_dict()
    assert sorted(len(rows) for rows in covered["datasets"].values()) == [1, 2]
    for chart in (
        selection_charts.errors_by_model(frame.clear()),
        selection_charts.coverage(frame.clear(), level=0.99),
    ):
        (rows,) = chart.to_dict()["datasets"].values()
        assert rows == [{"why": selection_charts.NO_BACKTEST}]
