"""Bounds without a season: the median and robust deviations, the same in every hour.

In:  a series too short, too sparse or too constant for a season.
Out: `RobustBaseline`; its parameters as rows of a frame.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from apm_analytics.analyze.signals import Schema
from apm_analytics.baselines.band import Band, side_score
from apm_analytics.baselines.calibration import MAD_TO_SD, requests_profile
from apm_analytics.baselines.scales import Floats, Scale, scale_of
from apm_analytics.baselines.series import (
    HOURS_PER_WEEK,
    Series,
    Times,
    hour_of_week,
    require_windows,
)

# Windows with this many standard deviations more failures than usual count as an incident.
CLIP_DEVIATIONS = 4.0
CLIP_ROUNDS = 4


@dataclass(frozen=True)
class RobustBaseline:
    """Median +- `deviations_allowed` robust standard deviations of one series.

    Parameters
    ----------
    signal : one of `analyze.signals.SIGNALS`.
    window_s : length of a window, in seconds.
    center : the median, in the signal's unit; of an error ratio the ratio over all quiet
        windows, for the median of small windows is always 0.
    sampled : what the noise of sampling is taken from; like `center`, but never 0.
    spread : 1.4826 times the median absolute deviation, in the signal's unit.
    requests : float64 of shape (168,), usual requests in a window; one value in all hours unless
        the history is long enough to know the week.
    deviations_allowed : how many deviations from the median the bounds are.
    reason : why there is no season.
    """

    signal: str
    window_s: float
    center: float
    sampled: float
    spread: float
    requests: Floats
    deviations_allowed: float
    reason: str = ""
    model: ClassVar[str] = "robust"

    @classmethod
    def fit(
        cls,
        series: Series,
        *,
        deviations: float,
        min_windows: int,
        knows_week: bool = False,
        reason: str = "",
    ) -> "RobustBaseline":
        """Take median and deviation of the windows with a value.

        Parameters
        ----------
        series : the history.
        deviations : how many robust standard deviations away the bounds are.
        min_windows : fewer windows with a value are refused.
        knows_week : take the usual requests by hour of the week instead of one median; the
            sampling noise of an error ratio then follows the traffic.
        reason : why there is no season, kept with the parameters.

        Raises
        ------
        NotEnoughData
            Fewer than `min_windows` windows with a value.

        Examples
        --------
        >>> RobustBaseline.fit(series, deviations=5, min_windows=12)  # doctest: +SKIP
        """
        require_windows(series, min_windows)
        values = series.values[series.known]
        middle = float(np.median(values))
        center, sampled = middle, middle
        if series.signal == "error_ratio":
            center, sampled = _quiet_ratio(values, series.requests[series.known])
        requests = (
            requests_profile(series)
            if knows_week
            else np.full(HOURS_PER_WEEK, np.median(series.requests[series.known]))
        )
        spread = MAD_TO_SD * float(np.median(np.abs(values - middle)))
        return cls(
            series.signal,
            series.window_s,
            center,
            sampled,
            spread,
            requests,
            deviations,
            reason,
        )

    def predict(self, times: Times) -> Band:
        """Give expected value and bounds at these times, in the signal's unit."""
        hours = hour_of_week(times)
        expected = np.full(hours.shape, self.center)
        margin = self._scale.margin(expected, self.requests[hours])
        width = np.maximum(self.deviations_allowed * self._deviation(hours), margin)
        lower = np.maximum(expected - width, 0.0) if self._scale.two_sided else 0.0 * expected
        upper = expected + width
        if self.signal == "error_ratio":
            upper = np.minimum(upper, 1.0)
        return Band(expected, lower, upper)

    def score(self, times: Times, values: Floats) -> Floats:
        """Score values: 0 as expected, above 1 outside the bounds; NaN without a value."""
        band = self.predict(times)
        score = side_score(values, band.expected, band.lower, band.upper)
        return score if self._scale.two_sided else np.where(values < band.expected, 0.0, score)

    def row(self) -> dict[str, object]:
        """Give the parameters as one row; `from_row` is the way back."""
        return {
            "signal": self.signal,
            "window_s": self.window_s,
            "center": self.center,
            "sampled": self.sampled,
            "spread": self.spread,
            "requests": self.requests.tolist(),
            "deviations_allowed": self.deviations_allowed,
            "reason": self.reason,
        }

    @classmethod
    def from_row(cls, row: dict[str, object]) -> "RobustBaseline":
        """Make a fitted baseline of a row of parameters."""
        fields = {name: row[name] for name in SCHEMA}
        return cls(**{**fields, "requests": np.array(fields["requests"])})  # type: ignore[arg-type]

    @property
    def _scale(self) -> Scale:
        return scale_of(self.signal, self.window_s)

    def _deviation(self, hours: NDArray[np.int64]) -> Floats:
        least = self._scale.deviation(self.sampled, self.requests[hours])
        result: Floats = np.maximum(self.spread, least)
        return result


def _quiet_ratio(values: Floats, requests: Floats) -> tuple[float, float]:
    """Give failures a request without the windows of an incident, and the least it may be."""
    failures = values * requests
    quiet = np.ones(values.shape, dtype=np.bool_)
    ratio, total = 0.0, 1.0
    for _ in range(CLIP_ROUNDS):
        total = max(float(requests[quiet].sum()), 1.0)
        ratio = float(failures[quiet].sum()) / total
        usual = ratio * requests
        quiet = failures <= usual + CLIP_DEVIATIONS * np.sqrt(usual) + 1.0
    # No failure seen in n requests does not mean that there will never be one.
    return ratio, max(ratio, 0.5 / (total + 1.0))


# Columns of the saved parameters, besides service_name and operation.
SCHEMA: Schema = {
    "signal": pl.String,
    "window_s": pl.Float64,
    "center": pl.Float64,
    "sampled": pl.Float64,
    "spread": pl.Float64,
    "requests": pl.List(pl.Float64),
    "deviations_allowed": pl.Float64,
    "reason": pl.String,
}
