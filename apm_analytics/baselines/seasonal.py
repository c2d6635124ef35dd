"""The seasonal naive peer: what the same window had a week ago.

In:  the history of one series, at least two weeks of it.
Out: `SeasonalNaiveBaseline`, the peer that every richer model has to beat.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from apm_analytics.baselines.band import Band, side_score
from apm_analytics.baselines.scales import Floats
from apm_analytics.baselines.series import Series, Times
from apm_analytics.errors import NotEnoughData

WEEK = np.timedelta64(7, "D").astype("timedelta64[us]")
# An older week stands in for a window that had no value in the last one.
WEEKS_BACK = 3


@dataclass(frozen=True)
class SeasonalNaiveBaseline:
    """The value a week before, with the quantiles of week-to-week changes as bounds."""

    history: Series
    low: float
    high: float
    model: ClassVar[str] = "seasonal_naive"
    reason: ClassVar[str] = ""

    @classmethod
    def fit(cls, series: Series, *, level: float, min_windows: int) -> "SeasonalNaiveBaseline":
        """Learn how far a week strays from the one before.

        Parameters
        ----------
        series : the history.
        level : share of windows inside the bounds.
        min_windows : fewer windows with a value a week before are refused.

        Raises
        ------
        NotEnoughData
            Fewer than `min_windows` windows have a value a week before.
        """
        scale = series.scale
        changes = scale.forward(series.values) - scale.forward(_week_before(series, series.times))
        changes = changes[np.isfinite(changes)]
        if changes.size < min_windows:
            raise NotEnoughData(
                f"short history: {changes.size} windows have a value a week before, "
                f"need {min_windows}; import more telemetry"
            )
        outside = (1.0 - level) / (2.0 if scale.two_sided else 1.0)
        low, high = np.quantile(changes, [outside, 1.0 - outside])
        return cls(series, min(float(low), 0.0), max(float(high), 0.0))

    def predict(self, times: Times) -> Band:
        """Give expected value and bounds, in the unit; NaN where no week before has a value."""
        scale = self.history.scale
        before = scale.forward(_week_before(self.history, times))
        lower = before + self.low if scale.two_sided else np.where(np.isnan(before), np.nan, 0.0)
        return Band(
            scale.backward(before), scale.backward(lower), scale.backward(before + self.high)
        )

    def score(self, times: Times, values: Floats) -> Floats:
        """Score values: 0 as expected, above 1 outside the bounds; NaN without either."""
        band = self.predict(times)
        return side_score(values, band.expected, band.lower, band.upper)


def _week_before(history: Series, times: Times) -> Floats:
    known = history.pick(history.known)
    found = np.full(times.shape, np.nan)
    if not known.times.size:
        return found
    for week in range(1, WEEKS_BACK + 1):
        wanted = times - week * WEEK
        place = np.minimum(np.searchsorted(known.times, wanted), known.times.size - 1)
        hit = np.isnan(found) & (known.times[place] == wanted)
        found[hit] = known.values[place[hit]]
    return found
