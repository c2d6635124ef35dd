"""Bounds hold the requested share of quiet windows, whatever the noise looks like."""

import numpy as np
import pytest
from telemetry import START

from apm_analytics.baselines.models.scales import scale_of
from apm_analytics.baselines.training import calibration
from apm_analytics.baselines.training.calibration import conformal, quiet_windows, spread_by_hour

N = 28 * 288
TIMES = START + np.arange(N) * np.timedelta64(300, "s")
SCALE = scale_of("latency_p95", 300.0)
REQUESTS = np.full((4, 168), 60.0)
NOISES = {
    "normal": lambda draw, size: draw.normal(0, 0.1, size),
    "skewed": lambda draw, size: draw.gumbel(0, 0.1, size),
    "heavy": lambda draw, size: 0.1 * draw.standard_t(4, size),
}


def _drawn(noise: str) -> np.ndarray:
    return np.stack([NOISES[noise](np.random.default_rng(seed), N) for seed in range(4)])


def _quiet(residuals: np.ndarray) -> np.ndarray:
    spread = spread_by_hour(TIMES, residuals, REQUESTS[: len(residuals)], SCALE)
    return quiet_windows(TIMES, residuals, spread, slot_s=1800.0)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("level", [0.99, 0.995])
def test_the_share_outside_on_new_windows_is_the_one_asked_for(noise: str, level: float) -> None:
    residuals = _drawn(noise)
    taught = np.where(_quiet(residuals), residuals, np.nan)
    spread = np.median(spread_by_hour(TIMES, taught, REQUESTS, SCALE), axis=1)
    low, high = conformal(taught / spread[:, None], SCALE, level)
    fresh = NOISES[noise](np.random.default_rng(100), 20_000)
    outside = [
        np.mean((fresh > one_high * one) | (fresh < one_low * one))
        for one, one_low, one_high in zip(spread, low, high, strict=True)
    ]
    assert np.mean(outside) == pytest.approx(1 - level, abs=0.5 * (1 - level))


def test_an_incident_is_masked_and_quiet_noise_is_not() -> None:
    residuals = _drawn("normal")
    assert _quiet(residuals).all()
    residuals[1, 4000:4036] += 1.0
    quiet = _quiet(residuals)
    assert not quiet[1, 4002:4034].any()
    assert (~quiet[1]).sum() <= 42 and quiet[[0, 2, 3]].all()


def test_a_new_level_that_stays_is_no_incident() -> None:
    residuals = _drawn("normal")
    residuals[:, -2000:] += 1.0
    assert _quiet(residuals).all()


def test_noisy_hours_get_wider_bounds() -> None:
    residuals = _drawn("normal")
    night = TIMES.astype("datetime64[h]").astype(int) % 24 < 6
    residuals[:, night] *= 3
    spread = spread_by_hour(TIMES, residuals, REQUESTS, SCALE)
    assert spread[:, 24 + 3] == pytest.approx(3 * spread[:, 24 + 15], rel=0.3)


def test_hours_without_a_value_take_the_median_of_all() -> None:
    values = np.where(TIMES[288] > TIMES, 1.0, np.nan)[None, :]
    values[0, :12] = 5.0
    medians = calibration.by_hour(TIMES, values, 0)[0]
    assert medians[24] == 5.0 and medians[25:48].tolist() == [1.0] * 23 and medians[0] == 1.0
