"""Variance-stabilising scales: on them the noise of a signal is the same at every level.

In:  values of a signal in its own unit, and the usual number of requests per window.
Out: values on the model's scale, and back; the noise that sampling alone explains.

Latency is modelled as its logarithm, rate as the logarithm of the requests per window plus a
half, error ratio as the arc sine of its square root (the variance-stabilising transforms of a
log-normal, a Poisson and a binomial variable). Saturation, which only forests use, is modelled
as the logarithm of a share.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from apm_analytics.baselines.models.series import Floats as Floats
from apm_analytics.signals.saturation import SATURATION

# Standard deviation of a normal variable over its median absolute deviation.
MAD_TO_SD = 1.4826
# s; shorter than any request over a network; keeps the logarithm of an erroneous 0 s finite.
MIN_LATENCY_S = 1e-6
# Differences too small to act on: 2 % or 5 ms of latency, half a percentage point of errors.
LATENCY_MARGIN_RATIO = 0.02
LATENCY_MARGIN_S = 0.005
ERROR_MARGIN = 0.005
# Smallest standard deviation of log latency between windows.
LATENCY_NOISE = 0.01
# Two percentage points of a resource are too small to act on; below one hundredth it is idle.
SATURATION_MARGIN = 0.02
SATURATION_NOISE = 0.01
IDLE_SHARE = 0.01


@dataclass(frozen=True)
class Scale(ABC):
    """How one signal is modelled; `window_s` is the length of a window in seconds."""

    window_s: float
    # Latency and rate can be anomalous on both sides, an error ratio only above.
    two_sided: bool = True

    @abstractmethod
    def forward(self, values: Floats) -> Floats:
        """Convert values to the model's scale."""

    @abstractmethod
    def backward(self, scaled: Floats) -> Floats:
        """Convert values back to the signal's unit, never below its smallest possible value."""

    def to_fit(self, values: Floats) -> Floats:
        """Convert values to the scale on which models are fitted; by default the model's scale."""
        return self.forward(values)

    def from_fit(self, fitted: Floats) -> Floats:
        """Convert what a model expects to the model's scale."""
        return fitted

    @abstractmethod
    def noise(self, requests: Floats) -> Floats:
        """Return the smallest standard deviation on the model's scale at these request counts."""

    @abstractmethod
    def margin(self, expected: Floats, requests: Floats) -> Floats:
        """Return the smallest distance of a bound from the expected value, in the unit."""

    @abstractmethod
    def deviation(self, center: Floats, requests: Floats) -> Floats:
        """Return the smallest standard deviation in the unit, for bounds without a model."""


@dataclass(frozen=True)
class LogLatencyScale(Scale):
    """Seconds, as their logarithm."""

    def forward(self, values: Floats) -> Floats:
        return np.log(np.maximum(values, MIN_LATENCY_S))

    def backward(self, scaled: Floats) -> Floats:
        return np.exp(scaled)

    def noise(self, requests: Floats) -> Floats:
        return np.full_like(requests, LATENCY_NOISE)

    def margin(self, expected: Floats, requests: Floats) -> Floats:
        return np.maximum(LATENCY_MARGIN_RATIO * expected, LATENCY_MARGIN_S)

    def deviation(self, center: Floats, requests: Floats) -> Floats:
        return np.maximum(LATENCY_MARGIN_RATIO * center, LATENCY_MARGIN_S) + 0.0 * requests


@dataclass(frozen=True)
class LogCountScale(Scale):
    """Requests per second, as the logarithm of the requests per window plus a half."""

    def forward(self, values: Floats) -> Floats:
        return np.log(np.maximum(values, 0.0) * self.window_s + 0.5)

    def backward(self, scaled: Floats) -> Floats:
        return np.maximum(np.exp(scaled) - 0.5, 0.0) / self.window_s

    def noise(self, requests: Floats) -> Floats:
        # Half of Poisson's noise: arrivals of a polling client are more regular than chance.
        return 0.5 / np.sqrt(requests + 0.5)

    def margin(self, expected: Floats, requests: Floats) -> Floats:
        return np.full_like(expected, 1.0 / self.window_s)

    def deviation(self, center: Floats, requests: Floats) -> Floats:
        counted = np.maximum(center * self.window_s, 1.0)
        return np.sqrt(counted) / self.window_s + 0.0 * requests


@dataclass(frozen=True)
class ArcsineRatioScale(Scale):
    """Failed requests per request, as the arc sine of the square root."""

    two_sided: bool = False

    def forward(self, values: Floats) -> Floats:
        return np.arcsin(np.sqrt(np.clip(values, 0.0, 1.0)))

    def backward(self, scaled: Floats) -> Floats:
        return np.sin(np.clip(scaled, 0.0, np.pi / 2)) ** 2

    def to_fit(self, values: Floats) -> Floats:
        # Models are fitted to the ratios themselves: where most windows have no failure, the mean
        # of the transformed ratios is far below the transformed mean ratio, and the mean is what
        # is expected.
        return values

    def from_fit(self, fitted: Floats) -> Floats:
        return self.forward(fitted)

    def noise(self, requests: Floats) -> Floats:
        return 0.5 / np.sqrt(np.maximum(requests, 1.0))

    def margin(self, expected: Floats, requests: Floats) -> Floats:
        # A single failure in a usual window is not an anomaly, whatever its ratio.
        return np.maximum(1.0 / np.maximum(requests, 1.0), ERROR_MARGIN)

    def deviation(self, center: Floats, requests: Floats) -> Floats:
        ratio = np.clip(center, 0.0, 0.5)
        return np.maximum(np.sqrt(ratio * (1.0 - ratio) / np.maximum(requests, 1.0)), ERROR_MARGIN)


@dataclass(frozen=True)
class LogShareScale(Scale):
    """Shares of a resource, as the logarithm of the share plus one hundredth.

    An idle resource then has little noise.
    """

    def forward(self, values: Floats) -> Floats:
        return np.log(np.maximum(values, 0.0) + IDLE_SHARE)

    def backward(self, scaled: Floats) -> Floats:
        return np.maximum(np.exp(scaled) - IDLE_SHARE, 0.0)

    def noise(self, requests: Floats) -> Floats:
        return np.full_like(requests, SATURATION_NOISE)

    def margin(self, expected: Floats, requests: Floats) -> Floats:
        return np.full_like(expected, SATURATION_MARGIN)

    def deviation(self, center: Floats, requests: Floats) -> Floats:
        return SATURATION_MARGIN + 0.0 * center + 0.0 * requests


_SCALES: dict[str, type[Scale]] = {
    "latency_p95": LogLatencyScale,
    "rate": LogCountScale,
    "error_ratio": ArcsineRatioScale,
    SATURATION: LogShareScale,
}


def scale_of(signal: str, window_s: float) -> Scale:
    """Return the scale of one of `signals.operations.SIGNALS`, or of saturation."""
    return _SCALES[signal](window_s)
