"""Features of simulated operations with known truth, without a lake."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from apm_analytics.baselines.training.fleet import Fleet, fleets
from apm_analytics.signals.operations import SCHEMA

WINDOW_S = 300.0
PER_DAY = 288
# A Monday, 00:00 UTC.
START = np.datetime64("2026-03-02T00:00:00", "us")

Change = Callable[[dict[str, np.ndarray]], None]


def features(
    days: float,
    *,
    seed: int,
    per_window: float = 60.0,
    latency_s: float = 0.2,
    errors: float = 0.02,
    season: float = 0.6,
    change: Change | None = None,
    operation: str = "GET /",
    min_requests: int = 3,
) -> pl.DataFrame:
    """Draw the windows of one operation: Poisson requests, log-normal latency, binomial errors.

    `season` is how far the logarithm of the traffic swings over the day; weekends have 30 % less.
    `change` may alter the expected values ("requests", "latency_s", "errors"; and "time") in place.
    """
    draw = np.random.default_rng(seed)
    count = round(days * PER_DAY)
    hour = np.arange(count) * WINDOW_S / 3600.0
    day = (hour // 24).astype(int) % 7
    wave = np.sin(2 * np.pi * (hour - 9) / 24) + 0.3 * np.sin(4 * np.pi * hour / 24)
    truth = {
        "time": START + (np.arange(count) * int(WINDOW_S * 1e6)).astype("timedelta64[us]"),
        "requests": per_window * np.exp(season * wave) * np.where(day >= 5, 0.7, 1.0),
        "latency_s": latency_s * np.exp(0.25 * season * wave),
        "errors": np.full(count, errors),
    }
    if change is not None:
        change(truth)
    requests = draw.poisson(truth["requests"])
    failed = draw.binomial(requests, truth["errors"])
    known = requests >= min_requests
    # The 95 % quantile of n log-normal durations strays by about 1 / sqrt(n).
    noise = draw.normal(0, 0.5 / np.sqrt(np.maximum(requests, 1))) + draw.normal(0, 0.03, count)
    p95_s = np.where(known, truth["latency_s"] * np.exp(noise), np.nan)
    return pl.DataFrame(
        {
            "service_name": ["shop"] * count,
            "operation": [operation] * count,
            "time": truth["time"],
            "count": requests,
            "seen_count": requests,
            "rate_per_s": requests / WINDOW_S,
            "rate_se_per_s": 0.0,
            "error_count": failed,
            "error_ratio": np.where(known, failed / np.maximum(requests, 1), np.nan),
            "latency_p50_s": p95_s / 2,
            "latency_p95_s": p95_s,
            "latency_p99_s": p95_s * 1.5,
        },
        schema_overrides=dict(SCHEMA),
        nan_to_null=True,
    )


def fleet(
    signal: str, days: float, *, seeds: Sequence[int], change: Change | None = None, **knobs: float
) -> Fleet:
    """Draw one signal, one operation per seed."""
    drawn = [
        features(days, seed=seed, change=change, operation=f"GET /{seed:04d}", **knobs)
        for seed in seeds
    ]
    found = next(fleets(pl.concat(drawn), WINDOW_S)[1])
    return next(one for one in found if one.signal == signal)


def during(first_day: float, hours: float, **factors: float) -> Change:
    """Multiply expected values from `first_day` (days after the start) on, for some hours."""

    def change(truth: dict[str, np.ndarray]) -> None:
        day = (truth["time"] - START) / np.timedelta64(86_400_000_000, "us")
        chosen = (day >= first_day) & (day < first_day + hours / 24)
        for name, factor in factors.items():
            truth[name] = np.where(chosen, truth[name] * factor, truth[name])

    return change
