from pathlib import Path

import numpy as np
import polars as pl
import pytest

from apm_analytics.baselines.growth import capacity, charts
from apm_analytics.baselines.growth.capacity import Limit
from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import BadParameter, NotEnoughData

PARAMS = settings.load().params.forecast


def _features(days: int = 35) -> pl.DataFrame:
    """Two operations: one whose p95 grows from 0.3 s by 10 ms a day, one that stands still."""
    rng = np.random.default_rng(5)
    n = days * 24
    hours = np.arange(n)
    rate = 20.0 + 10.0 * np.sin(2 * np.pi * hours / 24) + rng.normal(0.0, 0.5, n)
    frames = []
    for operation, rise in (("POST /grows", 0.01), ("GET /still", 0.0)):
        frames.append(
            pl.DataFrame(
                {
                    "service_name": "shop",
                    "operation": operation,
                    "time": np.datetime64("2026-01-05", "us")
                    + hours * np.timedelta64(3_600_000_000, "us"),
                    "count": np.full(n, 100),
                    "rate_per_s": rate,
                    "error_ratio": np.zeros(n),
                    "latency_p95_s": 0.3 + rise * hours / 24 + rng.normal(0.0, 0.01, n),
                }
            )
        )
    return pl.concat(frames)


def _capacity(features: pl.DataFrame, limits: list[Limit]) -> pl.DataFrame:
    return capacity.capacity(features, limits, PARAMS, seed=7)


def test_every_limit_gets_an_outcome_the_soonest_first() -> None:
    limits = [Limit(signal="latency_p95", limit=0.8), Limit(signal="rate", times_peak=2.0)]
    forecasts = _capacity(_features(), limits)
    first = forecasts.row(0, named=True)
    assert (first["operation"], first["signal"]) == ("POST /grows", "latency_p95")
    # 0.3 s + 10 ms a day reaches 0.8 s on day 50 of 5 January.
    assert abs((first["on"] - np.datetime64("2026-02-24").astype(object)).days) <= 2
    assert first["earliest"] <= first["on"] <= first["latest"]
    assert first["per_day"] == pytest.approx(0.01, rel=0.05)
    assert capacity.sentence(first).startswith("on ")
    others = forecasts.slice(1)
    assert others["status"].unique().to_list() == ["not within the horizon"]
    assert others["probability"].max() <= 0.05
    assert "not within the horizon (probability" in capacity.sentence(others.row(0, named=True))
    rate = forecasts.filter(pl.col("signal") == "rate")
    assert rate["limit"].to_list() == pytest.approx((2 * rate["peak"]).to_list())


def test_the_most_particular_limit_counts() -> None:
    limits = [
        Limit(signal="latency_p95", limit=9.0),
        Limit(signal="latency_p95", limit=0.2, service="shop", operation="GET /still"),
        Limit(signal="latency_p95", limit=8.0, service="shop"),
    ]
    forecasts = dict(_capacity(_features(), limits).select("operation", "limit").rows())
    assert forecasts == {"POST /grows": 8.0, "GET /still": 0.2}
    past = _capacity(_features(), limits).filter(operation="GET /still").row(0, named=True)
    assert capacity.sentence(past) == "already past it"


def test_the_head_room_of_every_operation_has_a_number_or_a_reason() -> None:
    times, load, latency = _queue(2)
    queue = pl.DataFrame(
        {
            "service_name": "shop",
            "operation": "POST /queue",
            "time": times,
            "count": 100,
            "rate_per_s": load,
            "error_ratio": 0.0,
            "latency_p95_s": latency,
        }
    )
    features = pl.concat([queue, _features(days=5).cast({"count": pl.Int32})])
    limits = [Limit(signal="latency_p95", limit=float(np.log(20) / 20))]
    loads = capacity.loads(features, limits, PARAMS, seed=3)
    assert loads["operation"].to_list() == ["POST /queue", "GET /still", "POST /grows"]
    assert loads["load"][0] == pytest.approx(80.0, rel=0.1)
    assert loads["load"][0] > loads["peak"][0] > 50.0
    assert all("5 days have load and latency" in one for one in loads["reason"][1:])
    shown = charts.load_table(loads)["reached at a rate of"]
    assert "times the peak" in shown[0] and "import more telemetry" in shown[1]


