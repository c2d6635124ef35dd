"""Estimate rate, errors and duration of all traffic from sampled traffic.

In:  the sampled requests of one operation, each with its weight: the requests it stands for.
Out: estimates with confidence intervals; without sampling an interval is one point.

The estimators are Horvitz and Thompson's total and the ratio of two totals; the interval of a
quantile is Woodruff's [1]_. The sampling unit is a trace: its spans are kept or lost together.

Numbers of users or sessions need another estimator, because a user with many requests is more
likely to be sampled. The numbers of those seen once and twice estimate those never seen [2]_.

.. [1] Woodruff, Confidence Intervals for Medians and Other Position Measures, 1952.
.. [2] Chao and Lin, Nonparametric Lower Bounds for Species Richness and Shared Species Richness
   under Sampling without Replacement, Biometrics 68, 2012.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from scipy.special import ndtri

from apm_analytics.foundation.errors import BadParameter, NotEnoughData
from apm_analytics.lake import Connection, Relation, query

QUANTILE = 0.95
# With fewer sampled traces the normal approximation of the intervals is unreliable.
MIN_TRACES = 30

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Estimate:
    """An estimate for all traffic, with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Traffic:
    """Rate (1/s), error ratio (1) and p95 duration (s) of an operation, from `traces` traces."""

    rate: Estimate
    error_ratio: Estimate
    latency_p95: Estimate
    traces: int


def traffic(
    con: Connection,
    *,
    service_name: str,
    operation: str,
    since: datetime,
    until: datetime,
    confidence: float = 0.95,
) -> Traffic:
    """Estimate rate, error ratio and p95 duration of all traffic of an operation.

    Parameters
    ----------
    since, until : the period, UTC; the rate is the requests divided by its length.
    confidence : share of intervals that contain the true value.

    Raises
    ------
    NotEnoughData
        The traffic is sampled and has too few traces for an interval.
    BadParameter
        `until` is not after `since`, or the confidence is not between 0 and 1.

    Examples
    --------
    >>> traffic(con, service_name="cart", operation="GET /cart",
    ...         since=datetime(2026, 3, 2), until=datetime(2026, 3, 3)).rate  # doctest: +SKIP
    Estimate(value=12.1, low=11.8, high=12.4)
    """
    if not until > since or not 0 < confidence < 1:
        raise BadParameter(
            f"got since={since}, until={until} and confidence={confidence}; "
            "need until after since and a confidence between 0 and 1, such as 0.95"
        )
    kept = query.named(
        con,
        "sampled_requests",
        service_name=service_name,
        operation=operation,
        since=since,
        until=until,
    )
    weight = kept["sample_weight"].to_numpy()
    _, trace = np.unique(kept["trace"].to_numpy(), return_inverse=True)
    traces = int(trace.max()) + 1 if trace.size else 0
    if traces == 0 or (weight.max() > 1 and traces < MIN_TRACES):
        raise NotEnoughData(
            f"got {traces} traces of {operation} of {service_name}, need {MIN_TRACES}; "
            "choose a longer period or sample a larger share"
        )
    z = float(ndtri(0.5 + confidence / 2))
    seconds = (until - since).total_seconds()
    requests = float(weight.sum())
    spread = z * _standard_error(np.ones_like(weight), weight, trace)
    failed = kept["failed"].fill_null(False).to_numpy().astype(np.float64)
    ratio = float(weight @ failed) / requests
    ratio_spread = z * _standard_error(failed - ratio, weight, trace) / requests
    return Traffic(
        rate=Estimate(
            requests / seconds,
            max(requests - spread, 0) / seconds,
            (requests + spread) / seconds,
        ),
        error_ratio=Estimate(ratio, max(ratio - ratio_spread, 0), min(ratio + ratio_spread, 1)),
        latency_p95=_quantile(kept["duration_s"].to_numpy(), weight, trace, z),
        traces=traces,
    )


