"""The calendar that baselines share: hours of the week, coming weeks."""

import numpy as np
import pytest
from telemetry import START

from apm_analytics.baselines.models import series as calendar


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
