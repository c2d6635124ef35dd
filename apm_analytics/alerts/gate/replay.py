"""Replay alert rules over history: when would an alert have fired?

In:  an `Alert`, a `Watched` operation, learned thresholds by hour of the week.
Out: firing intervals, computed as Prometheus' own state machine computes them.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from apm_analytics.alerts.gate.watching import (
    ALL_OPERATIONS,
    Watched,
    evaluations,
    rolling_mean,
)
from apm_analytics.baselines.models import Flags, Times
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.foundation.settings import Params
from apm_analytics.foundation.time import HOURS_PER_WEEK

if TYPE_CHECKING:
    from apm_analytics.alerts.gate.levels import Weeks

TRAFFIC_BEFORE_S = 3600.0  # a static lower bound fires only after traffic within this time
COMPARE = {">": np.greater, "<": np.less, ">=": np.greater_equal, "<=": np.less_equal}


@dataclass(frozen=True)
class Alert:
    """One alert to replay.

    Parameters
    ----------
    signal : "latency_p95", "rate" or "error_ratio".
    sign : ">", "<", ">=" or "<=".
    sustained : compares the sustained value instead of the live one.
    threshold : a number in the signal's unit; None stands for the learned threshold.
    plain : compares only; generated alerts also require a minimum of traffic.
    service, operation : restrict the alert to these; None matches all.
    """

    name: str
    signal: str
    sign: str
    sustained: bool
    threshold: float | None
    for_s: float
    keep_firing_s: float = 0.0
    plain: bool = True
    service: str | None = None
    operation: str | None = None

    @property
    def bound(self) -> str:
        """The bound whose passing fires the alert: "upper" or "lower"."""
        return "upper" if self.sign.startswith(">") else "lower"


@dataclass(frozen=True)
class Interval:
    """An alert fires in [start, end), UTC; `end` is the evaluation that resolves it.

    An interval that still fires at the last evaluation ends there and is `ongoing`.
    """

    start: np.datetime64
    end: np.datetime64
    ongoing: bool = False

    @property
    def span(self) -> tuple[datetime, datetime]:
        """Start and end, UTC without a zone."""
        return _python(self.start), _python(self.end)


def firings(
    alert: Alert,
    watched: Watched,
    weeks: "Weeks",
    params: Params,
    *,
    since: datetime,
) -> list[Interval]:
    """Replay one alert on one operation.

    Parameters
    ----------
    weeks : learned thresholds; only an alert without a number needs them. It never fires on a
        series that they lack.
    since : UTC without a zone; evaluations up to it do not count.
    """
    passed = _passes(alert, watched, weeks, params)
    return firing(
        watched.times,
        passed & (watched.times > np.datetime64(since)),
        for_s=alert.for_s,
        keep_firing_s=alert.keep_firing_s,
    )


def firing(
    times: Times, passed: Flags, *, for_s: float, keep_firing_s: float = 0.0
) -> list[Interval]:
    """Run the state machine of one alert of one series.

    Parameters
    ----------
    times : datetime64 of shape (n,), the evaluations, ascending.
    passed : bool of shape (n,), whether the expression returned a sample.
    for_s : how long it must return samples before the alert fires.
    keep_firing_s : how long the alert keeps firing after the last sample.

    Examples
    --------
    >>> times = np.arange(0, 5, dtype="datetime64[m]")
    >>> [interval] = firing(times, np.array([0, 1, 1, 1, 0], dtype=bool), for_s=120)
    >>> str(interval.start), str(interval.end)
    ('1970-01-01T00:03', '1970-01-01T00:04')
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], passed, [False]])))
    pending = np.timedelta64(int(for_s * 1e6), "us")
    keep = np.timedelta64(int(keep_firing_s * 1e6), "us")
    intervals: list[Interval] = []
    started: np.datetime64 | None = None  # since when it fires
    resolves = 0  # the evaluation that ends it, unless samples return before
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if started is not None and resolves < begin:
            intervals.append(Interval(started, times[resolves]))
            started = None
        if started is None:
            first = int(np.searchsorted(times, times[begin] + pending))
            if first >= end:
                continue
            started = times[first]
        if end < times.size:
            resolves = int(np.searchsorted(times, times[end] + keep))
        else:
            resolves = times.size
    if started is not None and resolves < times.size:
        intervals.append(Interval(started, times[resolves]))
    elif started is not None:
        intervals.append(Interval(started, times[-1], ongoing=True))
    return intervals


def passes_learned(
    watched: Watched,
    signal: str,
    bound: str,
    threshold: Floats,
    expected_rate: Floats | None,
    params: Params,
) -> Flags:
    """Return at which evaluations the expression of a learned alert returns a sample.

    Parameters
    ----------
    threshold : float64 of shape (168,), by hour of the week.
    expected_rate : float64 of shape (168,), the usual traffic; a lower bound needs it.
    """
    value = watched.sustained[signal]
    seconds = params.thresholds.sustained_s
    least = params.thresholds.min_requests
    with np.errstate(invalid="ignore"):
        if bound == "lower":
            if expected_rate is None:
                return _never(watched)
            enough = watched.by_hour(expected_rate) * seconds >= least
            return np.asarray((value < watched.by_hour(threshold, np.minimum)) & enough)
        requests = watched.sustained["rate"] * seconds
        passed: Flags = (value > watched.by_hour(threshold)) & (requests >= least)
        if signal == "error_ratio":
            # Rates are estimates, so half a failure less than the minimum is enough.
            passed &= value * requests > params.thresholds.min_failures - 0.5
    return passed


def passes_static(
    watched: Watched, signal: str, bound: str, threshold: float, params: Params, *, step_s: float
) -> Flags:
    """Return at which evaluations, `step_s` apart, a static alert's expression returns a sample."""
    if watched.operation == ALL_OPERATIONS:
        return _never(watched)
    requests = watched.live["rate"]
    with np.errstate(invalid="ignore"):
        if bound == "upper":
            passed = watched.live[signal] > threshold
        else:
            passed = watched.present < threshold
            before_s = max(TRAFFIC_BEFORE_S, 2 * params.thresholds.for_s)
            requests = rolling_mean(requests, evaluations(before_s, step_s))
        passed &= requests * params.features.window_s >= params.features.min_requests
    return np.asarray(passed, dtype=np.bool_)


def _passes(alert: Alert, watched: Watched, weeks: "Weeks", params: Params) -> Flags:
    """Return at which evaluations the alert's expression returns a sample."""
    rate: Floats | None
    if alert.threshold is None:
        week = weeks.get((watched.service, watched.operation, alert.signal))
        if week is None:
            return _never(watched)
        of_rate = weeks.get((watched.service, watched.operation, "rate"))
        threshold, rate = getattr(week, alert.bound), of_rate.expected if of_rate else None
    else:
        threshold = rate = np.full(HOURS_PER_WEEK, alert.threshold)
    if alert.plain:
        values = watched.sustained if alert.sustained else watched.live
        value = values[alert.signal]
        return np.asarray(
            COMPARE[alert.sign](value, watched.by_hour(threshold)) & np.isfinite(value)
        )
    if alert.sustained or alert.threshold is None:
        return passes_learned(watched, alert.signal, alert.bound, threshold, rate, params)
    step_s = float(params.features.window_s)
    return passes_static(watched, alert.signal, alert.bound, alert.threshold, params, step_s=step_s)


def _never(watched: Watched) -> Flags:
    return np.zeros(watched.times.shape, dtype=np.bool_)


def _python(time: np.datetime64) -> datetime:
    moment: datetime = time.astype("datetime64[us]").item()
    return moment
