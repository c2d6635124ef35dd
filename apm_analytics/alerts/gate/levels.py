"""Learn the thresholds of sustained values.

In:  the features of the history, and the bounds of single windows that a training run returned.
Out: bounds of the same shape for sustained values, per operation and per service.

The bounds of single windows say how a signal moves over the week and how much it varies. The
history of sustained values shows how many of those widths a quiet series strays. The tail beyond
the observed values is extrapolated, so that a quiet series passes its threshold about
`thresholds.quiet_passes_per_month` times: rates as normal on a square root scale, latencies as
exponential on a logarithmic scale, failures as overdispersed counts. Incidents in the history
hardly count: values far beyond the rest are left out first.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from scipy.special import ndtri

from apm_analytics.alerts.gate.watching import ALL_OPERATIONS, Watched, evaluations, watch
from apm_analytics.alerts.prometheus.signal_specs import BOUNDS
from apm_analytics.baselines.models import MAD_TO_SD, MIN_LATENCY_S
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.training import BOUNDS_SCHEMA, checks
from apm_analytics.foundation.settings import Params
from apm_analytics.foundation.time import HOURS_PER_WEEK
from apm_analytics.signals import SERIES

MONTH_S = 30 * 86_400.0
WEEK_US = 7 * 86_400_000_000
# The tail is fitted to these quantiles of the deviations: many values, few from incidents.
NORMAL_TAIL = (0.5, 0.99)
EXPONENTIAL_TAIL = (0.9, 0.99)
# The first pass over the deviations tolerates incidents in a tenth of the time.
FIRST_TAIL = (0.5, 0.85)
QUIET_PASSES = 3
MIN_QUIET = 100  # sustained values; fewer have no tail to fit
# Deviations up to 1 width, inside the bounds of single windows, are never left out.
LEAST_LIMIT = 1.0
# Smallest distance of a threshold from the expected value; less is not worth a page.
LEAST_RATIO = 0.1  # of p95 latency and rate
LEAST_LATENCY_S = 0.005
LEAST_ERRORS = 0.01  # error ratio
# A block of failures less likely than this, or further out, belongs to an incident.
FAR_SHARE = 1e-4
FAR_DEVIATIONS = 6.0


# On these scales the width of sustained values is the same at every level; single windows have
# the scales of `baselines.models.scales`.
_SUSTAINED_SCALES: dict[str, tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]] = {
    "latency_p95": (lambda value: np.log(np.maximum(value, MIN_LATENCY_S)), np.exp),
    "rate": (
        lambda value: np.sqrt(np.maximum(value, 0.0)),
        lambda scaled: np.square(np.maximum(scaled, 0.0)),
    ),
}


@dataclass(frozen=True)
class Week:
    """The bounds of one series by hour of the week, float64 of shape (168,) each."""

    unit: str
    model: str
    expected: Floats
    lower: Floats
    upper: Floats

    def frame(self, service: str, operation: str, signal: str) -> pl.DataFrame:
        """Return the week as 168 rows with `BOUNDS_SCHEMA`."""
        return pl.DataFrame(
            {
                "service_name": service,
                "operation": operation,
                "signal": signal,
                "unit": self.unit,
                "hour_of_week": np.arange(HOURS_PER_WEEK),
                "expected": self.expected,
                "lower": self.lower,
                "upper": self.upper,
                "model": self.model,
            },
            schema=BOUNDS_SCHEMA,
        )


Weeks = Mapping[tuple[str, str, str], Week]


def weeks(bounds: pl.DataFrame) -> dict[tuple[str, str, str], Week]:
    """Return bounds, 168 rows per series, as arrays by (service, operation, signal)."""
    by_series = {}
    for part in bounds.sort("hour_of_week").partition_by(SERIES, maintain_order=True):
        key = part.select(SERIES).row(0)
        by_series[key] = Week(
            part["unit"][0],
            part["model"][0],
            *(part[name].cast(pl.Float64).to_numpy() for name in ("expected", "lower", "upper")),
        )
    return by_series


def learn(features: pl.DataFrame, bounds: pl.DataFrame, params: Params) -> pl.DataFrame:
    """Return the thresholds of sustained values.

    Parameters
    ----------
    features : the history that the bounds were trained on.
    bounds : as `baselines.training.training` returns them, 168 rows per series.
    params : the numbers of params.yaml.

    Returns
    -------
    A frame with `BOUNDS_SCHEMA`, 168 rows per series: lower and upper are the thresholds of
    sustained values. A service of several operations has one more series, its rate with the
    operation `*`. A series without enough quiet sustained values is left out.
    """
    known = weeks(bounds)
    parts = [
        week.frame(watched.service, watched.operation, signal)
        for watched in map(_by_present_clock, watch(features, params))
        for signal, week in _levels(watched, known, params)
    ]
    return pl.concat([pl.DataFrame(schema=BOUNDS_SCHEMA), *parts])


def _by_present_clock(watched: Watched) -> Watched:
    """Move what lies before a change of clocks to the hours of today's clock."""
    change = checks.clock_change(watched.times, np.sqrt(watched.present))
    return replace(watched, times=change.times(watched.times)) if change else watched


