"""Replay alerts over weeks that did not teach them.

In:  features, a way to train, the watched signals.
Out: when the learned, the seasonal naive and the static alert of every series would have fired.

Each week is replayed with what the weeks before it taught (a fold). Seasonal naive learns its
level like the learned thresholds do, around what the week before had.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from apm_analytics.alerts.gate import levels, replay
from apm_analytics.alerts.gate.levels import Weeks
from apm_analytics.alerts.gate.replay import Interval
from apm_analytics.alerts.gate.watching import Watched, watch
from apm_analytics.alerts.prometheus.signal_specs import SignalSpec
from apm_analytics.baselines.models.scales import Floats, scale_of
from apm_analytics.baselines.models.series import Flags, Times, hour_of_week
from apm_analytics.baselines.training.fleet import BOUNDS_SCHEMA
from apm_analytics.foundation.errors import NotEnoughData
from apm_analytics.foundation.settings import Params
from apm_analytics.foundation.time import HOURS_PER_WEEK
from apm_analytics.signals.operations import OPERATION, SIGNALS, Schema

LEARNED, NAIVE, STATIC, KEPT = "learned", "seasonal naive", "static", "yesterday's"
WEEK = timedelta(days=7)
# Live and sustained values need this much before the first evaluation that counts.
WARM_UP = timedelta(hours=7)
# A history too short for that is learned from in its first half and replayed in its second; one
# under `MIN_HISTORY` says nothing about pages a week.
MIN_REPLAY = timedelta(days=1)
MIN_HISTORY = timedelta(days=1)

FIRINGS_SCHEMA: Schema = {
    **dict.fromkeys((*OPERATION, "signal", "bound", "candidate"), pl.String),
    "start": pl.Datetime("us"),  # UTC
    "end": pl.Datetime("us"),
    "ongoing": pl.Boolean,
}
Train = Callable[[pl.DataFrame], pl.DataFrame]
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Fold:
    """Thresholds learned before `since`, to be replayed in [since, until), UTC without a zone."""

    since: datetime
    until: datetime
    candidates: Mapping[str, Weeks]  # LEARNED, NAIVE, KEPT


def splits(first: datetime, last: datetime, *, weeks: int) -> list[tuple[datetime, datetime]]:
    """Lay out what is replayed: up to so many last weeks, the first week only teaches.

    Examples
    --------
    >>> [since.day for since, _ in splits(datetime(2026, 3, 1), datetime(2026, 3, 20), weeks=3)]
    [8, 15]
    """
    starts = [first + number * WEEK for number in range(1, (last - first) // WEEK + 1)]
    found = [(since, min(since + WEEK, last)) for since in starts if last - since >= MIN_REPLAY]
    if not found and last - first >= MIN_HISTORY:
        found = [(first + (last - first) / 2, last)]
    return found[-weeks:]


def folds(
    features: pl.DataFrame,
    train: Train,
    params: Params,
    *,
    kept: pl.DataFrame | None = None,
) -> Iterator[Fold]:
    """Learn the thresholds of every fold.

    Parameters
    ----------
    features : as `signals.operations.features` gives them.
    train : gives bounds, 168 rows a series, of the features before a fold.
    params : the numbers of params.yaml.
    kept : bounds of sustained values published before; they compete in the last fold.
    """
    first, last = features["time"].min(), features["time"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return
    end = last + timedelta(seconds=params.features.window_s)
    laid_out = splits(first, end, weeks=params.gate.replay_weeks)
    for since, until in laid_out:
        history = features.filter(pl.col("time") < since)
        try:
            bounds = train(history)
        except NotEnoughData:
            continue  # nothing could have paged then
        candidates = {LEARNED: levels.weeks(levels.learn(history, bounds, params))}
        earlier = history.filter(pl.col("time") < since - WEEK)
        if len(earlier) and since - WEEK - first >= WEEK:
            naive = naive_bounds(history, since, params)
            candidates[NAIVE] = levels.weeks(levels.learn(earlier, naive, params))
        if kept is not None and until == laid_out[-1][1]:
            candidates[KEPT] = levels.weeks(kept)
        yield Fold(since, until, candidates)


def naive_bounds(history: pl.DataFrame, now: datetime, params: Params) -> pl.DataFrame:
    """Expect in every hour of the week what it had a week ago.

    The bounds hold `baselines.level` of the earlier weeks' windows; their width is the same in
    every hour on the signal's scale.
    """
    parts = []
    for part in history.partition_by(OPERATION, maintain_order=True):
        service, operation = part.select(OPERATION).row(0)
        times = part["time"].cast(pl.Datetime("us")).to_numpy()
        recent = times >= np.datetime64(now - WEEK)
        for signal in SIGNALS.values():
            scale = scale_of(signal.name, params.features.window_s)
            values = part[signal.column].cast(pl.Float64).fill_null(np.nan).to_numpy()
            expected = _week_ago(times, values, recent)
            if expected is None:
                continue
            scaled = scale.forward(expected)
            strayed = np.abs(scale.forward(values) - scaled[hour_of_week(times)])
            width = np.nanquantile(strayed, params.baselines.level)
            parts.append(
                pl.DataFrame(
                    {
                        "service_name": service,
                        "operation": operation,
                        "signal": signal.name,
                        "unit": signal.unit,
                        "hour_of_week": np.arange(HOURS_PER_WEEK),
                        "expected": expected,
                        "lower": scale.backward(scaled - width),
                        "upper": scale.backward(scaled + width),
                        "model": NAIVE,
                    },
                    schema=BOUNDS_SCHEMA,
                )
            )
    return pl.concat([pl.DataFrame(schema=BOUNDS_SCHEMA), *parts])


def _week_ago(times: Times, values: Floats, recent: Flags) -> Floats | None:
    """Give the median of each hour of the last week, of the whole week where it has no value."""
    known = recent & np.isfinite(values)
    if not known.any():
        return None
    held = pl.DataFrame({"hour": hour_of_week(times[known]), "value": values[known]})
    medians = held.group_by("hour").agg(pl.col("value").median())
    expected = np.full(HOURS_PER_WEEK, np.median(values[known]))
    expected[medians["hour"].to_numpy()] = medians["value"].to_numpy()
    return expected


def replayed(
    features: pl.DataFrame, fold: Fold, signals: Mapping[str, SignalSpec], params: Params
) -> pl.DataFrame:
    """Say when every candidate of every series would have fired in a fold.

    Returns
    -------
    A frame with `FIRINGS_SCHEMA`, one row a firing interval.
    """
    seen = features.filter(
        pl.col("time") >= fold.since - WARM_UP,
        pl.col("time") + pl.duration(seconds=params.features.window_s) <= fold.until,
    )
    rows = [
        (watched.service, watched.operation, signal, bound, candidate, *row)
        for watched in watch(seen, params)
        for signal, bound, candidate, fired in _firings(watched, fold, signals, params)
        for row in ((*one.span, one.ongoing) for one in fired)
    ]
    return pl.DataFrame(rows, schema=FIRINGS_SCHEMA, orient="row")


def learned_firings(
    watched: Watched,
    spec: SignalSpec,
    bound: str,
    weeks: Weeks,
    params: Params,
    since: datetime,
) -> list[Interval]:
    """Replay one learned alert; what passed before `since` does not count."""
    week = weeks.get((watched.service, watched.operation, spec.name))
    rate = weeks.get((watched.service, watched.operation, "rate"))
    if week is None:
        return []
    threshold = week.upper if bound == "upper" else week.lower
    passed = replay.passes_learned(
        watched, spec, bound, threshold, rate.expected if rate else None, params
    )
    return replay.firing(
        watched.times,
        passed & (watched.times > np.datetime64(since)),
        for_s=params.thresholds.for_s,
        keep_firing_s=params.thresholds.keep_firing_s,
    )


def static_firings(
    watched: Watched, spec: SignalSpec, bound: str, params: Params, since: datetime
) -> list[Interval]:
    """Replay one static alert; what passed before `since` does not count."""
    passed = replay.passes_static(watched, spec, bound, params, float(params.features.window_s))
    passed = passed & (watched.times > np.datetime64(since))
    return replay.firing(watched.times, passed, for_s=params.thresholds.for_s)


def _firings(
    watched: Watched, fold: Fold, signals: Mapping[str, SignalSpec], params: Params
) -> Iterator[tuple[str, str, str, list[Interval]]]:
    for signal, spec in signals.items():
        for bound in spec.bounds:
            for candidate, weeks in fold.candidates.items():
                yield (
                    signal,
                    bound,
                    candidate,
                    learned_firings(watched, spec, bound, weeks, params, fold.since),
                )
            fired = static_firings(watched, spec, bound, params, fold.since)
            yield signal, bound, STATIC, fired
