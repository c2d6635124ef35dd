from datetime import date

import numpy as np
import pytest

from apm_analytics.baselines.growth.forecast import Growth
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import Times
from apm_analytics.foundation.errors import BadParameter, NotEnoughData
from apm_analytics.foundation.settings import load

PARAMS = load().params.forecast
AHEAD_DAYS = 200


def _growing(
    seed: int, *, days: int = 42, per_day: float = 1.0, deviation: float = 6.0, memory: float = 0.5
) -> tuple[Times, Floats, Floats]:
    """Hourly values that grow, with daily and weekly shapes and autocorrelated days.

    Times, values and truth; times and truth go on beyond the values.
    """
    rng = np.random.default_rng(seed)
    hours = np.arange((days + AHEAD_DAYS) * 24)
    times = np.datetime64("2026-01-05", "us") + hours * np.timedelta64(3_600_000_000, "us")
    shape = 15.0 * np.sin(2 * np.pi * hours / 24) + 10.0 * ((hours // 24) % 7 < 5)
    truth = 100.0 + per_day * hours / 24 + shape
    noise = np.zeros(days)
    for day in range(days):
        noise[day] = rng.normal() * (1 - memory**2) ** 0.5 + (memory * noise[day - 1] if day else 0)
    n = days * 24
    values = truth[:n] + deviation * np.repeat(noise, 24) + rng.normal(0.0, 4.0, n)
    return times, values, truth


@pytest.mark.parametrize("memory", [0.0, 0.6])
def test_the_interval_of_a_date_covers_the_truth_as_often_as_it_says(memory: float) -> None:
    inside, off = [], []
    for seed in range(80):
        times, values, truth = _growing(seed, memory=memory)
        n = values.size
        limit = truth[n - 168 : n].max() + 25.0
        true = times[n:][(truth[n:] >= limit).argmax()].astype("datetime64[D]").astype(date)
        crossing = Growth.fit(times[:n], values, PARAMS, seed=seed).crossing(limit)
        assert crossing.status == "within the horizon" and crossing.on and crossing.earliest
        inside.append(crossing.earliest <= true <= (crossing.latest or date.max))
        off.append(abs((crossing.on - true).days))
    assert 0.70 <= np.mean(inside) <= 0.90
    assert np.median(off) <= 5


def test_the_band_of_the_curve_holds_as_many_hours_as_it_says() -> None:
    inside = []
    for seed in range(30):
        times, values, _ = _growing(seed, days=56)
        n = 42 * 24
        curve = Growth.fit(times[:n], values[:n], PARAMS, seed=seed).curve(14.0)
        ahead = values[n:]
        np.testing.assert_array_equal(curve.times, times[n : 56 * 24])
        inside.append(np.mean((curve.lower <= ahead) & (ahead <= curve.upper)))
    assert 0.70 <= np.mean(inside) <= 0.90


def test_the_growth_a_day_is_found_with_its_interval() -> None:
    inside = []
    for seed in range(40):
        times, values, _ = _growing(seed, per_day=0.5)
        per_day, low, high = Growth.fit(times[: values.size], values, PARAMS, seed=seed).per_day
        assert low < per_day < high
        assert abs(per_day - 0.5) < 0.4
        inside.append(low <= 0.5 <= high)
    assert 0.70 <= np.mean(inside) <= 0.95


def test_without_growth_a_far_limit_is_not_reached_and_the_probability_is_small() -> None:
    for seed in range(5):
        times, values, _ = _growing(seed, per_day=0.0)
        crossing = Growth.fit(times[: values.size], values, PARAMS, seed=seed).crossing(300.0)
        assert crossing.status == "not within the horizon"
        assert crossing.on is None and crossing.earliest is None and crossing.latest is None
        assert crossing.probability <= 0.05


def test_a_limit_that_is_passed_every_week_is_past_already() -> None:
    times, values, truth = _growing(1)
    growth = Growth.fit(times[: values.size], values, PARAMS, seed=1)
    assert growth.crossing(truth[: values.size].max() - 10.0).status == "already past it"


def test_a_floor_is_a_limit_from_above() -> None:
    times, values, _ = _growing(3, per_day=-1.0)
    growth = Growth.fit(times[: values.size], values, PARAMS, seed=3)
    low = values[-168:].min()
    assert growth.crossing(low - 20.0, below=True).status == "within the horizon"
    assert growth.crossing(low + 30.0, below=True).status == "already past it"


def test_two_wild_days_and_missing_hours_hardly_move_the_date() -> None:
    times, values, truth = _growing(4, deviation=2.0)
    n = values.size
    limit = truth[n - 168 : n].max() + 25.0
    plain = Growth.fit(times[:n], values, PARAMS, seed=4).crossing(limit)
    wild = values.copy()
    wild[20 * 24 : 22 * 24] *= 10.0
    wild[np.random.default_rng(4).random(n) < 0.2] = np.nan
    order = np.random.default_rng(5).permutation(n)
    moved = Growth.fit(times[:n][order], wild[order], PARAMS, seed=4).crossing(limit)
    assert plain.on and moved.on and abs((plain.on - moved.on).days) <= 2


def test_equal_seeds_give_equal_forecasts() -> None:
    times, values, _ = _growing(6)
    first, second = (Growth.fit(times[: values.size], values, PARAMS, seed=9) for _ in range(2))
    np.testing.assert_array_equal(first.lines, second.lines)


def test_a_constant_series_does_not_grow() -> None:
    times, values, _ = _growing(7)
    growth = Growth.fit(times[: values.size], np.full(values.size, 0.25), PARAMS, seed=1)
    assert growth.per_day == (0.0, 0.0, 0.0)
    assert growth.crossing(0.3).probability == 0.0


def test_too_short_a_history_is_refused_with_what_to_do() -> None:
    times, values, _ = _growing(8, days=13)
    with pytest.raises(NotEnoughData, match=r"13 days have values, a forecast needs 14; import"):
        Growth.fit(times[: values.size], values, PARAMS, seed=1)
    with pytest.raises(NotEnoughData, match=r"0 days have values"):
        Growth.fit(times[:10], np.full(10, np.nan), PARAMS, seed=1)


def test_a_limit_that_is_no_number_is_refused() -> None:
    times, values, _ = _growing(9)
    with pytest.raises(BadParameter, match=r"the limit is nan"):
        Growth.fit(times[: values.size], values, PARAMS, seed=1).crossing(float("nan"))
