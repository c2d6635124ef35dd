"""Answer "how often would this have fired?" for an alert.

In:  an `Alert`; features; thresholds learned week by week, where it needs them.
Out: firing intervals, with the incidents they met.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from apm_analytics.alerts.gate import history, replay, replayable, stage
from apm_analytics.alerts.gate.history import Fold, Train
from apm_analytics.alerts.gate.replay import Interval
from apm_analytics.alerts.gate.replayable import Alert
from apm_analytics.alerts.gate.watching import TOGETHER, Watched, watch
from apm_analytics.alerts.prometheus import signal_specs
from apm_analytics.alerts.prometheus.signal_specs import SignalSpec
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import Flags
from apm_analytics.foundation.errors import BadParameter, NotEnoughData
from apm_analytics.foundation.settings import Params, Settings
from apm_analytics.foundation.time import HOURS_PER_WEEK
from apm_analytics.lake import query
from apm_analytics.signals import operations as signals_of
from apm_analytics.signals.calendar import Calendar, utc
from apm_analytics.signals.operations import OPERATION, Schema

FIRED_SCHEMA: Schema = {
    **dict.fromkeys(OPERATION, pl.String),
    "start": pl.Datetime("us"),  # UTC
    "end": pl.Datetime("us"),
    "minutes": pl.Float64,
    "ongoing": pl.Boolean,
    "incidents": pl.List(pl.String),
}


@dataclass(frozen=True)
class Backtest:
    """When an alert would have fired in [since, until); `fired` has `FIRED_SCHEMA`."""

    alert: Alert
    fired: pl.DataFrame
    since: datetime
    until: datetime

    def lines(self) -> list[str]:
        """Say it in words."""
        days = (self.until - self.since).total_seconds() / 86_400
        if days <= 0:
            return [f"{self.alert.name}: nothing to replay, the data ends before"]
        count = len(self.fired)
        met = set(self.fired["incidents"].explode().drop_nulls().to_list())
        without = self.fired.filter(pl.col("incidents").list.len() == 0).height
        return [
            f"{self.alert.name}: would have fired {count} times in {days:.1f} days, "
            f"{count / days * 7:.2g} times a week; {without} of them outside any incident",
            f"incidents met: {', '.join(sorted(met)) or 'none'}",
        ]


def run(
    lake: Path,
    name: str,
    settings: Settings,
    *,
    since: datetime,
    until: datetime | None = None,
    service: str | None = None,
    operation: str | None = None,
    threshold: float | None = None,
    for_s: float | None = None,
    files: Sequence[Path] = (),
    progress: bool = False,
) -> Backtest:
    """Say when an alert would have fired.

    Learned thresholds are those that a training on the weeks before would have given, week by
    week, so no day is judged by what it taught itself.

    Parameters
    ----------
    lake : the recorded telemetry.
    name : of an alert of ours, or of one in `files`.
    since, until : what to replay, UTC; `until` is the end of the data when left out.
    service, operation : of these only.
    threshold, for_s : asked of the alert instead of its own.
    files : Prometheus rules files.

    Raises
    ------
    NotFound
        No such alert, or no lake.
    BadParameter
        The alert cannot be replayed, or `until` is not after `since`.
    NotEnoughData
        The lake has no whole window in that time, or too little before it to learn from.
    """
    params = settings.params
    signals = signal_specs.load(settings.workspace / "specs")
    alert = replayable.find(name, signals, params, files)
    alert = replayable.changed(alert, threshold=threshold, for_s=for_s)
    alert = replace(alert, service=service or alert.service, operation=operation or alert.operation)
    since = utc(since).replace(tzinfo=None)
    if until is not None:
        until = utc(until).replace(tzinfo=None)
        if until <= since:
            raise BadParameter(f"got until={until}, which is not after since={since}; swap them")
    with query.connect(lake) as con:
        # All of a lake, so that there is something to learn from; a number needs but a little.
        features = signals_of.features(
            con,
            window_s=params.features.window_s,
            min_requests=params.features.min_requests,
            since=None if alert.threshold is None else since - history.WARM_UP,
            until=until,
        )
    last = features["time"].max()
    if not isinstance(last, datetime) or last < since:
        raise NotEnoughData(
            f"the lake {lake} has no whole window after {since}; it ends at {last!s}"
        )
    end = last + timedelta(seconds=params.features.window_s)
    first = features["time"].min()
    since = max(since, first) if isinstance(first, datetime) else since
    folds = []
    if alert.threshold is None:
        folds = list(learned(features, stage.trainer(settings, progress), params, since=since))
        if not folds:
            raise NotEnoughData(
                f"{name} needs learned thresholds, and there is too little history before {since}; "
                "ask with --threshold, or for a later time"
            )
        since = max(since, folds[0].since)
    incidents = stage.labels(settings.workspace, lake)
    found = fired(alert, features, folds, signals, incidents, params, since=since, until=end)
    return Backtest(alert, found, since, end)


def fired(
    alert: Alert,
    features: pl.DataFrame,
    folds: Iterable[Fold],
    signals: Mapping[str, SignalSpec],
    incidents: Calendar,
    params: Params,
    *,
    since: datetime,
    until: datetime,
) -> pl.DataFrame:
    """Replay an alert in [since, until), UTC without a zone.

    Parameters
    ----------
    folds : learned thresholds, where the alert needs them; each holds for its own time.

    Returns
    -------
    A frame with `FIRED_SCHEMA`, sorted by time: the intervals, and the incidents they met.
    """
    if alert.threshold is not None:
        folds = [Fold(since, until, {})]
    rows: list[tuple[object, ...]] = []
    late = timedelta(seconds=params.thresholds.sustained_s)
    for fold in folds:
        begin, end = max(fold.since, since), min(fold.until, until)
        if begin >= end:
            continue
        seen = features.filter(
            pl.col("time") >= begin - history.WARM_UP,
            pl.col("time") + pl.duration(seconds=params.features.window_s) <= end,
        )
        for watched in watch(seen, params):
            if alert.service not in (None, watched.service) or alert.operation not in (
                None,
                watched.operation,
            ):
                continue
            for one in _intervals(alert, watched, fold, signals, params, begin):
                start, stop = one.span
                of = None if watched.operation == TOGETHER else watched.operation
                met = [
                    entry.name
                    for entry in incidents.entries(
                        kind="incident",
                        service=watched.service,
                        operation=of,
                        since=start - late,
                        until=stop,
                    )
                ]
                about = ((stop - start).total_seconds() / 60, one.ongoing, met)
                rows.append((watched.service, watched.operation, start, stop, *about))
    return pl.DataFrame(rows, schema=FIRED_SCHEMA, orient="row").sort("start", *OPERATION)


def learned(
    features: pl.DataFrame, train: Train, params: Params, *, since: datetime
) -> Iterator[Fold]:
    """Learn thresholds week by week, so that [since, end of the features) has some."""
    last = features["time"].max()
    if isinstance(last, datetime):
        weeks = max(1, -(-(last - since) // history.WEEK))
        gate = params.gate.model_copy(update={"replay_weeks": weeks})
        yield from history.folds(features, train, params.model_copy(update={"gate": gate}))


def _intervals(
    alert: Alert,
    watched: Watched,
    fold: Fold,
    signals: Mapping[str, SignalSpec],
    params: Params,
    since: datetime,
) -> list[Interval]:
    spec = signals[alert.signal]
    passed: Flags
    if alert.threshold is None:
        weeks = fold.candidates[history.LEARNED]
        week = weeks.get((watched.service, watched.operation, alert.signal))
        rate = weeks.get((watched.service, watched.operation, "rate"))
        if week is None:
            return []
        threshold = getattr(week, alert.bound)
        if alert.plain:
            passed = _compared(alert, watched, watched.by_hour(threshold))
        else:
            expected = rate.expected if rate else None
            passed = replay.passes_learned(watched, spec, alert.bound, threshold, expected, params)
    elif alert.plain:
        passed = _compared(alert, watched, np.full(watched.times.shape, alert.threshold))
    elif alert.sustained:
        week_long = np.full(HOURS_PER_WEEK, alert.threshold)
        passed = replay.passes_learned(watched, spec, alert.bound, week_long, week_long, params)
    else:
        fallback = spec.fallback.model_copy(update={alert.bound: alert.threshold})
        spec = spec.model_copy(update={"fallback": fallback})
        step_s = float(params.features.window_s)
        passed = replay.passes_static(watched, spec, alert.bound, params, step_s)
    return replay.firing(
        watched.times,
        passed & (watched.times > np.datetime64(since)),
        for_s=alert.for_s,
        keep_firing_s=alert.keep_firing_s,
    )


def _compared(alert: Alert, watched: Watched, threshold: Floats) -> Flags:
    value = (watched.sustained if alert.sustained else watched.live)[alert.signal]
    compare = {">": np.greater, "<": np.less, ">=": np.greater_equal, "<=": np.less_equal}
    found: Flags = compare[alert.sign](value, threshold) & np.isfinite(value)
    return found