def test_a_forecast_is_drawn_with_its_band_and_its_limit() -> None:
    features = _features()
    forecasts = _capacity(features, [Limit(signal="latency_p95", limit=0.8)])
    first = forecasts.row(0, named=True)
    spec = charts.chart(features, first, PARAMS, seed=7).to_dict()
    rows = [row for part in spec["datasets"].values() for row in part]
    ahead = [row for row in rows if row.get("part") == "forecast"]
    assert len(ahead) >= 90 and all(row["lower"] <= row["value"] <= row["upper"] for row in ahead)
    assert {"limit": 0.8} in rows
    assert len([row for row in rows if row.get("part") == "measured"]) == 35
    shown = charts.table(forecasts)
    assert shown["passes its limit"][0].startswith("on ")
    assert shown["change per week"][0].startswith("+")


def test_too_short_a_history_and_a_signal_of_zeros_are_named() -> None:
    short = _capacity(_features(days=5), [Limit(signal="rate", limit=1.0)])
    assert short["status"].unique().to_list() == ["not enough data"]
    assert "5 days have values" in capacity.sentence(short.row(0, named=True))
    zeros = _capacity(_features(), [Limit(signal="error_ratio", times_peak=2.0)])
    assert zeros["reason"][0] == "error ratio is 0 in the last week; give a `limit`"
    assert _capacity(_features().clear(), [Limit(signal="rate", limit=1.0)]).is_empty()


def test_the_projects_own_limits_can_be_read_and_a_wrong_one_is_named(
    workspace: Path, tmp_path: Path
) -> None:
    assert capacity.read_limits(workspace / "specs" / "capacity.yaml")
    file = tmp_path / "capacity.yaml"
    file.write_text("limits:\n  - {signal: rate}\n  - {signal: rate, limit: 1, operation: a}\n")
    with pytest.raises(BadParameter, match=r"capacity.yaml:2.*give either `limit` or `times_peak`"):
        capacity.read_limits(file)
    with pytest.raises(BadParameter, match=r"an operation needs its `service`"):
        capacity.read_limits(file)


def test_the_load_at_which_latency_passes_its_limit_is_found() -> None:
    inside = []
    for seed in range(40):
        times, load, latency = _queue(seed)
        # p95 of the queue is ln 20 / (100 - load): 0.15 s at a load of 80.
        limit = capacity.load_limit(times, load, latency, np.log(20) / 20.0, PARAMS, seed=seed)
        assert limit.load is not None and limit.load == pytest.approx(80.0, rel=0.1)
        inside.append(limit.lower <= 80.0 <= limit.upper)
    assert 0.70 <= np.mean(inside) <= 0.95


def test_latency_that_does_not_depend_on_load_has_no_load_limit() -> None:
    times, load, latency = _queue(1)
    flat = np.random.default_rng(1).permutation(latency)
    estimate = capacity.load_limit(times, load, flat, 0.1, PARAMS, seed=1)
    assert (estimate.load, estimate.reason) == (None, "latency does not rise with load")
    far = capacity.load_limit(times, load, latency, 5.0, PARAMS, seed=1)
    assert far.load is None and "too far below the limit to tell" in far.reason
    with pytest.raises(NotEnoughData, match=r"hours of 2 days have load and latency"):
        capacity.load_limit(times[:500], load[:500], latency[:500], 1.0, PARAMS, seed=1)


def _queue(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four weeks of 5-minute windows of a queue with 100 requests a second of capacity."""
    rng = np.random.default_rng(seed)
    n = 28 * 288
    times = np.datetime64("2026-01-05", "us") + np.arange(n) * np.timedelta64(300_000_000, "us")
    load = 35.0 + 20.0 * np.sin(2 * np.pi * np.arange(n) / 288) + rng.normal(0.0, 2.0, n)
    days = np.exp(np.repeat(rng.normal(0.0, 0.05, 28), 288))
    return times, load, days * np.log(20) / (100.0 - load) * np.exp(rng.normal(0.0, 0.1, n))
