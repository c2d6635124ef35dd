"""See history as the alert rules see it: live and sustained values at every evaluation.

In:  the features of operations, window by window.
Out: `Watched`, one an operation, and one a service for its operations together.

A sustained value looks at the last half hour (`thresholds.sustained_s`): one odd window pages
nobody, and a few requests a window become enough to judge by. Of the rate it is the mean, of the
error ratio failures over requests, of p95 latency the geometric mean of the windows' p95.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import Times, hour_of_week
from apm_analytics.foundation.settings import Params
from apm_analytics.signals.operations import OPERATION

# All operations of a service together: a loss of traffic shows here first, for the service has
# the counts that each of its operations lacks.
TOGETHER = "*"
# A service that died takes its series with it: for this long its rate counts as 0. Longer, and
# an operation that was renamed would be missed for days.
SEEN_WITHIN_S = 6 * 3600.0


@dataclass(frozen=True)
class Watched:
    """One operation at every evaluation of the rules.

    Parameters
    ----------
    times : datetime64[us] of shape (n,), the evaluations, UTC, equally spaced.
    live : signal -> float64 of shape (n,), as Prometheus records it; NaN where it has no value.
    present : the rate of shape (n,), 0 where its series is gone since a short time.
    sustained : as `live`, over the last `thresholds.sustained_s`.
    """

    service: str
    operation: str
    times: Times
    live: dict[str, Floats]
    present: Floats
    sustained: dict[str, Floats]

    def by_hour(self, week: Floats) -> Floats:
        """Pick of 168 values, hour 0 is Sunday 00:00 UTC, the one of each evaluation."""
        return week[hour_of_week(self.times)]


def watch(features: pl.DataFrame, params: Params) -> Iterator[Watched]:
    """Give every operation, and every service of several operations, as the rules see them.

    Parameters
    ----------
    features : as `signals.operations.features` gives them. What was measured in a window is known,
        and evaluated, at its end; an operation that ended early is followed as `SEEN_WITHIN_S`
        says.
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
        gone = np.arange(ends[-1] + step, last + 2 * step, step)
        nothing = np.full(gone[:seen].size, np.nan)
        rate = np.concatenate([part["rate_per_s"].to_numpy(), nothing])
        times = np.concatenate([ends, gone[:seen]])
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
            yield _together(service, rates, params, step_s)


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
    """Watch one operation whose live values are known at every evaluation, `step_s` apart.

    Parameters
    ----------
    rate : 1/s of shape (n,); NaN where its series is gone.
    error_ratio, latency_p95 : of shape (n,); NaN where there is none.
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
    return Watched(service, operation, times, live, present, sustained)


def evaluations(seconds: float, step_s: float) -> int:
    """Count the evaluations that a range of so many seconds sees, at least one."""
    return max(int(np.ceil(seconds / step_s)), 1)


def seen_within_s(params: Params) -> float:
    """Look back so far for a series that is gone: longer than `for`, or no alert could fire."""
    return max(SEEN_WITHIN_S, 2 * params.thresholds.for_s)


def rolling_sum(values: Floats, count: int) -> Floats:
    """Sum the last `count` values, fewer at the beginning; NaN counts as nothing."""
    summed = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values, nan=0.0))])
    ends = np.arange(1, values.size + 1)
    # Sums of what is never negative: rounding must not make them so.
    found: Floats = summed[ends] - summed[np.maximum(ends - count, 0)]
    return found


def rolling_mean(values: Floats, count: int) -> Floats:
    """Average the last `count` values that are there; NaN where none is."""
    known = rolling_sum(np.isfinite(values).astype(np.float64), count)
    with np.errstate(invalid="ignore"):
        found: Floats = np.where(known > 0, rolling_sum(values, count) / known, np.nan)
    return found


def _seen(params: Params, step_s: float) -> int:
    return evaluations(seen_within_s(params), step_s)


def _together(
    service: str, rates: list[tuple[Times, Floats]], params: Params, step_s: float
) -> Watched:
    times = np.unique(np.concatenate([times for times, _ in rates]))
    total = np.zeros(times.size)
    for held, rate in rates:
        total[np.searchsorted(times, held)] += np.nan_to_num(rate, nan=0.0)
    nothing = np.full(times.size, np.nan)
    return measured(
        service,
        TOGETHER,
        times,
        rate=total,
        error_ratio=nothing,
        latency_p95=nothing,
        params=params,
        step_s=step_s,
    )


def _ratio(part: pl.DataFrame) -> Floats:
    """Failures a request of every window with requests, however few."""
    count = pl.col("count")
    ratio = pl.when(count > 0).then(pl.col("error_count") / count)
    return _values(part.select(ratio.alias("ratio"))["ratio"])


def _values(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy()
