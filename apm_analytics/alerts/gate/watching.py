"""Compute history as the alert rules see it: live and sustained values at every evaluation.

In:  the features of operations, one row per operation and window.
Out: one `Watched` per operation, and one per service for all its operations together.

A sustained value covers the last `thresholds.sustained_s`, so that one odd window pages nobody
and a few requests per window suffice. For the rate it is the mean, for the error ratio failures
over requests, for p95 latency the geometric mean of the windows' p95.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from apm_analytics.baselines.models import Times, hour_of_week
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.foundation.settings import Params
from apm_analytics.signals import OPERATION

# The operation that stands for all operations of a service: a loss of traffic shows here first,
# because the service has more requests than each of its operations. (`TOGETHER` in baselines is
# something else: the signal that stands for all signals of one operation.)
ALL_OPERATIONS = "*"
# A service that died takes its series with it: for this long its rate counts as 0. With a longer
# time, a renamed operation would count as missing for days.
SEEN_WITHIN_S = 6 * 3600.0


@dataclass(frozen=True)
class Watched:
    """One operation at every evaluation of the rules.

    Parameters
    ----------
    times : datetime64[us] of shape (n,), the evaluations, UTC, equally spaced.
    live : signal -> float64 of shape (n,), as Prometheus records it; NaN without a value.
    present : the rate of shape (n,), 0 where its series disappeared a short time ago.
    sustained : as `live`, over the last `thresholds.sustained_s`.
    look_back_s : how far back the oldest request of a sustained value lies, in seconds.
    """

    service: str
    operation: str
    times: Times
    live: dict[str, Floats]
    present: Floats
    sustained: dict[str, Floats]
    look_back_s: float

    def by_hour(self, week: Floats, pick: np.ufunc = np.maximum) -> Floats:
        """Return for each evaluation its value of 168; hour 0 is Sunday 00:00 UTC.

        A sustained value that spans two hours gets the larger of theirs, or the smaller with
        `np.minimum`: after a shop opens, its requests per second still include the night's.
        """
        oldest = self.times - np.timedelta64(int(self.look_back_s), "s")
        spanned: Floats = pick(week[hour_of_week(self.times)], week[hour_of_week(oldest)])
        return spanned


def labelled(operation: str) -> str | None:
    """Return the operation to match labels with; None, which matches any, for a whole service."""
    return None if operation == ALL_OPERATIONS else operation


def watch(features: pl.DataFrame, params: Params) -> Iterator[Watched]:
    """Yield every operation, and every service of several operations, as the rules see them.

    Parameters
    ----------
    features : as `signals.operations.features` returns them. A window is evaluated at its end. An
        operation that ends early counts as rate 0 for `seen_within_s`.
    params : the numbers of params.yaml.
    """
    step_s = params.features.window_s
    step = np.timedelta64(step_s, "s").astype("timedelta64[us]")
    last = features["time"].cast(pl.Datetime("us")).to_numpy().max()
    seen = _seen(params, step_s)
    totals: dict[str, list[tuple[Times, Floats]]] = {}
    ordered = features.sort(*OPERATION, "time")
    for part in ordered.partition_by(OPERATION, maintain_order=True):
        service, operation = part.select(OPERATION).row(0)
        ends = part["time"].cast(pl.Datetime("us")).to_numpy() + step
        gone = np.arange(ends[-1] + step, last + 2 * step, step)[:seen]
        nothing = np.full(gone.size, np.nan)
        rate = np.concatenate([part["rate_per_s"].to_numpy(), nothing])
        times = np.concatenate([ends, gone])
        watched = measured(
            service,
            operation,
            times,
            rate=rate,
            error_ratio=np.concatenate([_ratio(part), nothing]),
            latency_p95=np.concatenate([_values(part["latency_p95_s"]), nothing]),
            params=params,
            step_s=step_s,
        )
        totals.setdefault(service, []).append((times, watched.present))
        yield watched
    for service, rates in totals.items():
        if len(rates) > 1:
            yield _all_operations(service, rates, params, step_s)


def measured(
    service: str,
    operation: str,
    times: Times,
    *,
    rate: Floats,
    error_ratio: Floats,
    latency_p95: Floats,
    params: Params,
    step_s: float,
) -> Watched:
    """Compute `Watched` from live values at every evaluation, `step_s` apart.

    Parameters
    ----------
    rate : 1/s of shape (n,); NaN where its series is gone.
    error_ratio, latency_p95 : ratio and s of shape (n,); NaN without a value.
    """
    count = evaluations(params.thresholds.sustained_s, step_s)
    seen = rolling_sum(np.isfinite(rate).astype(np.float64), _seen(params, step_s))
    present = np.where(np.isfinite(rate), rate, np.where(seen > 0, 0.0, np.nan))
    with np.errstate(invalid="ignore", divide="ignore"):
        enough = rate * params.features.window_s >= params.features.min_requests
        logs = np.where(enough & (latency_p95 > 0), np.log(latency_p95), np.nan)
        requests = rolling_sum(present, count)
        sustained = {
            "latency_p95": np.exp(rolling_mean(logs, count)),
            "rate": rolling_mean(present, count),
            "error_ratio": rolling_sum(error_ratio * rate, count) / requests,
        }
    live = {"latency_p95": latency_p95, "rate": rate, "error_ratio": error_ratio}
    look_back_s = look_back(params)
    return Watched(service, operation, times, live, present, sustained, look_back_s)


def evaluations(seconds: float, step_s: float) -> int:
    """Return the number of evaluations in a range of seconds, at least one."""
    return max(int(np.ceil(seconds / step_s)), 1)


def look_back(params: Params) -> float:
    """Return the range of sustained values in seconds: one less, as it includes both its ends."""
    return params.thresholds.sustained_s - 1


def seen_within_s(params: Params) -> float:
    """Return how long a series that is gone counts as 0; longer than `for`, so that alerts fire."""
    return max(SEEN_WITHIN_S, 2 * params.thresholds.for_s)


def rolling_sum(values: Floats, count: int) -> Floats:
    """Sum the last `count` values, fewer at the beginning; NaN counts as 0."""
    summed = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values, nan=0.0))])
    ends = np.arange(1, values.size + 1)
    sums: Floats = summed[ends] - summed[np.maximum(ends - count, 0)]
    return sums


def rolling_mean(values: Floats, count: int) -> Floats:
    """Return the mean of the finite values among the last `count`; NaN where there are none."""
    known = rolling_sum(np.isfinite(values).astype(np.float64), count)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(known > 0, rolling_sum(values, count) / known, np.nan)
    return means


def _seen(params: Params, step_s: float) -> int:
    return evaluations(seen_within_s(params), step_s)


def _all_operations(
    service: str, rates: list[tuple[Times, Floats]], params: Params, step_s: float
) -> Watched:
    times = np.unique(np.concatenate([times for times, _ in rates]))
    total = np.zeros(times.size)
    for of_operation, rate in rates:
        total[np.searchsorted(times, of_operation)] += np.nan_to_num(rate, nan=0.0)
    nothing = np.full(times.size, np.nan)
    return measured(
        service,
        ALL_OPERATIONS,
        times,
        rate=total,
        error_ratio=nothing,
        latency_p95=nothing,
        params=params,
        step_s=step_s,
    )


def _ratio(part: pl.DataFrame) -> Floats:
    """Return failures per request of every window with requests, however few."""
    count = pl.col("count")
    ratio = pl.when(count > 0).then(pl.col("error_count") / count)
    return _values(part.select(ratio.alias("ratio"))["ratio"])


def _values(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy()
