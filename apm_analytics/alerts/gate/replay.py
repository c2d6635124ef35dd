"""Replay the rules over history: when would an alert have fired?

In:  `Watched` operations; thresholds by hour of the week, or static ones.
Out: firing intervals, as Prometheus' own state machine gives them.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from apm_analytics.alerts.gate.watching import TOGETHER, Watched, evaluations, rolling_mean
from apm_analytics.alerts.prometheus.signal_specs import SignalSpec
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import Flags, Times
from apm_analytics.foundation.settings import Params

TRAFFIC_BEFORE_S = 3600.0  # the static "it has stopped" wants traffic in this time


@dataclass(frozen=True)
class Interval:
    """An alert fires in [start, end), UTC; `end` is the evaluation that resolved it.

    One that still fires ends with the last evaluation, and is `ongoing`.
    """

    start: np.datetime64
    end: np.datetime64
    ongoing: bool = False

    @property
    def span(self) -> tuple[datetime, datetime]:
        """Start and end, UTC without a zone."""
        return _python(self.start), _python(self.end)


def firing(
    times: Times, passed: Flags, *, for_s: float, keep_firing_s: float = 0.0
) -> list[Interval]:
    """Run the state machine of one alert of one series.

    Parameters
    ----------
    times : datetime64 of shape (n,), the evaluations, ascending.
    passed : bool of shape (n,), whether the expression gave a sample.
    for_s : it must be there this long before the alert fires.
    keep_firing_s : the alert fires on for so long after the expression is gone.

    Examples
    --------
    >>> times = np.arange(0, 5, dtype="datetime64[m]")
    >>> [one] = firing(times, np.array([0, 1, 1, 1, 0], dtype=bool), for_s=120)
    >>> str(one.start), str(one.end)
    ('1970-01-01T00:03', '1970-01-01T00:04')
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], passed, [False]])))
    pending = np.timedelta64(int(for_s * 1e6), "us")
    keep = np.timedelta64(int(keep_firing_s * 1e6), "us")
    found: list[Interval] = []
    started: np.datetime64 | None = None  # since when it fires
    resolves = 0  # the evaluation that ends it, unless the expression is back before
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if started is not None and resolves < begin:
            found.append(Interval(started, times[resolves]))
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
        found.append(Interval(started, times[resolves]))
    elif started is not None:
        found.append(Interval(started, times[-1], ongoing=True))
    return found


def _python(time: np.datetime64) -> datetime:
    found: datetime = time.astype("datetime64[us]").item()
    return found


def passes_learned(
    watched: Watched,
    spec: SignalSpec,
    bound: str,
    threshold: Floats,
    expected_rate: Floats | None,
    params: Params,
) -> Flags:
    """Tell at which evaluations a learned alert's expression gives a sample.

    Parameters
    ----------
    threshold : float64 of shape (168,), by hour of the week.
    expected_rate : float64 of shape (168,), for lower bounds: the traffic that should be there.
    """
    value = watched.sustained[spec.name]
    seconds = params.thresholds.sustained_s
    least = params.thresholds.min_requests
    with np.errstate(invalid="ignore"):
        if bound == "upper":
            requests = watched.sustained["rate"] * seconds
            passed: Flags = (value > watched.by_hour(threshold)) & (requests >= least)
            if spec.name == "error_ratio":
                # Rates are estimates: half a failure less counts as enough.
                passed &= value * requests > params.thresholds.min_failures - 0.5
        else:
            if expected_rate is None:
                return np.zeros(value.shape, dtype=np.bool_)
            enough = watched.by_hour(expected_rate) * seconds >= least
            passed = (value < watched.by_hour(threshold)) & enough
    return passed


def passes_static(
    watched: Watched, spec: SignalSpec, bound: str, params: Params, step_s: float
) -> Flags:
    """Tell at which evaluations a static alert's expression gives a sample."""
    threshold = getattr(spec.fallback, bound)
    value, rate = watched.live[spec.name], watched.live["rate"]
    if bound == "lower":
        value = watched.present
    if threshold is None or watched.operation == TOGETHER:
        return np.zeros(value.shape, dtype=np.bool_)
    requests = rate
    with np.errstate(invalid="ignore"):
        passed = value > threshold if bound == "upper" else value < threshold
        if bound == "lower":
            before_s = max(TRAFFIC_BEFORE_S, 2 * params.thresholds.for_s)
            requests = rolling_mean(rate, evaluations(before_s, step_s))
        passed &= requests * params.features.window_s >= params.features.min_requests
    return np.asarray(passed, dtype=np.bool_)