def _summed_rate(service: str, known: Weeks) -> Week | None:
    """Add up the rates of a service's operations."""
    parts = [week for (of, _, signal), week in known.items() if (of, signal) == (service, "rate")]
    if not parts:
        return None
    summed = [sum(getattr(week, name) for week in parts) for name in ("expected", "lower", "upper")]
    return Week(parts[0].unit, parts[0].model, *map(np.asarray, summed))


def _levels(watched: Watched, known: Weeks, params: Params) -> Iterator[tuple[str, Week]]:
    for signal in BOUNDS:
        if watched.operation == ALL_OPERATIONS:
            week = _summed_rate(watched.service, known) if signal == "rate" else None
        else:
            week = known.get((watched.service, watched.operation, signal))
        if week is None:
            continue
        rate = known.get((watched.service, watched.operation, "rate"))
        if signal == "error_ratio":
            level = None if rate is None else _failures(watched, week, rate, params)
        else:
            level = _level(watched, signal, week, params)
        if level is not None:
            yield signal, level


def _level(watched: Watched, signal: str, week: Week, params: Params) -> Week | None:
    forward, backward = _SUSTAINED_SCALES[signal]
    middle = forward(week.expected)
    # The upper width serves both sides: the lower bound of a sparse rate is cut off at 0.
    width = np.maximum(forward(week.upper) - middle, np.finfo(np.float64).tiny)
    value, around = forward(watched.sustained[signal]), watched.by_hour(width)
    above = (value - watched.by_hour(middle)) / around
    below = (watched.by_hour(middle, np.minimum) - value) / around
    judged = np.isfinite(above)
    if signal == "latency_p95":
        requests = watched.sustained["rate"] * params.thresholds.sustained_s
        judged &= np.nan_to_num(requests) >= params.thresholds.min_requests
    if judged.sum() < MIN_QUIET:
        return None
    tail = _normal if signal == "rate" else _exponential
    share = params.thresholds.quiet_passes_per_month * params.features.window_s / MONTH_S
    most_above, most_below = (
        offset + _reach(centred, share, tail)
        for offset, centred in (
            _centred(one[judged], watched.times[judged]) for one in (above, below)
        )
    )
    least = np.full(HOURS_PER_WEEK, LEAST_LATENCY_S if signal == "latency_p95" else 0.0)
    step = np.maximum(LEAST_RATIO * week.expected, least)
    upper = np.maximum(backward(middle + most_above * width), week.expected + step)
    lower = np.minimum(backward(middle - most_below * width), week.expected - step)
    return replace(week, lower=np.maximum(lower, 0.0), upper=upper)


