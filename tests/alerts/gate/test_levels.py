"""Thresholds of sustained values: quiet series keep below them, incidents do not move them."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from apm_analytics.alerts.gate import levels, watching
from apm_analytics.baselines.training.fleet import BOUNDS_SCHEMA
from apm_analytics.foundation import settings
from apm_analytics.foundation.settings import Params

START = datetime(2026, 3, 1)  # a Sunday
WINDOW_S = 300
A_DAY = 288
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def params(workspace: Path) -> Params:
    return settings.load_params(workspace / "params.yaml")


def features(
    seed: int, days: int, *, requests: float = 20.0, operations: int = 1, incident: bool = False
) -> pl.DataFrame:
    """Poisson requests, binomial failures and log-normal p95; an incident lasts three hours."""
    rng = np.random.default_rng(seed)
    size = days * A_DAY
    parts = []
    for number in range(operations):
        mean = np.full(size, requests)
        failing = np.full(size, 0.003)
        slower = np.ones(size)
        if incident:
            during = slice(size // 2, size // 2 + 36)
            mean[during], failing[during], slower[during] = 0.2 * requests, 0.4, 6.0
        count = rng.poisson(mean)
        errors = rng.binomial(count, failing)
        p95 = 0.2 * slower * rng.lognormal(0, 0.25, size)
        enough = count >= 3
        parts.append(
            pl.DataFrame(
                {
                    "service_name": "shop",
                    "operation": f"GET /{number}",
                    "time": [START + timedelta(seconds=WINDOW_S * n) for n in range(size)],
                    "count": count,
                    "rate_per_s": count / WINDOW_S,
                    "error_count": errors,
                    "error_ratio": np.where(enough, errors / np.maximum(count, 1), np.nan),
                    "latency_p95_s": np.where(enough, p95, np.nan),
                }
            ).with_columns(pl.col("error_ratio", "latency_p95_s").fill_nan(None))
        )
    return pl.concat(parts)


def flat_bounds(
    requests: float = 20.0, operations: int = 1, expected_errors: float = 0.003
) -> pl.DataFrame:
    """The same bounds of windows in every hour."""
    rate = requests / WINDOW_S
    parts = [
        pl.DataFrame(
            {
                "service_name": "shop",
                "operation": f"GET /{number}",
                "signal": signal,
                "unit": unit,
                "hour_of_week": np.arange(168),
                "expected": expected,
                "lower": lower,
                "upper": upper,
                "model": "robust",
            },
            schema=BOUNDS_SCHEMA,
        )
        for number in range(operations)
        for signal, unit, expected, lower, upper in (
            ("latency_p95", "s", 0.2, 0.1, 0.4),
            ("rate", "1/s", rate, 0.4 * rate, 1.7 * rate),
            ("error_ratio", "1", expected_errors, 0.0, 0.15),
        )
    ]
    return pl.concat(parts)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("requests", [4.0, 40.0])
def test_quiet_series_hardly_ever_pass_their_thresholds(
    params: Params, seed: int, requests: float
) -> None:
    bounds = flat_bounds(requests)
    learned = levels.weeks(levels.learn(features(seed, 14, requests=requests), bounds, params))
    passed = evaluations = 0
    (watched,) = watching.watch(features(seed + 100, 28, requests=requests), params)
    for signal, week in ((key[2], week) for key, week in learned.items()):
        value = watched.sustained[signal]
        evaluations += np.isfinite(value).sum()
        above, below = value > watched.by_hour(week.upper), value < watched.by_hour(week.lower)
        # The first sustained values look at fewer windows.
        passed += (above | (below if signal == "rate" else False))[4:].sum()
    assert len(learned) == 3
    assert passed <= 2e-4 * evaluations


@pytest.mark.parametrize("seed", SEEDS)
def test_an_incident_in_the_history_does_not_move_the_thresholds(params: Params, seed: int) -> None:
    bounds = flat_bounds()
    quiet, troubled = (
        levels.weeks(levels.learn(features(seed, 14, incident=incident), bounds, params))
        for incident in (False, True)
    )
    for key, week in quiet.items():
        for bound in ("upper", "lower") if key[2] == "rate" else ("upper",):
            step = np.abs(getattr(week, bound) - week.expected).max()
            moved = np.abs(getattr(troubled[key], bound) - getattr(week, bound)).max()
            # Other windows are quiet in the two histories, so chance alone moves it a little.
            assert moved <= 0.2 * step, (key, bound)


def test_a_service_of_several_operations_gets_a_rate_of_all_together(params: Params) -> None:
    several = levels.learn(features(1, 7, operations=5), flat_bounds(operations=5), params)
    rates = levels.weeks(several.filter(pl.col("signal") == "rate"))
    together, one = rates["shop", "*", "rate"], rates["shop", "GET /0", "rate"]
    assert together.expected[0] == pytest.approx(5 * one.expected[0])
    # Together chance counts for less, so a smaller loss of traffic shows.
    assert together.lower[0] / together.expected[0] > one.lower[0] / one.expected[0] + 0.1
    alone = levels.learn(features(1, 7), flat_bounds(), params)
    assert "*" not in alone["operation"].to_list()


def test_few_failures_never_reach_a_threshold_however_few_requests(params: Params) -> None:
    sparse = features(1, 14, requests=4.0)
    week = levels.weeks(levels.learn(sparse, flat_bounds(4.0), params))[
        "shop", "GET /0", "error_ratio"
    ]
    requests = 4.0 / WINDOW_S * params.thresholds.sustained_s
    assert (week.upper * requests > 2).all()
    assert (week.upper < 0.5).all(), "half of all failing must show"


def test_a_series_with_too_few_sustained_values_gets_no_threshold(params: Params) -> None:
    found = levels.learn(features(1, 14).head(60), flat_bounds(), params)
    assert found.is_empty()
    assert found.schema == pl.Schema(BOUNDS_SCHEMA)
