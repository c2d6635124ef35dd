"""Seasonal baselines find planted seasons and spikes, and incidents do not widen their bounds."""

from functools import cache

import numpy as np
import pytest
from telemetry import PER_DAY, START, during, series

from apm_analytics.baselines import prophet_series
from apm_analytics.baselines.prophet_series import ProphetBaseline
from apm_analytics.baselines.series import Series, week_after
from apm_analytics.errors import NotEnoughData

LEVEL = 0.995


def _fit(one: Series, **knobs: object) -> ProphetBaseline:
    usual = {
        "level": LEVEL,
        "grid_s": 1800,
        "changepoint_prior_scale": 0.05,
        "min_days": 14,
        "min_windows": 12,
        "seed": 7,
    }
    return ProphetBaseline.fit(one, **{**usual, **knobs})


@cache
def _quiet(signal: str, seed: int = 1) -> tuple[ProphetBaseline, Series, Series]:
    """Fit 21 quiet days; give the baseline, its history, and the week after."""
    both = series(signal, 28, seed=seed)
    cut = START + np.timedelta64(21, "D")
    history = both.pick(both.times < cut)
    return _fit(history), history, both.pick(both.times >= cut)


@pytest.mark.parametrize(
    ("signal", "seed"),
    [("latency_p95", 1), ("latency_p95", 2), ("rate", 1), ("rate", 3), ("error_ratio", 1)],
)
def test_a_quiet_week_to_come_stays_inside_the_bounds(signal: str, seed: int) -> None:
    baseline, _, coming = _quiet(signal, seed)
    outside = np.mean(baseline.score(coming.times, coming.values)[coming.known] > 1)
    assert outside <= 0.015


def test_the_season_of_day_and_week_is_found() -> None:
    baseline, _, coming = _quiet("rate")
    expected = baseline.predict(coming.times).expected.reshape(7, PER_DAY)
    hour = expected[0].reshape(24, 12).mean(axis=1)
    assert hour.argmax() in (13, 14, 15)
    assert hour.max() > 2 * hour.min()
    weekend = expected[5:].mean() / expected[:5].mean()
    assert weekend == pytest.approx(0.7, abs=0.05)


def test_a_planted_spike_scores_above_one_and_its_bounds_follow_the_hour() -> None:
    baseline, _, coming = _quiet("latency_p95")
    values = coming.values.copy()
    values[1000:1006] *= 2
    score = baseline.score(coming.times, values)
    assert (score[1000:1006] > 1).all()
    band = baseline.predict(coming.times)
    assert (band.lower < band.expected).all() and (band.expected < band.upper).all()
    relative = (band.upper / band.expected).reshape(7, PER_DAY)[0].reshape(24, 12).mean(axis=1)
    # p95 of few requests is noisier: wider at night than in the afternoon.
    assert relative[3] > relative[14]


@pytest.mark.parametrize(
    ("signal", "name", "factor"),
    [("latency_p95", "latency_s", 4.0), ("error_ratio", "errors", 15.0), ("rate", "requests", 0.2)],
)
def test_three_hours_of_incident_in_the_history_do_not_move_the_threshold(
    signal: str, name: str, factor: float
) -> None:
    quiet, _, coming = _quiet(signal)
    incident = during(15.4, 3, **{name: factor})
    history = series(signal, 28, seed=1, change=incident)
    cut = START + np.timedelta64(21, "D")
    shaken = _fit(history.pick(history.times < cut))
    before, after = quiet.predict(coming.times), shaken.predict(coming.times)
    bound = "lower" if factor < 1 else "upper"
    moved = getattr(after, bound) / np.maximum(getattr(before, bound), 1e-9)
    assert np.median(moved) == pytest.approx(1.0, abs=0.05)
    assert shaken.calibration.masked >= 18


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_parameters_alone_predict_what_prophet_itself_predicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pandas as pd

    fitted: list[object] = []
    real = prophet_series._prophet()

    class Watched(real):  # type: ignore[misc,valid-type]
        def __init__(self, **knobs: object) -> None:
            super().__init__(**knobs)
            fitted.append(self)

    monkeypatch.setattr(prophet_series, "_prophet", lambda: Watched)
    one = series("rate", 15, seed=2)
    baseline = _fit(one)
    week = week_after(one.times[-1], 300.0)
    theirs = fitted[-1].predict(pd.DataFrame({"ds": week}))["yhat"]  # type: ignore[attr-defined]
    assert np.allclose(baseline.yhat(week), theirs, atol=1e-9)
    again = ProphetBaseline.from_row(baseline.row())
    for name in ("expected", "lower", "upper"):
        ours = getattr(baseline.predict(week), name)
        assert np.array_equal(getattr(again.predict(week), name), ours)


def test_equal_seeds_give_equal_bounds() -> None:
    baseline, history, coming = _quiet("latency_p95")
    again = _fit(history)
    assert np.array_equal(again.predict(coming.times).upper, baseline.predict(coming.times).upper)


def test_no_season_is_invented_where_none_can_be_learned() -> None:
    short = series("rate", 10, seed=1)
    with pytest.raises(NotEnoughData, match=r"short history: 10.0 days, a season needs 14"):
        _fit(short)
    long = series("error_ratio", 15, seed=1)
    for values, name in ((0.0, "all zero"), (0.25, "constant"), (np.nan, "all null")):
        flat = Series(*long.key, long.times, np.full(long.times.size, values), long.requests, 300.0)
        with pytest.raises(NotEnoughData, match=name):
            _fit(flat)
    seldom = np.where(np.arange(long.times.size) % 61 == 0, long.values, np.nan)
    with pytest.raises(NotEnoughData, match="sparse"):
        _fit(Series(*long.key, long.times, seldom, long.requests, 300.0))