def _failures(watched: Watched, week: Week, rate: Week, params: Params) -> Week | None:
    """Return the upper threshold of the error ratio, beyond chance and the usual failures.

    Failures per `thresholds.sustained_s` are negative binomial, an overdispersed Poisson.
    """
    from scipy.stats import poisson  # imported here: the import costs a second of CPU

    seconds = params.thresholds.sustained_s
    blocks = slice(None, None, evaluations(seconds, params.features.window_s))
    requests = np.nan_to_num(watched.sustained["rate"] * seconds)[blocks]
    failures = np.nan_to_num(watched.sustained["error_ratio"])[blocks] * requests
    usual = watched.by_hour(week.expected)[blocks]
    if (requests > 0).sum() * seconds < MIN_QUIET * params.features.window_s:
        return None
    # Capping each block limits how far an incident moves this first ratio.
    ratio = np.minimum(failures, 1.0 + 2.0 * np.median(failures)).sum() / requests.sum()
    mean = np.maximum(usual, ratio) * requests
    stray = MAD_TO_SD * float(np.median(np.abs(failures - mean - np.median(failures - mean))))
    quiet = failures <= np.maximum(poisson.isf(FAR_SHARE, mean), mean + FAR_DEVIATIONS * stray)
    ratio = failures[quiet].sum() / requests[quiet].sum()
    mean = np.maximum(usual, ratio)[quiet] * requests[quiet]
    beyond_chance = ((failures[quiet] - mean) ** 2 - mean).sum() / max((mean**2).sum(), 1e-12)
    share = params.thresholds.quiet_passes_per_month * params.features.window_s / MONTH_S
    expected_requests = np.maximum(rate.expected * seconds, 1.0)
    expected_mean = np.maximum(week.expected, ratio) * expected_requests
    most = _most_failures(expected_mean, max(beyond_chance, 0.0), share)
    upper = np.maximum((most + 0.5) / expected_requests, week.expected + LEAST_ERRORS)
    return replace(week, upper=np.minimum(upper, 1.0))


def _most_failures(mean: Floats, beyond_chance: float, share: float) -> Floats:
    """Return the number of failures that a `share` of the sustained values exceeds by chance."""
    from scipy.stats import nbinom, poisson

    mean = np.maximum(mean, 1e-9)
    if beyond_chance < 1e-6:
        failures: Floats = poisson.isf(share, mean)
        return failures
    size = 1.0 / beyond_chance
    failures = nbinom.isf(share, size, size / (size + mean))
    return failures


def _centred(deviations: Floats, times: np.ndarray) -> tuple[float, Floats]:
    """Return the last week's median deviation, and deviations minus the median of their week."""
    age = (times[-1].astype(np.int64) - times.astype(np.int64)) // WEEK_US
    centred = deviations.copy()
    for weeks_ago in np.unique(age):
        centred[age == weeks_ago] -= np.median(deviations[age == weeks_ago])
    return float(np.median(deviations[age == 0])), centred


def _reach(centred: Floats, share: float, tail: Callable[[Floats, float], float]) -> float:
    """Return the deviation that a quiet series exceeds in a `share` of the evaluations."""
    quiet = centred
    limit = 2.0 * _exponential(quiet, share, FIRST_TAIL)
    for _ in range(QUIET_PASSES):
        quiet = quiet[quiet <= max(limit, LEAST_LIMIT)]
        limit = tail(quiet, share)
    return max(limit, 0.0)


def _normal(values: Floats, share: float) -> float:
    low, high = np.quantile(values, NORMAL_TAIL)
    return float(low + (high - low) * ndtri(1 - share) / ndtri(NORMAL_TAIL[1]))


def _exponential(
    values: Floats, share: float, tail: tuple[float, float] = EXPONENTIAL_TAIL
) -> float:
    low, high = np.quantile(values, tail)
    scale = (high - low) / np.log((1 - tail[0]) / (1 - tail[1]))
    return float(high + scale * np.log((1 - tail[1]) / share))
