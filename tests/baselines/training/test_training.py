"""Every series gets a baseline or a reason; bounds and scores are whole."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from telemetry import during, features

from apm_analytics.baselines.models import fitted, store
from apm_analytics.baselines.training import registry, training
from apm_analytics.baselines.training.fleet import BOUNDS_SCHEMA
from apm_analytics.baselines.training.training import Trained
from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import NotEnoughData, NotFound
from apm_analytics.foundation.provenance import Provenance
from apm_analytics.foundation.settings import BaselineParams
from apm_analytics.signals.operations import SIGNALS


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
    for signal in ("latency_p95", "rate"):
        assert models["GET /", signal] in {"prophet", "time_of_day", "time_of_week"}
    assert {models["POST /", signal] for signal in SIGNALS} == {"robust"}
    reasons = {key[1]: baseline.reason.split(":")[0] for key, baseline in shop.baselines.items()}
    assert reasons["POST /"] == "short history"
    assert reasons["GET /"] == models["GET /", "error_ratio"]


def test_bounds_cover_every_hour_of_the_week_of_every_series(shop: Trained) -> None:
    assert shop.bounds.schema == pl.Schema(BOUNDS_SCHEMA)
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
    flat = shop.bounds.filter(operation="POST /").group_by("operation", "signal")
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
        assert (of_signal.filter(~incident)["score"] > 1).mean() <= 0.02  # type: ignore[operator]
    contributions = shop.contributions.filter(incident)
    assert contributions["latency_p95"].mean() > 0.3  # type: ignore[operator]
    assert contributions["rate"].mean() < 0.1  # type: ignore[operator]


def test_a_score_is_above_one_exactly_where_a_value_is_outside_its_bounds(shop: Trained) -> None:
    scores = shop.scores.filter(pl.col("value").is_not_null())
    outside = (pl.col("value") > pl.col("upper")) | (pl.col("value") < pl.col("lower"))
    # Exactly on the bound, rounding decides.
    clear = (pl.col("score") - 1).abs() > 1e-9
    assert scores.filter(clear, outside != (pl.col("score") > 1)).is_empty()
    assert shop.scores.filter(pl.col("value").is_nan()).is_empty()


def test_a_series_too_short_for_anything_is_skipped_with_its_reason(shop: Trained) -> None:
    skipped = shop.skipped.filter(outcome="skipped").select("operation", "signal", "reason")
    assert skipped.rows() == [
        (
            "POST /",
            "together",
            "too short: 24 quiet windows, a forest needs 288; import more telemetry",
        )
    ]
    others = shop.skipped.filter(outcome="no season")
    assert others.select("operation", "signal").rows() == [
        ("POST /", signal) for signal in sorted(SIGNALS)
    ]
    assert others["reason"].str.starts_with("short history: 0.1 days, under 3;").all()


def test_series_without_values_are_skipped_and_all_skipped_is_an_error(
    params: BaselineParams,
) -> None:
    tiny = features(5 / 288, seed=1)
    with pytest.raises(NotEnoughData, match="all 4 series were skipped, such as: too short: 5"):
        _train(tiny, params)
    seldom = features(1, seed=1, per_window=0.5)
    trained = _train(seldom, params)
    skipped = trained.skipped.filter(outcome="skipped")
    assert set(skipped["signal"]) == {"latency_p95", "error_ratio", "together"}
    assert [key[2] for key in trained.baselines] == ["rate"]
    with pytest.raises(NotEnoughData, match="no whole window"):
        _train(tiny.clear(), params)


def test_parameters_saved_and_loaded_predict_the_same(shop: Trained, tmp_path: Path) -> None:
    for number in range(3):
        run = Provenance(f"run-{number}", "c", "d", "p", datetime(2026, 3, 1 + number, tzinfo=UTC))
        registry.keep(shop.fleets, tmp_path, run, keep_runs=2)
    times = shop.scores["time"].unique().sort().to_numpy()
    kept, past = registry.load(tmp_path, "run-1")
    assert kept.trained_at.day == 2
    for again in (store.load(tmp_path), past):
        baselines = {key: one for fleet in again for key, one in fleet.each()}
        assert baselines.keys() == shop.baselines.keys()
        for key, baseline in shop.baselines.items():
            before, after = baseline.predict(times), baselines[key].predict(times)
            assert np.array_equal(before.upper, after.upper)
            assert baselines[key].reason == baseline.reason
    assert registry.run_ids(tmp_path) == ["run-1", "run-2"]
    with pytest.raises(NotFound, match="kept are run-1, run-2"):
        registry.load(tmp_path, "run-0")
    with pytest.raises(NotFound, match="dvc repro train"):
        store.load(tmp_path / "nowhere")


def test_threads_chunks_and_order_train_the_same(params: BaselineParams, tmp_path: Path) -> None:
    frame = pl.concat([features(15, seed=seed, operation=f"GET /{seed}") for seed in range(3)])
    one = _train(frame, params, workers=1, only_models=True)
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=1)
    again = _train(shuffled, params, workers=2, only_models=True)
    assert fitted.table(again.fleets).equals(fitted.table(one.fleets))
    assert again.selection.equals(one.selection)
    assert again.skipped["reason"].str.starts_with("unsorted times").sum() == 9


def test_masked_windows_do_not_move_the_threshold(params: BaselineParams) -> None:
    calm = features(15, seed=3)
    day = (calm["time"] - calm["time"].min()).dt.total_seconds() / 86_400
    masked = day.is_between(11.0, 11.0 + 30 / 24, closed="left")
    slower = pl.when(masked).then(1.5).otherwise(1.0)
    incident = calm.with_columns(pl.col("latency_p95_s") * slower)
    usual, taught, spared = (
        _train(frame, params, masked=mask, workers=1).bounds.filter(signal="latency_p95")
        for frame, mask in (
            (calm, masked.to_numpy()),
            (incident, None),
            (incident, masked.to_numpy()),
        )
    )
    assert spared.equals(usual)
    assert (taught["upper"] / usual["upper"]).log().abs().mean() > 0.05  # type: ignore[operator]


def test_a_99_percent_bound_holds_98_to_995_of_quiet_windows_not_seen(
    params: BaselineParams,
) -> None:
    past, coming = [], []
    for seed in range(6):
        drawn = features(28, seed=seed, per_window=40.0, operation=f"GET /{seed}")
        cut = drawn["time"].min() + timedelta(days=21)  # type: ignore[operator]
        past.append(drawn.filter(pl.col("time") < cut))
        coming.append(drawn.filter(pl.col("time") >= cut))
    trained = _train(pl.concat(past), params, only_models=True)
    for signal, column in (("latency_p95", "latency_p95_s"), ("rate", "rate_per_s")):
        inside = []
        for seed, frame in enumerate(coming):
            values = frame[column].to_numpy()
            band = trained.baselines["shop", f"GET /{seed}", signal].predict(
                frame["time"].to_numpy()
            )
            known = np.isfinite(values)
            inside.append(np.mean(((values >= band.lower) & (values <= band.upper))[known]))
        assert 0.98 <= np.mean(inside) <= 0.995
        assert min(inside) > 0.97


def test_no_model_that_loses_to_seasonal_naive_is_chosen(shop: Trained) -> None:
    chosen = shop.selection.filter("chosen").sort("signal")
    assert chosen["origins"].min() >= 5  # type: ignore[operator]
    naive = shop.selection.filter(pl.col("model").str.starts_with("seasonal_naive"))
    least = naive.group_by("signal").agg(pl.col("scaled_error").min()).sort("signal")
    assert (chosen["scaled_error"] <= least["scaled_error"]).all()
    assert chosen["reason"].str.contains(r"(MASE|RMSSE) \d.* over \d days").all()
    assert chosen["reason"].str.contains("seasonal_naive").all()
