"""Held-out days are not trained on, and the metrics and the note show it."""

from pathlib import Path

import polars as pl
import pytest
from telemetry import features

from apm_analytics.baselines.training.evaluate import Evaluation, evaluate
from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import NotEnoughData


def _evaluate(workspace: Path, frame: pl.DataFrame) -> Evaluation:
    params = settings.load_params(workspace / "params.yaml").baselines
    return evaluate(frame, params, window_s=300.0, seed=7)


def test_what_is_published_follows_the_season_of_days_it_has_not_seen(workspace: Path) -> None:
    evaluation = _evaluate(workspace, features(21, seed=1))
    assert evaluation.holdout_days == pytest.approx(7)
    published = evaluation.metrics["published"]
    model = evaluation.scored.filter(signal="rate")["model"].item()
    assert model in {"prophet", "time_of_day", "time_of_week"}
    assert published["rate"] == evaluation.metrics[model]["rate"]
    assert published["rate"]["mape"] < 0.2
    for signal in ("latency_p95", "rate", "error_ratio"):
        assert published[signal]["coverage_quiet"] >= published[signal]["coverage"] >= 0.98
    assert evaluation.metrics["forest"]["together"]["flagged"] <= 0.02
    assert evaluation.forecasts["rate"].height == 7 * 288
    assert "shorter than" not in evaluation.note


def test_a_short_history_is_evaluated_without_a_season_and_says_so(workspace: Path) -> None:
    both = pl.concat([features(0.2, seed=1), features(0.2, seed=2, operation="POST /")])
    evaluation = _evaluate(workspace, both)
    assert evaluation.holdout_days == pytest.approx(0.05, rel=0.1)
    assert "only bounds without a season could be evaluated" in evaluation.note
    assert set(evaluation.metrics) == {"published", "robust"}
    assert evaluation.scored.height == 6


def test_too_little_to_hold_any_out_is_an_error(workspace: Path) -> None:
    with pytest.raises(NotEnoughData, match="windows with a value in the last"):
        _evaluate(workspace, features(16 / 288, seed=1))
    with pytest.raises(NotEnoughData, match="no features"):
        _evaluate(workspace, features(1, seed=1).clear())
