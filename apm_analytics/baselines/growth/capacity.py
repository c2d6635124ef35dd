"""Forecast when the growth of each operation passes the limits of specs/capacity.yaml.

In:  the features, the limits.
Out: one row per operation and signal with a limit, with the outcome in words; and the load at
     which latency passes its limit, where latency depends on load.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from apm_analytics.baselines.growth.forecast import HOURS, Crossing, Growth, hourly
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import Times, seconds
from apm_analytics.foundation import specs
from apm_analytics.foundation.errors import NotEnoughData
from apm_analytics.foundation.settings import ForecastParams
from apm_analytics.signals import OPERATION, SIGNALS, Schema

NOT_ENOUGH = "not enough data"
# The peak of a week is this quantile of its windows: the busiest one alone may be chance.
PEAK_QUANTILE = 0.98
WEEK_S = 7 * 86_400.0
# Latency against load: the number of bins of equal size, and the hours that each needs.
LOAD_BINS = 20
LEAST_IN_BIN = 10
# A line through latencies of milliseconds cannot be extended to seconds: the limit may be at most
# this many times the latency of the busiest bin.
MOST_BEYOND = 3.0

TABLE: Schema = {
    **dict.fromkeys((*OPERATION, "signal"), pl.String),
    **dict.fromkeys(("limit", "peak", "per_day", "per_day_lower", "per_day_upper"), pl.Float64),
    "status": pl.String,
    **dict.fromkeys(("on", "earliest", "latest"), pl.Date),
    "probability": pl.Float64,
    "reason": pl.String,
}


class Limit(specs.Spec):
    """One limit of specs/capacity.yaml."""

    signal: Literal["latency_p95", "rate", "error_ratio"]
    limit: float | None = Field(default=None, gt=0)
    times_peak: float | None = Field(default=None, gt=1)
    service: str | None = None
    operation: str | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> "Limit":
        if (self.limit is None) == (self.times_peak is None):
            raise ValueError("give either `limit` or `times_peak`")
        if self.operation is not None and self.service is None:
            raise ValueError("an operation needs its `service`")
        return self

    def concerns(self, service: str, operation: str, signal: str) -> bool:
        """Return whether this limit applies to a series."""
        return (
            self.signal == signal
            and self.service in (None, service)
            and self.operation in (None, operation)
        )

    @property
    def particular(self) -> int:
        """How specific it is: 0 for all operations, 2 for one operation."""
        return (self.service is not None) + (self.operation is not None)


class CapacityFile(specs.Spec):
    """All of specs/capacity.yaml."""

    limits: list[Limit] = Field(default_factory=list)


LOADS: Schema = {
    **dict.fromkeys(OPERATION, pl.String),
    **dict.fromkeys(("limit", "load", "lower", "upper", "peak"), pl.Float64),
    "reason": pl.String,
}


@dataclass(frozen=True)
class LoadLimit:
    """The load at which latency passes a limit, with its interval.

    `load` is None, and `reason` says why, where the history cannot tell; `upper` may be infinite.
    """

    load: float | None
    lower: float
    upper: float
    reason: str = ""


def read_limits(file: Path) -> list[Limit]:
    """Read specs/capacity.yaml.

    Raises
    ------
    BadParameter
        The file is missing or does not fit; the message names the line.
    """
    return specs.load(file, CapacityFile).limits


def capacity(
    features: pl.DataFrame,
    limits: Sequence[Limit],
    params: ForecastParams,
    *,
    seed: int,
) -> pl.DataFrame:
    """Forecast every series that has a limit.

    Parameters
    ----------
    features : as `signals.operations.features` returns them.
    limits : of `read_limits`; the most specific one applies.
    params : params.yaml `forecast`.
    seed : of the replicates.

    Returns
    -------
    A frame with `TABLE`: `peak` is what the busiest hours of the last week reached; `reason`
    says why there is no forecast. Soonest first.
    """
    rows = []
    for service, operation, part in _busiest(features, params.most_operations):
        times = part["time"].cast(pl.Datetime("us")).to_numpy()
        for name in SIGNALS:
            limit = _limit_of(limits, service, operation, name)
            if limit is not None:
                key = (service, operation, name)
                rows.append(_row(key, times, _column(part, name), limit, params, seed))
    table = pl.DataFrame(rows, schema=TABLE)
    return table.sort(
        "on", "probability", *OPERATION, nulls_last=True, descending=[False, True, False, False]
    )


def loads(
    features: pl.DataFrame, limits: Sequence[Limit], params: ForecastParams, *, seed: int
) -> pl.DataFrame:
    """Estimate the load at which the latency of each operation passes its limit.

    Returns
    -------
    A frame with `LOADS`: `peak` is the rate that the busiest hours of the last week reached;
    where `load` is null, `reason` says why. Sorted by headroom, ascending.
    """
    rows = []
    for service, operation, part in _busiest(features, params.most_operations):
        limit = _limit_of(limits, service, operation, "latency_p95")
        if limit is None or limit.limit is None:
            continue
        times = part["time"].cast(pl.Datetime("us")).to_numpy()
        rate, latency = _column(part, "rate"), _column(part, "latency_p95")
        row: dict[str, Any] = {**dict.fromkeys(LOADS), "limit": limit.limit}
        row |= {"service_name": service, "operation": operation, "peak": _peak(times, rate)}
        try:
            estimate = load_limit(times, rate, latency, limit.limit, params, seed=seed)
        except NotEnoughData as error:
            rows.append({**row, "reason": str(error)})
            continue
        if estimate.load is None:
            rows.append({**row, "reason": estimate.reason})
        else:
            rows.append(
                {**row, "load": estimate.load, "lower": estimate.lower, "upper": estimate.upper}
            )
    table = pl.DataFrame(rows, schema=LOADS)
    return table.sort(pl.col("load") / pl.col("peak"), *OPERATION, nulls_last=True)


def load_limit(
    times: Times, load: Floats, latency: Floats, limit: float, params: ForecastParams, *, seed: int
) -> LoadLimit:
    """Estimate the load at which latency passes a limit, from how it rises with load.

    In a queue the reciprocal of latency falls linearly with load; a Theil-Sen line is fitted to the
    medians of bins of load. The interval comes from resampled days.

    Parameters
    ----------
    times, load, latency : arrays of shape (n_windows,): UTC, 1/s, s.
    limit : s.

    Raises
    ------
    NotEnoughData
        Too few windows have both, or fewer than `params.min_days` days.
    """
    both = np.isfinite(load) & np.isfinite(latency) & (latency > 0.0)
    hours, load = hourly(times, np.where(both, load, np.nan))
    _, latency = hourly(times, np.where(both, latency, np.nan))
    days, number = np.unique(hours // HOURS, return_inverse=True)
    if days.size < params.min_days or hours.size < LOAD_BINS * LEAST_IN_BIN:
        raise NotEnoughData(
            f"{hours.size} hours of {days.size} days have load and latency, need "
            f"{LOAD_BINS * LEAST_IN_BIN} of {params.min_days}; import more telemetry"
        )
    speed = 1.0 / latency
    busiest = np.median(latency[np.argsort(load)[-load.size // LOAD_BINS :]])
    if limit > MOST_BEYOND * busiest:
        far = f"p95 is {busiest:.3g} s at the highest loads: too far below the limit to tell"
        return LoadLimit(None, np.nan, np.nan, far)
    whole = _load_at(load, speed, 1.0 / limit)
    rng = np.random.default_rng(seed)
    places = [np.flatnonzero(number == one) for one in range(days.size)]
    drawn = []
    for _ in range(params.replicates):
        chosen = np.concatenate([places[one] for one in rng.integers(0, days.size, days.size)])
        drawn.append(_load_at(load[chosen], speed[chosen], 1.0 / limit))
    tail = (1.0 - params.level) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail], method="nearest")
    rises = np.isfinite(whole) and np.isfinite(drawn).mean() >= params.level
    if not rises:
        return LoadLimit(None, np.nan, np.nan, "latency does not rise with load")
    return LoadLimit(float(whole), float(low), float(high))


def sentence(row: dict[str, Any]) -> str:
    """Describe one row of `capacity` in words."""
    match row["status"]:
        case "within the horizon":
            until = f"{row['latest']:%d %b %Y}" if row["latest"] else "beyond the horizon"
            return f"on {row['on']:%d %b %Y} (between {row['earliest']:%d %b %Y} and {until})"
        case "not within the horizon":
            return f"not within the horizon (probability {row['probability']:.0%})"
        case "already past it":
            return "already past it"
        case _:
            return f"{row['status']}: {row['reason']}"


def _row(
    key: tuple[str, str, str],
    times: Times,
    values: Floats,
    limit: Limit,
    params: ForecastParams,
    seed: int,
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(TABLE)
    row["service_name"], row["operation"], row["signal"] = key
    try:
        growth = Growth.fit(times, values, params, seed=seed)
    except NotEnoughData as error:
        return {**row, "status": NOT_ENOUGH, "reason": str(error)}
    peak = _peak(times, values)
    value = limit.limit if limit.limit is not None else (limit.times_peak or 1.0) * peak
    if not value > 0.0:
        reason = f"{SIGNALS[limit.signal].title} is 0 in the last week; give a `limit`"
        return {**row, "status": NOT_ENOUGH, "reason": reason}
    crossing: Crossing = growth.crossing(value)
    per_day, lower, upper = growth.per_day
    return row | {
        "limit": value,
        "peak": peak,
        "per_day": per_day,
        "per_day_lower": lower,
        "per_day_upper": upper,
        "status": crossing.status,
        "on": crossing.on,
        "earliest": crossing.earliest,
        "latest": crossing.latest,
        "probability": crossing.probability,
    }


def _busiest(features: pl.DataFrame, most: int) -> list[tuple[str, str, pl.DataFrame]]:
    """Return the operations with the most requests, each with its features, in order of name."""
    if features.is_empty():
        return []
    counts = features.group_by(OPERATION).agg(pl.col("count").sum())
    kept = counts.sort("count", *OPERATION, descending=[True, False, False]).head(most)
    rows = features.join(kept.select(OPERATION), on=OPERATION, how="semi").sort("time")
    parts = rows.partition_by(OPERATION, as_dict=True)
    return [(str(key[0]), str(key[1]), part) for key, part in sorted(parts.items())]


def _limit_of(limits: Sequence[Limit], service: str, operation: str, signal: str) -> Limit | None:
    fitting = [one for one in limits if one.concerns(service, operation, signal)]
    return max(fitting, key=lambda one: one.particular) if fitting else None


def _column(part: pl.DataFrame, signal: str) -> Floats:
    column = part[SIGNALS[signal].column].cast(pl.Float64)
    return np.asarray(column.fill_null(np.nan).to_numpy(), dtype=np.float64)


def _peak(times: Times, values: Floats) -> float:
    """Return what the busiest hours of the last week reached; NaN without values."""
    known = np.isfinite(values)
    if not known.any():
        return float("nan")
    at = seconds(times[known])
    return float(np.quantile(values[known][at > at.max() - WEEK_S], PEAK_QUANTILE))


def _load_at(load: Floats, speed: Floats, needed: float) -> float:
    """Return the load at which the reciprocal of latency falls to `needed`, else infinity."""
    kept = load.size // LOAD_BINS * LOAD_BINS
    order = np.argsort(load, kind="stable")[:kept].reshape(LOAD_BINS, -1)
    at, medians = np.median(load[order], axis=1), np.median(speed[order], axis=1)
    first, second = np.triu_indices(LOAD_BINS, 1)
    apart = at[second] - at[first]
    rising = apart > 0.0
    if not rising.any():
        return np.inf
    slope = float(np.median((medians[second] - medians[first])[rising] / apart[rising]))
    if slope >= 0.0:
        return np.inf
    return float((needed - np.median(medians - slope * at)) / slope)
