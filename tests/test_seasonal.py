"""The naive peer repeats last week."""

import numpy as np
import pytest
from telemetry import START, series

from apm_analytics.baselines.seasonal import SeasonalNaiveBaseline
from apm_analytics.errors import NotEnoughData


def test_it_expects_what_the_same_window_had_a_week_ago() -> None:
    both = series("rate", 28, seed=1)
    cut = START + np.timedelta64(21, "D")
    history, coming = both.pick(both.times < cut), both.pick(both.times >= cut)
    baseline = SeasonalNaiveBaseline.fit(history, level=0.99, min_windows=12)
    week_ago = history.values[-coming.values.size :]
    assert baseline.predict(coming.times).expected == pytest.approx(week_ago)
    assert np.mean(baseline.score(coming.times, coming.values) > 1) <= 0.03


def test_less_than_two_weeks_are_refused() -> None:
    with pytest.raises(NotEnoughData, match="a week before"):
        SeasonalNaiveBaseline.fit(series("rate", 6, seed=1), level=0.99, min_windows=12)
