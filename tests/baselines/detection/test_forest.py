"""A forest over three signals finds what is odd in one, and in all a little."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from apm_analytics.baselines.detection import forest
from apm_analytics.baselines.detection.forest import ForestDetector, Trees
from apm_analytics.foundation.errors import NotEnoughData, NotFound

SIGNALS = ("latency_p95", "rate", "error_ratio")


def _quiet(seed: int, count: int = 3000) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(8, (count, 3))


def _fit(deviations: np.ndarray, quiet: np.ndarray | None = None) -> ForestDetector:
    if quiet is None:
        quiet = np.ones(len(deviations), dtype=bool)
    return ForestDetector.fit(deviations, SIGNALS, quiet, trees=60, contamination=0.005, seed=7)


def test_quiet_windows_score_above_one_as_seldom_as_asked() -> None:
    shares = []
    for seed in range(3):
        detector = _fit(_quiet(seed))
        assert np.mean(detector.predict(_quiet(seed)) > 1) == pytest.approx(0.005, abs=0.001)
        shares.append(np.mean(detector.predict(_quiet(50 + seed)) > 1))
    assert np.mean(shares) <= 0.01


@pytest.mark.parametrize(
    "window", [[15, 0, 0], [0, -15, 0], [0, 0, 15], [5, 0, 5], [4, -4, 4], [30, 30, 30]]
)
def test_a_planted_anomaly_scores_above_one(window: list[float]) -> None:
    assert _fit(_quiet(1)).predict(np.array([window], dtype=float))[0] > 1


def test_contributions_name_the_signal_that_is_odd() -> None:
    detector = _fit(_quiet(1))
    shares = detector.contributions(np.array([[12.0, 0.0, 0.0], [0.0, 8.0, 8.0]]))
    assert shares.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert shares[0, 0] > 0.9
    assert shares[1, 0] < 0.1
    assert detector.contributions(np.empty((0, 3))).shape == (0, 3)


def test_an_unknown_signal_counts_as_expected_and_a_window_without_any_has_no_score() -> None:
    detector = _fit(_quiet(1))
    known, unknown, nothing = detector.predict(
        np.array([[0.0, 1.0, 0.0], [np.nan, 1.0, np.nan], [np.nan] * 3])
    )
    assert known == unknown < 1
    assert np.isnan(nothing)


def test_an_incident_in_the_history_does_not_move_the_limit() -> None:
    deviations = _quiet(1)
    shaken = deviations.copy()
    shaken[1000:1036] += 10
    quiet = np.ones(len(deviations), dtype=bool)
    quiet[1000:1036] = False
    assert (_fit(shaken, quiet).predict(shaken)[1000:1036] > 1).all()
    assert _fit(shaken, quiet).limit == pytest.approx(_fit(deviations).limit, rel=0.03)


def test_too_few_windows_one_signal_and_constant_ones_are_refused_by_name() -> None:
    with pytest.raises(NotEnoughData, match="too short: 100"):
        _fit(_quiet(1, 100))
    with pytest.raises(NotEnoughData, match="constant"):
        _fit(np.zeros((400, 3)))
    with pytest.raises(NotEnoughData, match="one signal"):
        ForestDetector.fit(
            _quiet(1)[:, :1],
            ("rate",),
            np.ones(3000, dtype=bool),
            trees=10,
            contamination=0.01,
            seed=1,
        )


def test_trees_out_of_scikit_learn_score_as_it_does() -> None:
    grown = IsolationForest(n_estimators=30, random_state=7).fit(_quiet(3))
    columns = _quiet(4)
    np.testing.assert_allclose(Trees.of(grown).oddness(columns), -grown.score_samples(columns))


def test_forests_saved_and_loaded_score_the_same(tmp_path: Path) -> None:
    detector = _fit(_quiet(1))
    forest.save({("shop", "GET /"): detector}, tmp_path)
    again = forest.load(tmp_path)["shop", "GET /"]
    assert np.array_equal(again.predict(_quiet(2)), detector.predict(_quiet(2)))
    assert again.signals == SIGNALS
    with pytest.raises(NotFound, match="dvc repro train"):
        forest.load(tmp_path / "nowhere")
