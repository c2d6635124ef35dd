"""Hourly series with seasons, bends, noise and gaps, for the tests of models."""

from typing import Any

import numpy as np

START = np.datetime64("2026-03-01T00:00", "us")
HOUR = np.timedelta64(3600, "s")
N = 24 * 30


def hours(count: int, first: int = 0) -> Any:
    return START + np.arange(first, first + count) * HOUR


def fleet(seed: int, rows: int = 8, count: int = N) -> Any:
    """Series with seasons, a bend in the trend and noise, of different sizes."""
    draw = np.random.default_rng(seed)
    t = np.arange(count) / 24
    day = np.sin(2 * np.pi * t) * draw.uniform(0.2, 3, (rows, 1))
    week = np.cos(2 * np.pi * t / 7) * draw.uniform(0, 2, (rows, 1))
    bend = np.maximum(t - draw.uniform(5, 20, (rows, 1)), 0) * draw.normal(0, 0.3, (rows, 1))
    noise = draw.normal(0, 1, (rows, count)) * draw.uniform(0.1, 1, (rows, 1))
    return draw.uniform(-20, 50, (rows, 1)) + day + week + bend + noise


def with_gaps(seed: int) -> Any:
    """Missing values, a late start, an early end."""
    values = fleet(seed)
    draw = np.random.default_rng(seed + 1)
    values[1][draw.random(N) < 0.05] = np.nan
    values[2][draw.random(N) < 0.7] = np.nan
    values[3][:200] = np.nan
    values[4][-100:] = np.nan
    values[5][250:400] = np.nan
    return values
