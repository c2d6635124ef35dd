"""What every estimator keeps: shapes, missing values, odd series, seeds, order, save and load."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone

from apm_analytics.baselines.detection import forest
from apm_analytics.baselines.detection.forest import ForestDetector
from apm_analytics.baselines.models.estimator import BatchBaseline
from apm_analytics.baselines.models.prophet import ProphetBaseline
from apm_analytics.baselines.models.seasonal import (
    ProfileBaseline,
    RobustBaseline,
    SeasonalNaiveBaseline,
)
from apm_analytics.foundation.errors import BadInput, NotEnoughData, NotFound

START = np.datetime64("2026-03-01T00:00", "us")
STEP = np.timedelta64(1800, "s")
N = 21 * 48
TIMES = START + np.arange(N) * STEP
COMING = TIMES[-1] + np.arange(1, 97) * (STEP // 2)

BASELINES: dict[str, Callable[[], BatchBaseline]] = {
    "prophet": lambda: ProphetBaseline(seed=3),
    "prophet with seasons": lambda: ProphetBaseline(seasons=[("daily", 1.0, 2)], tau=0.1),
    "time of day": lambda: ProfileBaseline("day"),
    "time of week": lambda: ProfileBaseline("week", days=21.0),
    "seasonal naive": lambda: SeasonalNaiveBaseline("week"),
    "seasonal naive by day": lambda: SeasonalNaiveBaseline("day"),
    "robust": lambda: RobustBaseline(),
}


def drawn(seed: int = 1, rows: int = 5) -> Any:
    draw = np.random.default_rng(seed)
    day = np.arange(N) / 48
    wave = np.sin(2 * np.pi * day) * draw.uniform(0.5, 2, (rows, 1))
    return 10 + wave + 0.02 * day + draw.normal(0, 0.3, (rows, N))


@pytest.fixture(params=BASELINES)
def made(request: pytest.FixtureRequest) -> BatchBaseline:
    return BASELINES[request.param]()


def test_it_predicts_every_series_at_any_times_between_its_bounds(made: BatchBaseline) -> None:
    assert made.fit(TIMES, drawn()) is made
    for times in (COMING, COMING[:1], COMING[::-1], TIMES[5:9]):
        band = made.predict(times)
        for part in (band.expected, band.lower, band.upper):
            assert part.shape == (5, times.size) and np.isfinite(part).all()
        assert (band.lower <= band.expected).all() and (band.expected <= band.upper).all()
        assert np.array_equal(made.expected(times), band.expected)
    forward, backward = made.predict(COMING), made.predict(COMING[::-1])
    np.testing.assert_allclose(forward.expected, backward.expected[:, ::-1])
    np.testing.assert_allclose(forward.upper, backward.upper[:, ::-1])


def test_missing_values_stay_in_their_series_and_their_place(made: BatchBaseline) -> None:
    values = drawn()
    holes = np.random.default_rng(2).random(N) < 0.2
    values[1, holes] = np.nan
    values[3] = np.nan
    found = made.fit(TIMES, values).predict(COMING)
    whole = clone(made).fit(TIMES, drawn()).predict(COMING)
    assert np.isnan(found.expected[3]).all() and made.flags_[3] == "no values"
    for row in (0, 2, 4):
        assert np.array_equal(found.expected[row], whole.expected[row])
    assert np.abs(found.expected[1] - whole.expected[1]).max() < 1.5
    assert made.flags_[1] == "fitted"


def test_constants_are_expected_as_they_are(made: BatchBaseline) -> None:
    values = drawn()
    values[1], values[2] = 0.0, -3.5
    found = made.fit(TIMES, values).predict(COMING)
    assert made.flags_.tolist() == ["fitted", "constant", "constant", "fitted", "fitted"]
    np.testing.assert_allclose(found.expected[1], 0.0, atol=1e-12)
    np.testing.assert_allclose(found.expected[2], -3.5)


def test_what_is_too_short_has_a_name_and_no_number(made: BatchBaseline) -> None:
    values = drawn()
    values[2, :-1] = np.nan
    found = made.fit(TIMES, values).predict(COMING)
    assert made.flags_[2] == "too short"
    assert np.isnan(found.expected[2]).all() and np.isnan(found.upper[2]).all()


def test_the_same_data_and_knobs_give_the_same_bits(made: BatchBaseline, tmp_path: Path) -> None:
    for name in ("one", "two"):
        clone(made).fit(TIMES, drawn()).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_order_of_the_series_changes_nothing(made: BatchBaseline) -> None:
    values = drawn()
    values[0, :300] = np.nan
    order = np.array([3, 0, 4, 2, 1])
    one = clone(made).fit(TIMES, values).predict(COMING)
    other = clone(made).fit(TIMES, values[order]).predict(COMING)
    alone = clone(made).fit(TIMES, values[[2]]).predict(COMING)
    assert np.array_equal(one.expected[order], other.expected)
    assert np.array_equal(one.upper[order], other.upper)
    assert np.array_equal(one.expected[2], alone.expected[0])


def test_saved_loaded_and_picked_it_predicts_the_same(made: BatchBaseline, tmp_path: Path) -> None:
    values = drawn()
    values[1] = np.nan
    file = tmp_path / "kept.parquet"
    made.fit(TIMES, values).save(file)
    again = type(made).load(file)
    assert json.dumps(again.get_params()) == json.dumps(made.get_params())
    assert again.flags_.tolist() == made.flags_.tolist()
    assert pl.read_parquet(file).height == 5
    before = made.predict(COMING)
    for part in ("expected", "lower", "upper"):
        mine, theirs = getattr(before, part), getattr(again.predict(COMING), part)
        assert np.array_equal(mine, theirs, equal_nan=True)
    picked = made.pick(np.array([4, 0])).predict(COMING)
    assert np.array_equal(picked.expected, before.expected[[4, 0]])
    with pytest.raises(NotFound, match="no parameters at"):
        type(made).load(tmp_path / "nothing")
    other = RobustBaseline if made.model != "robust" else ProfileBaseline
    with pytest.raises(BadInput, match=f"holds '{made.model}', need '{other.model}'"):
        other.load(file)


def test_a_batch_that_is_none_is_refused_by_name(made: BatchBaseline) -> None:
    with pytest.raises(NotEnoughData, match="none of 5 series has a value"):
        made.fit(TIMES, np.full((5, N), np.nan))
    with pytest.raises(BadInput, match="is not after the one before"):
        made.fit(TIMES[::-1], drawn())
    with pytest.raises(BadInput, match=r"need \(n_series, 1008\)"):
        made.fit(TIMES, drawn()[:, :-1])
    with pytest.raises(BadInput, match="infinite"):
        made.fit(TIMES, np.where(TIMES[7] == TIMES, np.inf, drawn()))


def grown(columns: Any, seed: int = 7) -> ForestDetector:
    quiet = np.ones(len(columns), np.bool_)
    names = ("latency_p95", "rate", "error_ratio", "saturation")[: columns.shape[1]]
    return ForestDetector.fit(columns, names, quiet, trees=20, contamination=0.01, seed=seed)


def test_a_forest_keeps_the_same_contract(tmp_path: Path) -> None:
    columns = (drawn(rows=4) - 10).T
    holes = columns.copy()
    holes[::5, 1] = np.nan
    holes[7] = np.nan
    found = grown(holes)
    score = found.predict(holes)
    assert score.shape == (N,) and np.isnan(score[7]) and np.isfinite(np.delete(score, 7)).all()
    assert found.contributions(holes[:9]).shape == (9, 4)
    assert np.array_equal(grown(holes).predict(holes), score, equal_nan=True)
    assert not np.array_equal(grown(holes, seed=8).predict(holes), score, equal_nan=True)
    assert np.array_equal(found.predict(holes[::-1]), score[::-1], equal_nan=True)
    forest.save({("shop", "GET /"): found, ("a", "b"): grown(columns)}, tmp_path)
    again = forest.load(tmp_path)
    assert list(again) == [("a", "b"), ("shop", "GET /")]
    assert np.array_equal(again["shop", "GET /"].predict(holes), score, equal_nan=True)
    with pytest.raises(NotEnoughData, match="constant"):
        grown(np.zeros((N, 2)))
    with pytest.raises(NotEnoughData, match="too short: 100"):
        grown(columns[:100])
