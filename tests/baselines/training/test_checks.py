"""Bad input has a name and a reason in the report, and never becomes a silent number."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from telemetry import START, during, features

from apm_analytics.baselines.training import training
from apm_analytics.baselines.training.training import Trained
from apm_analytics.foundation import settings
from apm_analytics.foundation.settings import BaselineParams


@pytest.fixture(scope="session")
def params(workspace: Path) -> BaselineParams:
    return settings.load_params(workspace / "params.yaml").baselines


def _train(frame: pl.DataFrame, params: BaselineParams) -> Trained:
    return training.train(frame, params, window_s=300.0, seed=7, only_models=True, workers=1)


def _outcomes(
    found: Trained, signal: str = "latency_p95", operation: str = "GET /"
) -> dict[str, str]:
    rows = found.skipped.filter(signal=signal, operation=operation)
    return dict(rows.select("outcome", "reason").rows())


def _with(frame: pl.DataFrame, column: str, values: np.ndarray) -> pl.DataFrame:
    return frame.with_columns(pl.Series(column, values).fill_nan(None))


def _silent(frame: pl.DataFrame, when: np.ndarray) -> pl.DataFrame:
    """Take all requests out of some windows, as an operation without traffic looks."""
    marked = frame.with_columns(silent=when)
    return marked.with_columns(
        pl.when("silent").then(0).otherwise(pl.col("count")).alias("count"),
        pl.when("silent").then(0.0).otherwise(pl.col("rate_per_s")).alias("rate_per_s"),
        pl.when(~pl.col("silent")).then(pl.col("latency_p95_s")),
        pl.when(~pl.col("silent")).then(pl.col("error_ratio")),
    ).drop("silent")


def _days(frame: pl.DataFrame) -> np.ndarray:
    return (frame["time"].to_numpy() - START) / np.timedelta64(1, "D")


def test_under_three_days_bounds_have_no_season_and_say_so(params: BaselineParams) -> None:
    trained = _train(features(2.5, seed=1), params)
    for signal in ("latency_p95", "rate", "error_ratio"):
        outcomes = _outcomes(trained, signal)
        assert outcomes["no season"].startswith(
            "short history: 2.5 days, under 3; the bounds are robust"
        )
    assert {fleet.model for fleet in trained.fleets} == {"robust"}
    later = _outcomes(_train(features(5, seed=1), params))
    assert later["no season"].startswith(
        f"short history: 5.0 days, a season needs {params.min_season_days:g};"
    )


def test_times_out_of_order_and_rows_that_came_twice_are_put_right(params: BaselineParams) -> None:
    frame = features(1, seed=1)
    expected = (
        _train(frame, params).baselines["shop", "GET /", "rate"].predict(START + np.arange(3))
    )
    shuffled = pl.concat([frame.sample(fraction=1, shuffle=True, seed=1), frame.head(10)])
    trained = _train(shuffled, params)
    reasons = trained.skipped.filter(signal="rate", outcome="mended")["reason"].sort().to_list()
    assert reasons == [
        "duplicated times: 10 rows came twice and count once",
        "unsorted times: sorted before learning",
    ]
    again = trained.baselines["shop", "GET /", "rate"].predict(START + np.arange(3))
    assert np.array_equal(again.upper, expected.upper)


def test_two_values_of_one_window_are_refused(params: BaselineParams) -> None:
    """A clock that was set back writes the same hour twice, with other values."""
    frame = features(1, seed=1)
    twice = frame.slice(50, 12).with_columns(pl.col("rate_per_s") + 1.0)
    good = features(1, seed=2, operation="POST /")
    trained = _train(pl.concat([frame, twice, good]), params)
    outcome = _outcomes(trained)["skipped"]
    assert outcome.startswith(
        "duplicated times: 12 windows have two different values, the first at"
    )
    assert {key[1] for key in trained.baselines} == {"POST /"}


def test_windows_that_begin_elsewhere_are_refused(params: BaselineParams) -> None:
    frame = features(1, seed=1)
    crooked = frame.with_columns(
        pl.when(pl.col("time") > pl.col("time").mean())
        .then(pl.col("time") + pl.duration(seconds=7))
        .otherwise("time")
    )
    trained = _train(pl.concat([crooked, features(1, seed=2, operation="POST /")]), params)
    assert _outcomes(trained)["skipped"].startswith("irregular times: 144 windows do not begin at")


def test_a_gap_stays_a_gap_and_is_said(params: BaselineParams) -> None:
    frame = features(16, seed=1)
    hole = (_days(frame) > 9.25) & (_days(frame) < 10.75)
    lost = _train(frame.filter(~hole), params)
    assert _outcomes(lost)["mended"].startswith("gap: 35.9 h without any record from 2026-03-11")
    # A stopped exporter looks like no requests: its zeros are not learned either.
    zero = _silent(frame, hole)
    still = _train(zero, params)
    assert _outcomes(still, "rate")["mended"].startswith("gap: 35.9 h")
    coming = START + np.arange(7 * 24) * np.timedelta64(1, "h")
    for signal in ("rate", "latency_p95"):
        bands = [one.baselines["shop", "GET /", signal].predict(coming) for one in (lost, still)]
        np.testing.assert_allclose(bands[0].lower, bands[1].lower)


def test_nights_without_requests_are_no_gap(params: BaselineParams) -> None:
    frame = features(16, seed=1)
    night = (_days(frame) % 1 < 0.25) | (_days(frame) % 1 > 0.8)
    quiet = _silent(frame, night)
    trained = _train(quiet, params)
    assert trained.skipped.filter(outcome="mended").is_empty()
    at_night = START + np.timedelta64(16 * 24 + 2, "h") + np.arange(2)
    assert trained.baselines["shop", "GET /", "rate"].predict(at_night).lower.max() == 0


def test_a_metric_that_is_all_zero_or_constant_has_no_season(params: BaselineParams) -> None:
    frame = features(16, seed=1, errors=0.0)
    trained = _train(_with(frame, "latency_p95_s", np.full(frame.height, 0.25)), params)
    assert _outcomes(trained, "error_ratio")["no season"].startswith(
        "all zero: every window has the"
    )
    assert _outcomes(trained)["no season"].startswith("constant: every window has the value 0.25")
    band = trained.baselines["shop", "GET /", "error_ratio"].predict(START + np.arange(3))
    assert (band.expected == 0).all() and (band.upper > 0).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_counter_with_resets_is_refused(params: BaselineParams, seed: int) -> None:
    frame = features(16, seed=seed)
    grown = np.random.default_rng(seed).exponential(1.0, frame.height).cumsum()
    for reset in (900, 2500, 4000):
        grown[reset:] -= grown[reset]
    trained = _train(_with(frame, "latency_p95_s", grown), params)
    assert _outcomes(trained)["skipped"].startswith(
        "counter reset: the values only grow and fall back to their start 3 times, the first at "
        "2026-03-05T03:00"
    )
    assert ("shop", "GET /", "latency_p95") not in trained.baselines


@pytest.mark.parametrize(("factor", "day"), [(1000.0, 7.0), (0.001, 12.0), (60.0, 3.0)])
def test_a_unit_that_switches_is_refused(params: BaselineParams, factor: float, day: float) -> None:
    frame = features(16, seed=1)
    switched = frame["latency_p95_s"].fill_null(np.nan).to_numpy().copy()
    switched[_days(frame) >= day] *= factor
    outcome = _outcomes(_train(_with(frame, "latency_p95_s", switched), params))["skipped"]
    assert outcome.startswith(f"unit switch: the level goes {'up' if factor > 1 else 'down'} by")
    assert str(np.datetime64("2026-03-02") + int(day)) in outcome


def test_ten_times_slower_for_days_is_no_other_unit(params: BaselineParams) -> None:
    frame = features(16, seed=1, change=during(12.0, 96, latency_s=10.0))
    assert "skipped" not in _outcomes(_train(frame, params))
    outage = features(16, seed=1, change=during(12.0, 12, latency_s=60.0))
    assert "skipped" not in _outcomes(_train(outage, params))


@pytest.mark.parametrize("hours", [1, -1])
def test_a_change_of_clocks_is_found_and_the_past_is_shifted_to_the_new_one(
    params: BaselineParams, hours: int
) -> None:
    frames, truth = [], []
    for seed in range(3):
        frame = features(20, seed=seed, operation=f"GET /{seed}")
        day = _days(frame)
        late = frame.with_columns(pl.col("time") + pl.duration(hours=hours))
        truth.append(late)
        before = frame.filter(day < 11)
        frames += [before, late.filter(pl.col("time") > before["time"].max())]
    trained = _train(pl.concat(frames), params)
    expected = _train(pl.concat(truth), params)
    coming = START + np.timedelta64(20, "D") + np.arange(7 * 24) * np.timedelta64(1, "h")
    for seed in range(3):
        outcome = _outcomes(trained, "rate", f"GET /{seed}")["mended"]
        assert outcome.startswith(f"clock change: the day moved by {hours:+d} h on 2026-03-1")
        curves = [
            one.baselines["shop", f"GET /{seed}", "rate"].predict(coming).expected
            for one in (trained, expected)
        ]
        assert np.abs(np.log(curves[0] / curves[1])).mean() < 0.06
    assert expected.skipped.filter(outcome="mended").is_empty()


@pytest.mark.parametrize("hours", [1, -1])
def test_values_before_a_change_of_clocks_are_scored_by_their_own_clock(
    params: BaselineParams, hours: int
) -> None:
    frame = features(20, seed=4)
    day = _days(frame)
    moved = frame.with_columns(pl.col("time") + pl.duration(hours=hours))
    before = frame.filter(day < 16.5)
    changed = pl.concat([before, moved.filter(pl.col("time") > before["time"].max())])
    scores = [
        training.train(one, params, window_s=300.0, seed=7, workers=1).scores.filter(
            pl.col("signal") == "rate"
        )
        for one in (frame, changed)
    ]
    plain, known = (one["score"].drop_nulls().drop_nans().to_numpy() for one in scores)
    # Two hours at the change have no counterpart.
    assert known.size > plain.size - 30
    assert (known > 1).mean() <= (plain > 1).mean() + 0.004
    shifted = scores[1].filter(pl.col("time") < before["time"].max())
    same = shifted.join(scores[0], on=["operation", "time"])
    assert same["value"].eq_missing(same["value_right"]).all()


def test_seasons_without_a_change_of_clocks_stay_as_they_are(params: BaselineParams) -> None:
    frames = [features(21, seed=seed, operation=f"GET /{seed}") for seed in range(10, 16)]
    noisy = [
        features(21, seed=seed, per_window=4.0, operation=f"POST /{seed}") for seed in range(4)
    ]
    trained = _train(pl.concat([*frames, *noisy]), params)
    assert trained.skipped.filter(pl.col("reason").str.contains("clock")).is_empty()
