"""Ask of every operation when its growth passes the limits of specs/capacity.yaml.

In:  the features, the limits.
Out: one row per operation and signal with a limit: the outcome, never a silent number; and the
     load at which latency passes its limit, where latency depends on load.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from apm_analytics import specs
from apm_analytics.analyze.signals import OPERATION, SIGNALS, Schema
from apm_analytics.baselines.forecast import HOURS, Crossing, Growth, hourly
from apm_analytics.baselines.scales import Floats
from apm_analytics.baselines.series import Times, seconds
from apm_analytics.errors import NotEnoughData
from apm_analytics.settings import ForecastParams

NOT_ENOUGH = "not enough data"
# Of a week, this many hours around the busiest are its peak: one hour alone may be chance.
PEAK_QUANTILE = 0.98
WEEK_S = 7 * 86_400.0
# Latency against load: medians of so many bins of equal size, each of at least so many hours.
LOAD_BINS = 20
LEAST_IN_BIN = 10

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
        """Tell whether this limit is one of a series."""
        return (
            self.signal == signal
            and self.service in (None, service)
            and self.operation in (None, operation)
        )

    @property
    def particular(self) -> int:
        """How narrow it is: 0 for everybody, 2 for one operation."""
        return (self.service is not None) + (self.operation is not None)


class CapacityFile(specs.Spec):
    """All of specs/capacity.yaml."""

    limits: list[Limit] = Field(default_factory=list)


@dataclass(frozen=True)
class LoadLimit:
    """The load at which latency passes a limit, with the interval of the level asked for.

    `load` is None where latency does not rise with load; `upper` may be infinite.
    """

    load: float | None
    lower: float
    upper: float


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
    features : as `analyze.signals.features` gives them.
    limits : of `read_limits`; a series takes the most particular one that concerns it.
    params : params.yaml `forecast`.
    seed : of the replicates.

    Returns
    -------
    A frame with `TABLE`: `peak` is what the busiest hours of the last week reached; `reason`
    says why there is no forecast. Soonest first.
    """
    rows = []
    parts = features.sort("time").partition_by(OPERATION, as_dict=True) if len(features) else {}
    for (service, operation), part in sorted(parts.items()):
        times = part["time"].cast(pl.Datetime("us")).to_numpy()
        for name, signal in SIGNALS.items():
            key = (service, operation, name)
            fitting = [one for one in limits if one.concerns(*key)]
            if fitting:
                limit = max(fitting, key=lambda one: one.particular)
                values = part[signal.column].cast(pl.Float64).fill_null(np.nan).to_numpy()
                rows.append(_row(key, times, values, limit, params, seed))
    table = pl.DataFrame(rows, schema=TABLE)
    return table.sort(
        "on", "probability", *OPERATION, nulls_last=True, descending=[False, True, False, False]
    )


def load_limit(
    times: Times, load: Floats, latency: Floats, limit: float, params: ForecastParams, *, seed: int
) -> LoadLimit:
    """Estimate the load at which latency passes a limit, from how it rises with load.

    Of a queue the reciprocal of latency falls in a straight line with load; the line is Theil and
    Sen's, through medians of bins of load. The interval comes from days drawn again.

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
    return LoadLimit(float(whole) if rises else None, float(low), float(high))


def sentence(row: dict[str, Any]) -> str:
    """Say one row of `capacity` as a person would."""
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
    known = np.isfinite(values)
    at = seconds(times[known])
    peak = float(np.quantile(values[known][at > at.max() - WEEK_S], PEAK_QUANTILE))
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


def _load_at(load: Floats, speed: Floats, needed: float) -> float:
    """Give the load at which the reciprocal of latency falls to `needed`; inf where it does not."""
    kept = load.size // LOAD_BINS * LOAD_BINS
    order = np.argsort(load, kind="stable")[:kept].reshape(LOAD_BINS, -1)
    at, medians = np.median(load[order], axis=1), np.median(speed[order], axis=1)
    first, second = np.triu_indices(LOAD_BINS, 1)
    apart = at[second] - at[first]
    if not (apart > 0.0).any():
        return np.inf
    slope = float(np.median(((medians[second] - medians[first]) / apart)[apart > 0.0]))
    if slope >= 0.0:
        return np.inf
    return float((needed - np.median(medians - slope * at)) / slope)
