"""Every series gets a baseline or a reason; bounds and scores are whole."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from telemetry import during, features

from apm_analytics import settings
from apm_analytics.analyze.signals import SIGNALS
from apm_analytics.baselines import store, training
from apm_analytics.baselines.training import Trained
from apm_analytics.errors import NotEnoughData, NotFound
from apm_analytics.settings import BaselineParams


@pytest.fixture(scope="session")
def params(workspace: Path) -> BaselineParams:
    return settings.load_params(workspace / "params.yaml").baselines


def _train(frame: pl.DataFrame, params: BaselineParams, **knobs: object) -> Trained:
    return training.train(frame, params, **{"window_s": 300.0, "seed": 7, **knobs})


@pytest.fixture(scope="module")
def shop(params: BaselineParams) -> Trained:
    """16 days of one operation with an incident on day 9, and 2 hours of a new one."""
    incident = during(9.5, 2, latency_s=3.0, errors=10.0)
    old = features(16, seed=1, change=incident)
    new = features(2 / 24, seed=2, operation="POST /")
    return _train(pl.concat([old, new]), params)


def test_a_long_history_gets_a_season_and_a_short_one_robust_bounds(shop: Trained) -> None:
    models = {key[1:]: baseline.model for key, baseline in shop.baselines.items()}
    assert models == {
        **{("GET /", signal): "prophet" for signal in SIGNALS},
        **{("POST /", signal): "robust" for signal in SIGNALS},
    }
    reasons = {one.reason.split(":")[0] for one in shop.baselines.values() if one.reason}
    assert reasons == {"short history"}


def test_bounds_cover_every_hour_of_the_week_of_every_series(shop: Trained) -> None:
    assert shop.bounds.schema == pl.Schema(training.BOUNDS_SCHEMA)
    per_series = shop.bounds.group_by("service_name", "operation", "signal").agg(
        pl.col("hour_of_week").sort(), pl.col("unit").unique()
    )
    assert len(per_series) == 6
    assert all(hours == list(range(168)) for hours in per_series["hour_of_week"].to_list())
    values = shop.bounds.select("lower", "expected", "upper").to_numpy()
    assert np.isfinite(values).all() and (values >= 0).all()
    assert (np.diff(values, axis=1) >= 0).all()
    ratio = shop.bounds.filter(signal="error_ratio")
    assert ratio["upper"].max() <= 1  # type: ignore[operator]
    flat = shop.bounds.filter(model="robust").group_by("operation", "signal")
    assert flat.agg(pl.col("upper").n_unique())["upper"].to_list() == [1, 1, 1]


def test_the_planted_incident_is_found_by_signals_and_forest_and_little_else(
    shop: Trained,
) -> None:
    scores = shop.scores.filter(operation="GET /")
    assert scores.schema == pl.Schema(training.SCORES_SCHEMA)
    day = (pl.col("time") - scores["time"].min()).dt.total_seconds() / 86_400
    incident = day.is_between(9.5, 9.5 + 2 / 24, closed="left")
    for signal, found in (("latency_p95", 0.95), ("error_ratio", 0.7), ("together", 0.95)):
        of_signal = scores.filter(signal=signal)
        assert (of_signal.filter(incident)["score"] > 1).mean() >= found  # type: ignore[operator]
        assert (of_signal.filter(~incident)["score"] > 1).mean() <= 0.012  # type: ignore[operator]
    contributions = shop.contributions.filter(incident)
    assert contributions["latency_p95"].mean() > 0.3  # type: ignore[operator]
    assert contributions["rate"].mean() < 0.1  # type: ignore[operator]


def test_a_score_is_above_one_exactly_where_a_value_is_outside_its_bounds(shop: Trained) -> None:
    scores = shop.scores.filter(pl.col("value").is_not_null())
    outside = (pl.col("value") > pl.col("upper")) | (pl.col("value") < pl.col("lower"))
    # On the bound itself rounding decides.
    clear = (pl.col("score") - 1).abs() > 1e-9
    assert scores.filter(clear, outside != (pl.col("score") > 1)).is_empty()
    assert shop.scores.filter(pl.col("value").is_nan()).is_empty()


def test_a_series_too_short_for_anything_is_skipped_with_its_reason(shop: Trained) -> None:
    forests = shop.skipped.select("operation", "signal", "reason").rows()
    assert forests == [
        (
            "POST /",
            "together",
            "too short: 24 quiet windows, a forest needs 288; import more telemetry",
        )
    ]


def test_series_without_values_are_skipped_and_all_skipped_is_an_error(
    params: BaselineParams,
) -> None:
    tiny = features(5 / 288, seed=1)
    with pytest.raises(NotEnoughData, match="all 4 series were skipped, such as: too short: 5"):
        _train(tiny, params)
    seldom = features(1, seed=1, per_window=0.5)
    trained = _train(seldom, params)
    assert set(trained.skipped["signal"]) == {"latency_p95", "error_ratio", "together"}
    assert [key[2] for key in trained.baselines] == ["rate"]
    with pytest.raises(NotEnoughData, match="no whole window"):
        _train(tiny.clear(), params)


def test_parameters_saved_and_loaded_predict_the_same(shop: Trained, tmp_path: Path) -> None:
    store.save(shop.baselines, tmp_path)
    again = store.load(tmp_path)
    assert again.keys() == shop.baselines.keys()
    times = shop.scores["time"].unique().to_numpy()
    for key, baseline in shop.baselines.items():
        assert np.array_equal(again[key].predict(times).upper, baseline.predict(times).upper)
        assert again[key].reason == baseline.reason
    with pytest.raises(NotFound, match="dvc repro train"):
        store.load(tmp_path / "nowhere")


def test_worker_processes_train_the_same_as_one_process(params: BaselineParams) -> None:
    frame = pl.concat([features(0.5, seed=seed, operation=f"GET /{seed}") for seed in range(3)])
    one, several = _train(frame, params), _train(frame, params, workers=2)
    assert several.bounds.equals(one.bounds)
    assert several.scores.equals(one.scores)
    assert several.skipped.equals(one.skipped)
