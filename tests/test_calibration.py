"""Bounds hold the share of quiet windows that was asked for, whatever the noise looks like."""

import numpy as np
import pytest
from telemetry import series

from apm_analytics.baselines.calibration import calibrate, quiet_windows
from apm_analytics.baselines.series import Series

NOISES = {
    "normal": lambda draw, n: draw.normal(0, 0.1, n),
    "skewed": lambda draw, n: draw.gumbel(0, 0.1, n),
    "heavy": lambda draw, n: 0.1 * draw.standard_t(4, n),
}


def _drawn(seed: int, noise: str) -> tuple[Series, np.ndarray]:
    one = series("latency_p95", 28, seed=seed)
    return one, NOISES[noise](np.random.default_rng(seed), one.times.size)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("level", [0.99, 0.995])
def test_the_share_outside_on_new_windows_is_the_one_asked_for(noise: str, level: float) -> None:
    shares = []
    for seed in range(4):
        one, residuals = _drawn(seed, noise)
        quiet = quiet_windows(one, residuals, grid_s=1800)
        found = calibrate(one, residuals, quiet, level=level)
        fresh = NOISES[noise](np.random.default_rng(100 + seed), 20_000)
        spread = np.median(found.spread)
        shares.append(np.mean((fresh > found.high * spread) | (fresh < found.low * spread)))
    assert np.mean(shares) == pytest.approx(1 - level, abs=0.5 * (1 - level))


def test_an_incident_is_masked_and_quiet_noise_is_not() -> None:
    one, residuals = _drawn(1, "normal")
    assert quiet_windows(one, residuals, grid_s=1800).all()
    residuals[4000:4036] += 1.0
    quiet = quiet_windows(one, residuals, grid_s=1800)
    assert not quiet[4002:4034].any()
    assert (~quiet).sum() <= 42


def test_a_new_level_that_stays_is_no_incident() -> None:
    one, residuals = _drawn(1, "normal")
    residuals[-2000:] += 1.0
    assert quiet_windows(one, residuals, grid_s=1800).all()


def test_noisy_hours_get_wider_bounds() -> None:
    one, residuals = _drawn(1, "normal")
    night = one.times.astype("datetime64[h]").astype(int) % 24 < 6
    residuals[night] *= 3
    found = calibrate(one, residuals, np.ones(one.times.size, bool), level=0.99)
    assert found.spread[24 + 3] == pytest.approx(3 * found.spread[24 + 15], rel=0.25)
