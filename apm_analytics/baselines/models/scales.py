"""The scale on which a signal's noise is the same at every level, and its smallest widths.

In:  values of a signal in its own unit, and how many requests a window usually has.
Out: values on the model's scale, and back; the noise that sampling alone explains.

Latency is modelled as its logarithm, rate as the logarithm of requests a window plus a half,
error ratio as the arc sine of its square root (the variance-stabilising transforms of a
log-normal, a Poisson and a binomial variable). Saturation, which only forests see, as the logarithm
of a share.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apm_analytics.signals.saturation import SATURATION

Floats = NDArray[np.float64]

# A robust standard deviation is so many median absolute deviations.
MAD_TO_SD = 1.4826
# Shorter than any request over a network; keeps the logarithm of a broken 0 s finite.
MIN_LATENCY_S = 1e-6
# Differences nobody would act on (docs: METHODS of root cause): 2 % or 5 ms, half a percent point.
LATENCY_MARGIN_RATIO = 0.02
LATENCY_MARGIN_S = 0.005
ERROR_MARGIN = 0.005
# Log latency never repeats better than this between windows of one service.
LATENCY_NOISE = 0.01
# Nobody acts on two points of a resource; below a hundredth it is idle.
SATURATION_MARGIN = 0.02
SATURATION_NOISE = 0.01
IDLE_SHARE = 0.01


@dataclass(frozen=True)
class Scale(ABC):
    """How one signal is modelled; `window_s` is the length of a window in seconds."""

    window_s: float
    # Latency and rate can be odd on both sides, an error ratio only above.
    two_sided: bool = True

    @abstractmethod
    def forward(self, values: Floats) -> Floats:
        """Take values to the model's scale."""

    @abstractmethod
    def backward(self, scaled: Floats) -> Floats:
        """Bring values back to the signal's unit, never below its smallest possible value."""

    def to_fit(self, values: Floats) -> Floats:
        """Take values to where models are fitted: here the model's scale itself."""
        return self.forward(values)

    def from_fit(self, fitted: Floats) -> Floats:
        """Bring what a model expects to the model's scale."""
        return fitted

    @abstractmethod
    def noise(self, requests: Floats) -> Floats:
        """Give the least standard deviation on the model's scale at this many requests."""

    @abstractmethod
    def margin(self, expected: Floats, requests: Floats) -> Floats:
        """Give the smallest distance of a bound from the expected value, in the unit."""

    @abstractmethod
    def deviation(self, center: Floats, requests: Floats) -> Floats:
        """Give the least standard deviation in the unit, for bounds without a model."""


@dataclass(frozen=True)
class LatencyScale(Scale):
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
class RateScale(Scale):
    """Requests a second, as the logarithm of the requests in a window plus a half."""

    def forward(self, values: Floats) -> Floats:
        return np.log(np.maximum(values, 0.0) * self.window_s + 0.5)

    def backward(self, scaled: Floats) -> Floats:
        return np.maximum(np.exp(scaled) - 0.5, 0.0) / self.window_s

    def noise(self, requests: Floats) -> Floats:
        # Half of Poisson's own: arrivals of a polling client are more regular than chance.
        return 0.5 / np.sqrt(requests + 0.5)

    def margin(self, expected: Floats, requests: Floats) -> Floats:
        return np.full_like(expected, 1.0 / self.window_s)

    def deviation(self, center: Floats, requests: Floats) -> Floats:
        counted = np.maximum(center * self.window_s, 1.0)
        return np.sqrt(counted) / self.window_s + 0.0 * requests


@dataclass(frozen=True)
class ErrorRatioScale(Scale):
    """Failed requests a request, as the arc sine of the square root."""

    two_sided: bool = False

    def forward(self, values: Floats) -> Floats:
        return np.arcsin(np.sqrt(np.clip(values, 0.0, 1.0)))

    def backward(self, scaled: Floats) -> Floats:
        return np.sin(np.clip(scaled, 0.0, np.pi / 2)) ** 2

    def to_fit(self, values: Floats) -> Floats:
        # Unchanged: the mean of transformed ratios is far below the transformed mean ratio where
        # most windows have no failure at all, and the mean is what is expected.
        return values

    def from_fit(self, fitted: Floats) -> Floats:
        return self.forward(fitted)

    def noise(self, requests: Floats) -> Floats:
        return 0.5 / np.sqrt(np.maximum(requests, 1.0))

    def margin(self, expected: Floats, requests: Floats) -> Floats:
        # One failure in a usual window is no anomaly, whatever its ratio.
        return np.maximum(1.0 / np.maximum(requests, 1.0), ERROR_MARGIN)

    def deviation(self, center: Floats, requests: Floats) -> Floats:
        ratio = np.clip(center, 0.0, 0.5)
        return np.maximum(np.sqrt(ratio * (1.0 - ratio) / np.maximum(requests, 1.0)), ERROR_MARGIN)


@dataclass(frozen=True)
class SaturationScale(Scale):
    """Shares of a resource, as the logarithm of a hundredth more: what is idle has little noise."""

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
    "latency_p95": LatencyScale,
    "rate": RateScale,
    "error_ratio": ErrorRatioScale,
    SATURATION: SaturationScale,
}


def scale_of(signal: str, window_s: float) -> Scale:
    """Give the scale of one of `signals.operations.SIGNALS`, or of saturation."""
    return _SCALES[signal](window_s)