def quantiles(rows: str, *, by: Sequence[str], levels: Sequence[float]) -> str:
    """Return SQL that computes weighted quantiles of all traffic.

    Parameters
    ----------
    rows : SQL with the columns of `by` (never null), `value` and `weight`.
    levels : in (0, 1).

    Returns
    -------
    A select of `by` and `quantiles`, a list in the order of `levels`. When all weights are equal,
    as without sampling, they are DuckDB's interpolated quantiles; otherwise the smallest value at
    which the cumulative weight reaches the level.
    """
    keys = ", ".join(by)
    listed = ", ".join(map(repr, levels))
    reached = ", ".join(f"min(value) filter (share >= {level!r})" for level in levels)
    return f"""
        with kept as materialized ({rows}),
        even as (
          select {keys}, quantile_cont(value, [{listed}]) as own, min(weight) < max(weight) as mixed
          from kept
          group by {keys}
        ),
        ranked as (
          select {keys}, value, sum(weight) over (
            partition by {keys} order by value rows unbounded preceding
          ) / sum(weight) over (partition by {keys}) as share
          from kept
          join (select {keys} from even where mixed) as mixed using ({keys})
        ),
        weighted as (select {keys}, [{reached}] as reached from ranked group by {keys})
        select {keys}, coalesce(reached, own) as quantiles
        from even
        left join weighted using ({keys})
    """


def distinct(rows: Relation, thing: str, *, by: Sequence[str], of: str = "true") -> Relation:
    """Estimate the number of distinct users or sessions, per group and over all groups.

    Parameters
    ----------
    rows : spans with `trace_id`, `sample_weight` and the columns named below.
    thing : the column with the id of a user or session.
    by : the first column, such as a window, is kept in every row; the others form finer groups.
    of : SQL condition of the rows that count for `part`.

    Returns
    -------
    The columns of `by`, null except the first in rows over all groups; `whole`, the number of ids;
    and `part`, the number of ids with a row that fulfils `of`. Without sampling both are exact.
    With sampling they are lower bounds, which are close when ids have similar numbers of traces.
    """
    first, keys = by[0], ", ".join(by)
    traces = rows.aggregate(
        f"{keys}, {thing} as thing, trace_id, max(sample_weight) as weight,"
        f" coalesce(bool_or({of}), false) as fits",
        f"grouping sets (({keys}, {thing}, trace_id), ({first}, {thing}, trace_id))",
    )
    things = traces.aggregate(
        f"{keys}, thing, count(*) as kept, sum(weight) as stood_for, max(weight) > 1 as sampled,"
        " count(*) filter (fits) as kept_part, sum(weight) filter (fits) as stood_for_part",
        f"{keys}, thing",
    )
    return things.aggregate(
        f"{keys}, {_seen_and_unseen('kept', 'stood_for')} as whole,"
        f" {_seen_and_unseen('kept_part', 'stood_for_part')} as part",
        keys,
    )


def _seen_and_unseen(kept: str, stood_for: str) -> str:
    """Return the SQL of seen + once^2 / (2 twice + share / (1 - share) once)."""
    chosen = f"thing is not null and sampled and {kept}"
    once = f"count(*) filter ({chosen} = 1)"
    twice = f"count(*) filter ({chosen} = 2)"
    # share / (1 - share) = kept / (all - kept)
    unkept = f"nullif(sum({stood_for} - {kept}) filter ({chosen} > 0), 0)"
    odds = f"(sum({kept}) filter ({chosen} > 0) / {unkept})"
    seen = f"count(*) filter (thing is not null and {kept} > 0)"
    return f"{seen} + coalesce({once} ** 2 / nullif(2 * {twice} + {odds} * {once}, 0), 0)"


def _standard_error(
    values: Floats, weight: Floats, trace: "np.ndarray[tuple[int], np.dtype[np.int64]]"
) -> float:
    """Return the standard error of the estimated sum of values over all traffic."""
    total = np.bincount(trace, weights=weight * values)
    most = np.ones(total.size)
    np.maximum.at(most, trace, weight)
    return float(np.sqrt(np.sum(total**2 * (1 - 1 / most))))


def _quantile(
    durations_s: Floats,
    weight: Floats,
    trace: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    z: float,
) -> Estimate:
    """Estimate the duration at QUANTILE, with Woodruff's interval."""
    share = np.cumsum(weight) / weight.sum()
    value = durations_s[_first(share, QUANTILE)]
    faster = (durations_s <= value).astype(np.float64) - QUANTILE
    spread = z * _standard_error(faster, weight, trace) / float(weight.sum())
    low, high = (durations_s[_first(share, QUANTILE + sign * spread)] for sign in (-1, 1))
    return Estimate(float(value), float(low), float(high))


def _first(share: Floats, level: float) -> int:
    return min(int(np.searchsorted(share, level - 1e-12)), share.size - 1)
