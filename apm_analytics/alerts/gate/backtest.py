"""Replay one alert over a recorded time: how often would it have fired?

In:  a lake, the name of an alert, labelled incidents.
Out: a `Backtest`: firing intervals with the incidents they met.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from apm_analytics.alerts.gate import history, replay, replayable, stage
from apm_analytics.alerts.gate.history import Fold, Train
from apm_analytics.alerts.gate.replay import Alert
from apm_analytics.alerts.gate.watching import labelled, watch
from apm_analytics.alerts.prometheus import signal_specs
from apm_analytics.foundation.errors import BadParameter, NotEnoughData
from apm_analytics.foundation.settings import Params, Settings
from apm_analytics.lake import query
from apm_analytics.signals import OPERATION, Calendar, Schema
from apm_analytics.signals import operations as signals_of
from apm_analytics.signals.calendar import utc

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
        """Return the summary that `apm backtest` prints."""
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
    incidents: Calendar,
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
    """Replay an alert over a lake.

    Every week is replayed with thresholds trained on the weeks before it.

    Parameters
    ----------
    lake : the recorded telemetry.
    name : of a generated alert, or of one in `files`.
    incidents : labelled ones, to name those that the alert met.
    since, until : the time to replay, UTC; `until` defaults to the end of the data.
    service, operation : restrict the replay to these.
    threshold, for_s : replace the alert's own; `threshold` is in the signal's unit.
    files : Prometheus rules files.

    Raises
    ------
    NotFound
        No such alert, or no lake.
    BadParameter
        The alert cannot be replayed, or `until` is not after `since`.
    NotEnoughData
        The lake has no whole window in that time, or too little history before it to train on.
    """
    params = settings.params
    signals = signal_specs.load(settings.workspace / "specs")
    alert = replayable.find(name, signals, params, files)
    alert = replace(
        alert,
        threshold=alert.threshold if threshold is None else threshold,
        for_s=alert.for_s if for_s is None else for_s,
        service=service or alert.service,
        operation=operation or alert.operation,
    )
    since = utc(since).replace(tzinfo=None)
    if until is not None:
        until = utc(until).replace(tzinfo=None)
        if until <= since:
            raise BadParameter(f"got until={until}, which is not after since={since}; swap them")
    with query.connect(lake) as con:
        # Learned thresholds train on the whole lake; a number needs only the warm-up.
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
                "give --threshold, or a later --since"
            )
        since = max(since, folds[0].since)
    intervals = fired(alert, features, folds, incidents, params, since=since, until=end)
    return Backtest(alert, intervals, since, end)


def fired(
    alert: Alert,
    features: pl.DataFrame,
    folds: Iterable[Fold],
    incidents: Calendar,
    params: Params,
    *,
    since: datetime,
    until: datetime,
) -> pl.DataFrame:
    """Replay an alert in [since, until), UTC without a zone.

    Parameters
    ----------
    folds : learned thresholds, each for its own time; an alert with a number needs none.
    incidents : labelled ones, to name those that each interval met.

    Returns
    -------
    A frame with `FIRED_SCHEMA`, sorted by time.
    """
    if alert.threshold is not None:
        folds = [Fold(since, until, {history.LEARNED: {}})]
    rows: list[tuple[object, ...]] = []
    late = timedelta(seconds=params.thresholds.sustained_s)
    for fold in folds:
        part = replace(fold, since=max(fold.since, since), until=min(fold.until, until))
        if part.since >= part.until:
            continue
        for watched in watch(part.window(features, params), params):
            if alert.service not in (None, watched.service):
                continue
            if alert.operation not in (None, watched.operation):
                continue
            weeks = part.candidates[history.LEARNED]
            for interval in replay.firings(alert, watched, weeks, params, since=part.since):
                start, end = interval.span
                met = incidents.entries(
                    kind="incident",
                    service=watched.service,
                    operation=labelled(watched.operation),
                    since=start - late,
                    until=end,
                )
                rows.append(
                    (
                        watched.service,
                        watched.operation,
                        start,
                        end,
                        (end - start).total_seconds() / 60,
                        interval.ongoing,
                        [entry.name for entry in met],
                    )
                )
    return pl.DataFrame(rows, schema=FIRED_SCHEMA, orient="row").sort("start", *OPERATION)


def learned(
    features: pl.DataFrame, train: Train, params: Params, *, since: datetime
) -> Iterator[Fold]:
    """Yield folds of thresholds, week by week, that cover [since, end of the features)."""
    last = features["time"].max()
    if isinstance(last, datetime):
        weeks = max(1, -(-(last - since) // history.WEEK))
        gate = params.gate.model_copy(update={"replay_weeks": weeks})
        yield from history.folds(features, train, params.model_copy(update={"gate": gate}))
