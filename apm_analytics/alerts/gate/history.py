"""Replay alerts over past weeks, each with thresholds learned from the weeks before it.

In:  features, a function that trains bounds, the watched signals.
Out: when the learned, the seasonal naive and the static alert of every series would have fired.

A fold is one replayed week with the thresholds learned before it. The seasonal naive peer learns
its thresholds as the learned ones do, around the values of the week before.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from apm_analytics.alerts.gate import levels, replay, replayable
from apm_analytics.alerts.gate.levels import Weeks
from apm_analytics.alerts.gate.watching import watch
from apm_analytics.alerts.prometheus.signal_specs import SignalSpec
from apm_analytics.baselines.models import Flags, Times, hour_of_week, scale_of
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.training import BOUNDS_SCHEMA
from apm_analytics.foundation.errors import NotEnoughData
from apm_analytics.foundation.settings import Params
from apm_analytics.foundation.time import HOURS_PER_WEEK
from apm_analytics.signals import OPERATION, SIGNALS, Schema

LEARNED, NAIVE, STATIC, KEPT = "learned", "seasonal naive", "static", "yesterday's"
NONE = "no alert"
WEEK = timedelta(days=7)
# Live and sustained values need this much history before the first evaluation that counts.
WARM_UP = timedelta(hours=7)
# Of a history too short for whole weeks the first half trains and the second is replayed; one
# under `MIN_HISTORY` says nothing about pages per week.
MIN_REPLAY = timedelta(days=1)
MIN_HISTORY = timedelta(days=1)

FIRINGS_SCHEMA: Schema = {
    **dict.fromkeys((*OPERATION, "signal", "bound", "candidate"), pl.String),
    "start": pl.Datetime("us"),  # UTC
    "end": pl.Datetime("us"),
    "ongoing": pl.Boolean,
}
Train = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class Fold:
    """Thresholds learned before `since`, to be replayed in [since, until), UTC without a zone."""

    since: datetime
    until: datetime
    candidates: Mapping[str, Weeks]  # by LEARNED, NAIVE and KEPT

    def window(self, features: pl.DataFrame, params: Params) -> pl.DataFrame:
        """Return the features that a replay of this fold reads, with its warm-up."""
        return features.filter(
            pl.col("time") >= self.since - WARM_UP,
            pl.col("time") + pl.duration(seconds=params.features.window_s) <= self.until,
        )


def splits(first: datetime, last: datetime, *, weeks: int) -> list[tuple[datetime, datetime]]:
    """Return the [since, until) to replay: the last `weeks` weeks, but never the first week.

    Examples
    --------
    >>> [since.day for since, _ in splits(datetime(2026, 3, 1), datetime(2026, 3, 20), weeks=3)]
    [8, 15]
    """
    starts = [first + number * WEEK for number in range(1, (last - first) // WEEK + 1)]
    spans = [(since, min(since + WEEK, last)) for since in starts if last - since >= MIN_REPLAY]
    if not spans and last - first >= MIN_HISTORY:
        spans = [(first + (last - first) / 2, last)]
    return spans[-weeks:]


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
    features : as `signals.operations.features` returns them.
    train : returns bounds, 168 rows per series, of the features before a fold.
    params : the numbers of params.yaml.
    kept : published thresholds as `thresholds.current` returns them; they compete in the last
        fold.
    """
    first, last = features["time"].min(), features["time"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return
    end = last + timedelta(seconds=params.features.window_s)
    spans = splits(first, end, weeks=params.gate.replay_weeks)
    for since, until in spans:
        history = features.filter(pl.col("time") < since)
        try:
            bounds = train(history)
        except NotEnoughData:
            continue  # nothing could have paged then
        candidates = {
            LEARNED: levels.weeks(levels.learn(history, bounds, params)),
            NAIVE: levels.weeks(naive_levels(history, since, params)),
        }
        if kept is not None and until == spans[-1][1]:
            candidates[KEPT] = levels.weeks(kept)
        yield Fold(since, until, candidates)


def naive_levels(history: pl.DataFrame, now: datetime, params: Params) -> pl.DataFrame:
    """Return the seasonal naive thresholds of sustained values from `now` on.

    Returns
    -------
    A frame with `BOUNDS_SCHEMA`; empty where the history before `now` has less than two weeks.
    """
    first = history["time"].min()
    if not isinstance(first, datetime) or now - first < 2 * WEEK:
        return pl.DataFrame(schema=BOUNDS_SCHEMA)
    earlier = history.filter(pl.col("time") < now - WEEK)
    return levels.learn(earlier, naive_bounds(history, now, params), params)


def naive_bounds(history: pl.DataFrame, now: datetime, params: Params) -> pl.DataFrame:
    """Return bounds that expect in every hour of the week its median of the last week.

    The bounds hold a share `baselines.level` of the windows of the history; on the signal's
    scale their width is the same in every hour.

    Returns
    -------
    A frame with `BOUNDS_SCHEMA`, 168 rows per series.
    """
    parts = []
    for part in history.partition_by(OPERATION, maintain_order=True):
        service, operation = part.select(OPERATION).row(0)
        times = part["time"].cast(pl.Datetime("us")).to_numpy()
        recent = times >= np.datetime64(now - WEEK)
        for signal in SIGNALS.values():
            scale = scale_of(signal.name, params.features.window_s)
            values = part[signal.column].cast(pl.Float64).fill_null(np.nan).to_numpy()
            expected = _hourly_medians(times, values, recent)
            if expected is None:
                continue
            scaled = scale.forward(expected)
            deviations = np.abs(scale.forward(values) - scaled[hour_of_week(times)])
            width = np.nanquantile(deviations, params.baselines.level)
            week = levels.Week(
                signal.unit,
                NAIVE,
                expected,
                scale.backward(scaled - width),
                scale.backward(scaled + width),
            )
            parts.append(week.frame(service, operation, signal.name))
    return pl.concat([pl.DataFrame(schema=BOUNDS_SCHEMA), *parts])


def _hourly_medians(times: Times, values: Floats, recent: Flags) -> Floats | None:
    """Return the median of each hour of the week; an hour without values gets the overall median.

    None when there is no recent value.
    """
    known = recent & np.isfinite(values)
    if not known.any():
        return None
    hourly = pl.DataFrame({"hour": hour_of_week(times[known]), "value": values[known]})
    medians = hourly.group_by("hour").agg(pl.col("value").median())
    expected = np.full(HOURS_PER_WEEK, np.median(values[known]))
    expected[medians["hour"].to_numpy()] = medians["value"].to_numpy()
    return expected


def replayed(
    features: pl.DataFrame, fold: Fold, signals: Mapping[str, SignalSpec], params: Params
) -> pl.DataFrame:
    """Return when every candidate of every series would have fired in a fold.

    Returns
    -------
    A frame with `FIRINGS_SCHEMA`, one row per firing interval.
    """
    alerts = list(replayable.generated(signals, params))
    rows = [
        (
            watched.service,
            watched.operation,
            alert.signal,
            alert.bound,
            candidate,
            *interval.span,
            interval.ongoing,
        )
        for watched in watch(fold.window(features, params), params)
        for alert in alerts
        for candidate, weeks in (
            fold.candidates if alert.threshold is None else {STATIC: {}}
        ).items()
        for interval in replay.firings(alert, watched, weeks, params, since=fold.since)
    ]
    return pl.DataFrame(rows, schema=FIRINGS_SCHEMA, orient="row")
