"""Bounds without a season are the same in every hour, and wide enough for chance."""

import numpy as np
import pytest
from telemetry import series

from apm_analytics.analyze.signals import SIGNALS
from apm_analytics.baselines.robust import RobustBaseline
from apm_analytics.baselines.series import HOURS_PER_WEEK, Series, week_after
from apm_analytics.errors import NotEnoughData


def _fit(one: Series, **knobs: object) -> RobustBaseline:
    return RobustBaseline.fit(one, **{"deviations": 5.0, "min_windows": 12, **knobs})


def _of(signal: str, values: list[float], requests: float = 50.0) -> Series:
    times = series(signal, 1, seed=0).times[: len(values)]
    count = len(values)
    return Series("shop", "GET /", signal, times, np.array(values), np.full(count, requests), 300.0)


@pytest.mark.parametrize("signal", SIGNALS)
def test_two_hours_give_the_same_bounds_in_all_hours_of_the_week(signal: str) -> None:
    history = series(signal, 2.5 / 24, seed=1)
    baseline = _fit(history)
    band = baseline.predict(week_after(history.times[-1], 300.0))
    for part in (band.expected, band.lower, band.upper):
        assert part.size == HOURS_PER_WEEK * 12
        assert np.unique(part).size == 1
    assert 0 <= band.lower[0] <= band.expected[0] < band.upper[0]


def test_the_bounds_are_the_median_and_five_deviations() -> None:
    values = [1.0, 1.2, 1.4, 1.6, 1.8] * 4
    band = _fit(_of("latency_p95", values)).predict(_of("latency_p95", values).times[:1])
    assert band.expected[0] == pytest.approx(1.4)
    assert band.upper[0] == pytest.approx(1.4 + 5 * 1.4826 * 0.2)
    assert band.lower[0] == 0.0


@pytest.mark.parametrize(
    ("signal", "value", "upper"),
    [
        ("latency_p95", 0.02, 0.02 + 5 * 0.005),  # 5 ms
        ("latency_p95", 2.0, 2.0 + 5 * 0.04),  # 2 %
        ("rate", 0.12, 0.12 + 5 * 6 / 300),  # chance of 36 requests
        ("error_ratio", 0.0, 0.025),  # half a percent point
    ],
)
def test_a_constant_series_keeps_a_floor_under_its_width(
    signal: str, value: float, upper: float
) -> None:
    one = _of(signal, [value] * 20)
    assert _fit(one).predict(one.times[:1]).upper[0] == pytest.approx(upper)


def test_a_single_failure_in_a_usual_window_is_no_anomaly() -> None:
    one = _of("error_ratio", [0.0] * 40, requests=5.0)
    baseline = _fit(one)
    assert baseline.score(one.times[:2], np.array([0.2, 0.8])) == pytest.approx([1.0, 4.0])


def test_an_incident_does_not_move_the_bounds_of_an_error_ratio() -> None:
    quiet = _fit(_of("error_ratio", [0.02] * 40))
    shaken = _fit(_of("error_ratio", [0.02] * 36 + [0.9] * 4))
    assert shaken.center == pytest.approx(quiet.center)
    assert shaken.predict(_of("error_ratio", [0.0]).times).upper == pytest.approx(
        quiet.predict(_of("error_ratio", [0.0]).times).upper
    )


def test_scores_pass_one_exactly_outside_the_bounds_and_are_unknown_without_a_value() -> None:
    one = series("rate", 0.5, seed=3)
    baseline = _fit(one)
    band = baseline.predict(one.times[:3])
    values = np.array([band.upper[0] * 1.001, band.upper[1] * 0.999, np.nan])
    score = baseline.score(one.times[:3], values)
    assert score[0] > 1 > score[1]
    assert np.isnan(score[2])


def test_a_series_too_short_or_without_any_value_is_refused_by_name() -> None:
    with pytest.raises(NotEnoughData, match="too short: 5 windows have a value, need 12"):
        _fit(_of("rate", [1.0] * 5))
    with pytest.raises(NotEnoughData, match="all null"):
        _fit(_of("rate", [np.nan] * 50))


def test_parameters_written_to_a_row_and_read_back_predict_the_same() -> None:
    one = series("error_ratio", 1, seed=4)
    baseline = _fit(one, knows_week=True, reason="short history")
    again = RobustBaseline.from_row(baseline.row())
    assert again.reason == "short history"
    assert np.array_equal(again.predict(one.times).upper, baseline.predict(one.times).upper)
