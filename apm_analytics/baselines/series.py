"""One signal of one operation as arrays, and the calendar that all baselines share.

In:  the features of one operation.
Out: `Series`; hours of the week; profiles over them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from apm_analytics.analyze.signals import OPERATION, SIGNALS
from apm_analytics.baselines.scales import Floats, Scale, scale_of
from apm_analytics.errors import NotEnoughData

Times = NDArray[np.datetime64]
Flags = NDArray[np.bool_]

HOURS_PER_WEEK = 168
HOUR_US = 3_600_000_000
DAY_S = 86_400.0
# 1970-01-01 was a Thursday; week hours start on Sunday, as PromQL's day_of_week().
_EPOCH_HOUR_OF_WEEK = 4 * 24


@dataclass(frozen=True)
class Series:
    """One signal of one operation, window by window.

    Parameters
    ----------
    times : datetime64[us] of shape (n,), starts of windows, UTC, ascending.
    values : float64 of shape (n,), in the signal's unit; NaN where a window has no value.
    requests : float64 of shape (n,), requests in each window.
    window_s : length of a window, in seconds.
    """

    service_name: str
    operation: str
    signal: str
    times: Times
    values: Floats
    requests: Floats
    window_s: float

    @property
    def key(self) -> tuple[str, str, str]:
        """Service, operation and signal."""
        return (self.service_name, self.operation, self.signal)

    @property
    def scale(self) -> Scale:
        """The scale this signal is modelled on."""
        return scale_of(self.signal, self.window_s)

    @property
    def known(self) -> Flags:
        """Which windows have a value."""
        return np.isfinite(self.values)

    @property
    def days(self) -> float:
        """Days from the first to the end of the last window with a value."""
        known = self.times[self.known]
        if not known.size:
            return 0.0
        return (float(np.ptp(seconds(known))) + self.window_s) / DAY_S

    def pick(self, chosen: Flags) -> "Series":
        """Keep only some windows."""
        return replace(
            self,
            times=self.times[chosen],
            values=self.values[chosen],
            requests=self.requests[chosen],
        )


def of_operation(features: pl.DataFrame, window_s: float) -> list[Series]:
    """Split the features of one operation into its signals, in the order of `SIGNALS`."""
    service_name, operation = features.select(OPERATION).row(0)
    times = features["time"].cast(pl.Datetime("us")).to_numpy()
    requests = features["count"].cast(pl.Float64).to_numpy()
    return [
        Series(
            service_name,
            operation,
            name,
            times,
            features[signal.column].cast(pl.Float64).fill_null(np.nan).to_numpy(),
            requests,
            window_s,
        )
        for name, signal in SIGNALS.items()
    ]


def operations(features: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Give the features operation by operation, sorted."""
    yield from features.sort(*OPERATION, "time").partition_by(OPERATION, maintain_order=True)


def require_windows(series: Series, min_windows: int) -> None:
    """Refuse a series that is too short to say anything about.

    Raises
    ------
    NotEnoughData
        No window has a value ("all null"), or fewer than `min_windows` have one.
    """
    found = int(series.known.sum())
    if found == 0:
        raise NotEnoughData(
            f"all null: none of {series.values.size} windows has a value, need {min_windows}; "
            "lower features.min_requests in params.yaml or import more telemetry"
        )
    if found < min_windows:
        raise NotEnoughData(
            f"too short: {found} windows have a value, need {min_windows}; import more "
            "telemetry, or lower baselines.min_windows in params.yaml"
        )


def seconds(times: Times) -> Floats:
    """Give times as seconds since 1970."""
    return times.astype("datetime64[us]").astype(np.int64) / 1e6


def hour_of_week(times: Times) -> NDArray[np.int64]:
    """Give the hour of the week of each time, UTC: 0 is Sunday 00:00, 167 Saturday 23:00."""
    hours = times.astype("datetime64[us]").astype(np.int64) // HOUR_US
    result: NDArray[np.int64] = (hours + _EPOCH_HOUR_OF_WEEK) % HOURS_PER_WEEK
    return result


def week_after(last: np.datetime64, window_s: float) -> Times:
    """Give the starts of all windows of the 168 hours from the hour of `last` on."""
    start = last.astype("datetime64[h]").astype("datetime64[us]")
    step = np.timedelta64(int(window_s * 1e6), "us")
    # A window of more than an hour still has to give each hour a value.
    step = min(step, np.timedelta64(HOUR_US, "us"))
    return np.arange(start, start + np.timedelta64(HOURS_PER_WEEK * HOUR_US, "us"), step)


def week_profile(times: Times, values: Floats, *, reach: int) -> Floats:
    """Give the median of each hour of the week, over the hours within `reach` of it.

    Hours without any value take the median of all; no value at all gives NaN.
    """
    known = np.isfinite(values)
    if not known.any():
        return np.full(HOURS_PER_WEEK, np.nan)
    hours, values = hour_of_week(times[known]), values[known]
    # Every value counts for its own hour and for its neighbours.
    near = [(hours + step) % HOURS_PER_WEEK for step in range(-reach, reach + 1)]
    labels, medians = group_medians(np.concatenate(near), np.tile(values, len(near)))
    profile = np.full(HOURS_PER_WEEK, np.median(values))
    profile[labels] = medians
    return profile


def group_medians(groups: NDArray[np.int64], values: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Give the groups there are, ascending, and the median of each."""
    order = np.lexsort((values, groups))
    labels, first, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    ordered = values[order]
    medians = (ordered[first + (sizes - 1) // 2] + ordered[first + sizes // 2]) / 2.0
    return labels, medians
