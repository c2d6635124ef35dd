"""`charts.sparklines`: a series, its bounds and its anomalous windows as SVG."""

from datetime import datetime, timedelta

import polars as pl

from apm_analytics.charts.sparklines import MAX_POINTS, sparkline

START = datetime(2026, 3, 2)


def series(values: list[float | None]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "time": [START + timedelta(minutes=5 * n) for n in range(len(values))],
            "value": values,
            "lower": [0.0] * len(values),
            "upper": [1.0] * len(values),
            "score": values,
        },
        schema_overrides={"value": pl.Float64, "score": pl.Float64},
    )


def test_windows_outside_are_marked_on_the_line() -> None:
    drawn = sparkline(series([0.1, 2.0, 0.2, None, 3.0]), 24)
    assert drawn.count('class="out"') == 2
    assert 'class="band"' in drawn and 'class="line"' in drawn


def test_a_long_series_is_thinned_and_keeps_its_outlier() -> None:
    drawn = sparkline(series([0.5] * 1000 + [9.0] + [0.5] * 1000), 1_000)
    points = drawn.split('class="line" points="')[1].split('"')[0].split()
    assert len(points) == MAX_POINTS and drawn.count('class="out"') == 1


def test_only_the_last_hours_are_drawn() -> None:
    drawn = sparkline(series([9.0] + [0.5] * 48), 2)
    assert 'class="out"' not in drawn


def test_a_flat_series_and_one_without_values_can_be_drawn() -> None:
    assert "nan" not in sparkline(series([0.0, 0.0]).with_columns(upper=pl.lit(0.0)), 24)
    assert sparkline(series([None, None]), 24) == ""
