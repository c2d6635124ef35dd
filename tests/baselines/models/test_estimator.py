"""The contract of every estimator: shapes, missing values, odd series, order, parameters."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
from apm_analytics.foundation.errors import BadInput, NotEnoughData

START = np.datetime64("2026-03-01T00:00", "us")
STEP = np.timedelta64(1800, "s")
N = 21 * 48
TIMES = START + np.arange(N) * STEP
COMING = TIMES[-1] + np.arange(1, 97) * (STEP // 2)

BASELINES: dict[str, Callable[[], BatchBaseline]] = {
    "prophet": lambda: ProphetBaseline(),
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


def test_it_predicts_every_series_at_any_times(made: BatchBaseline) -> None:
    assert made.fit(TIMES, drawn()) is made
    for times in (COMING, COMING[:1], COMING[::-1], TIMES[5:9]):
        expected = made.expected(times)
        assert expected.shape == (5, times.size) and np.isfinite(expected).all()
    np.testing.assert_allclose(made.expected(COMING), made.expected(COMING[::-1])[:, ::-1])


def test_missing_values_stay_in_their_series_and_their_place(made: BatchBaseline) -> None:
    values = drawn()
    holes = np.random.default_rng(2).random(N) < 0.2
    values[1, holes] = np.nan
    values[3] = np.nan
    expected = made.fit(TIMES, values).expected(COMING)
    complete = clone(made).fit(TIMES, drawn()).expected(COMING)
    assert np.isnan(expected[3]).all() and made.flags_[3] == "no values"
    for row in (0, 2, 4):
        assert np.array_equal(expected[row], complete[row])
    assert np.abs(expected[1] - complete[1]).max() < 1.5
    assert made.flags_[1] == "fitted"


def test_constants_are_expected_as_they_are(made: BatchBaseline) -> None:
    values = drawn()
    values[1], values[2] = 0.0, -3.5
    expected = made.fit(TIMES, values).expected(COMING)
    assert made.flags_.tolist() == ["fitted", "constant", "constant", "fitted", "fitted"]
    np.testing.assert_allclose(expected[1], 0.0, atol=1e-12)
    np.testing.assert_allclose(expected[2], -3.5)


def test_what_is_too_short_has_a_name_and_no_number(made: BatchBaseline) -> None:
    values = drawn()
    values[2, :-1] = np.nan
    expected = made.fit(TIMES, values).expected(COMING)
    assert made.flags_[2] == "too short"
    assert np.isnan(expected[2]).all()


def test_equal_data_and_parameters_give_equal_bits(made: BatchBaseline) -> None:
    first, second = (clone(made).fit(TIMES, drawn()).frame() for _ in range(2))
    assert first.equals(second)


def test_the_order_of_the_series_changes_nothing(made: BatchBaseline) -> None:
    values = drawn()
    values[0, :300] = np.nan
    order = np.array([3, 0, 4, 2, 1])
    expected = clone(made).fit(TIMES, values).expected(COMING)
    reordered = clone(made).fit(TIMES, values[order]).expected(COMING)
    alone = clone(made).fit(TIMES, values[[2]]).expected(COMING)
    assert np.array_equal(expected[order], reordered)
    assert np.array_equal(expected[2], alone[0])


def test_from_its_table_and_picked_it_predicts_the_same(made: BatchBaseline) -> None:
    values = drawn()
    values[1] = np.nan
    expected = made.fit(TIMES, values).expected(COMING)
    parameters = json.loads(json.dumps(made.get_params()))
    again = type(made)(**parameters).with_frame(made.frame())
    assert again.flags_.tolist() == made.flags_.tolist()
    assert made.frame().height == 5
    assert np.array_equal(again.expected(COMING), expected, equal_nan=True)
    assert np.array_equal(made.pick(np.array([4, 0])).expected(COMING), expected[[4, 0]])


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
