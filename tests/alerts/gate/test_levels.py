"""Thresholds of sustained values: quiet series keep below them, incidents do not move them."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from apm_analytics.alerts.gate import levels, replay, replayable, watching
from apm_analytics.alerts.prometheus import signal_specs
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


def office(seed: int, days: int, *, moved_after: int | None = None) -> pl.DataFrame:
    """A service used from 9 to 17 on weekdays; after `moved_after` days an hour later."""
    frame = features(seed, days, requests=60.0)
    at = pl.col("time")
    if moved_after is not None:
        late = at >= START + timedelta(days=moved_after)
        at = at - pl.when(late).then(pl.duration(hours=1)).otherwise(pl.duration(hours=0))
    is_open = at.dt.hour().is_between(9, 16) & (at.dt.weekday() <= 5)
    closed = {"count": 0, "rate_per_s": 0.0, "error_count": 0}
    nothing = {"error_ratio": None, "latency_p95_s": None}
    return frame.with_columns(
        pl.when(is_open).then(pl.col(name)).otherwise(pl.lit(value)).alias(name)
        for name, value in (closed | nothing).items()
    )


def office_bounds(opens: int = 9) -> pl.DataFrame:
    hour = pl.col("hour_of_week")
    day = hour // 24
    is_open = (hour % 24).is_between(opens, opens + 7) & day.is_between(1, 5)
    of_rate = pl.col("signal") == "rate"
    return flat_bounds(60.0).with_columns(
        pl.when(is_open | ~of_rate)
        .then(pl.col(name))
        .otherwise(0.002 * (name == "upper"))
        .alias(name)
        for name in ("expected", "lower", "upper")
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_openings_and_closings_page_nobody_and_a_dead_service_does(
    params: Params, seed: int
) -> None:
    signals = signal_specs.load(settings.load().workspace / "specs")
    asked = {"rate": signals["rate"].model_copy(update={"bounds": ("lower", "upper")})}
    weeks = levels.weeks(levels.learn(office(seed, 21), office_bounds(), params))

    def pages(coming: pl.DataFrame) -> list[str]:
        (watched,) = watching.watch(coming, params)
        return [
            alert.name
            for alert in replayable.generated(asked, params)
            if alert.threshold is None
            for _ in replay.firings(alert, watched, weeks, params, since=START)
        ]

    coming = office(seed + 50, 14)
    assert pages(coming) == []
    noon = pl.col("time").is_between(START + timedelta(hours=36), START + timedelta(hours=38))
    dead = coming.with_columns(
        pl.when(noon).then(0.0).otherwise(pl.col("rate_per_s")).alias("rate_per_s")
    )
    assert pages(dead) == ["ApmRateBelowBaseline"]


def test_after_a_change_of_clocks_earlier_weeks_count_by_their_own(params: Params) -> None:
    plain = levels.weeks(levels.learn(office(1, 28), office_bounds(), params))
    moved = levels.weeks(levels.learn(office(1, 28, moved_after=24), office_bounds(10), params))
    for key, week in plain.items():
        for bound in ("lower", "upper") if key[2] == "rate" else ("upper",):
            widths = [
                np.abs(getattr(one, bound) - one.expected).max() for one in (week, moved[key])
            ]
            assert widths[1] <= 1.3 * widths[0], (key, bound)


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
