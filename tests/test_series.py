"""The calendar that baselines share: hours of the week, coming weeks, medians by hour."""

import numpy as np
import pytest
from telemetry import START, features, series

from apm_analytics.baselines import series as calendar
from apm_analytics.errors import NotEnoughData


def test_hours_of_the_week_count_from_sunday_midnight_utc() -> None:
    times = np.array(
        ["2026-03-01T00:00", "2026-03-02T00:59", "2026-03-07T23:59"], dtype="datetime64[us]"
    )
    assert calendar.hour_of_week(times).tolist() == [0, 24, 167]


@pytest.mark.parametrize("window_s", [60, 300, 420, 7200])
def test_a_week_to_come_covers_every_hour_of_the_week_once(window_s: float) -> None:
    week = calendar.week_after(START + np.timedelta64(95, "m"), window_s)
    assert week[0] == START + np.timedelta64(1, "h")
    assert np.unique(calendar.hour_of_week(week)).tolist() == list(range(168))
    assert week[-1] - week[0] < np.timedelta64(7, "D")


def test_a_profile_is_the_median_of_the_hours_around() -> None:
    times = START + np.arange(3 * 168) * np.timedelta64(1, "h")
    values = calendar.hour_of_week(times).astype(float)
    values[5] = 1e9
    profile = calendar.week_profile(times, values, reach=1)
    assert profile[1:-1].tolist() == list(range(1, 167))
    known = np.where(values == 30, values, np.nan)
    assert calendar.week_profile(times, known, reach=0).tolist() == [30.0] * 168


def test_medians_of_groups_are_those_of_numpy() -> None:
    draw = np.random.default_rng(1)
    groups, values = draw.integers(0, 40, 999), draw.normal(size=999)
    labels, medians = calendar.group_medians(groups, values)
    assert medians == pytest.approx([np.median(values[groups == label]) for label in labels])


def test_an_operation_splits_into_its_three_signals_with_nan_for_null() -> None:
    drawn = features(1, seed=1, per_window=3.0)
    latency, rate, errors = calendar.of_operation(drawn, 300.0)
    assert [one.signal for one in (latency, rate, errors)] == [
        "latency_p95",
        "rate",
        "error_ratio",
    ]
    assert rate.known.all() and not latency.known.all()
    assert np.array_equal(latency.known, drawn["latency_p95_s"].is_not_null().to_numpy())
    assert rate.days == pytest.approx(1.0)


def test_too_few_windows_are_refused_with_what_to_do() -> None:
    with pytest.raises(NotEnoughData, match=r"too short: 6 .* need 12; import more"):
        calendar.require_windows(series("rate", 6 / 288, seed=1), 12)
