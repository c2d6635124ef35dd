"""Decide which candidate pages for every series: learned, seasonal naive, static, or no alert.

In:  firing intervals of every candidate in the replayed weeks; labelled incidents and anomalies.
Out: the gate's table, one row per series, bound and candidate: how it would have paged, whether
     it is in force, and why.

Every candidate has the same budget of false pages. One that met no incident in the replayed weeks
is unproven: it stays in force only without any false page, as a guard.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from apm_analytics.alerts.gate.history import KEPT, LEARNED, NAIVE, NONE, STATIC
from apm_analytics.alerts.gate.watching import evaluations, labelled, rolling_mean
from apm_analytics.foundation.settings import Params
from apm_analytics.signals import OPERATION, SERIES, Calendar, Entry, Schema

BY_INCIDENTS = "incidents"  # labelled incidents of this signal lie in the replayed time
BY_PAGES = "pages"  # incidents are labelled, but none of this signal: it should not page
BY_ANOMALIES = "anomalies"  # nothing is labelled: anomalies stand in for incidents
NOT_JUDGED = "not judged"  # too little history to replay: no learned threshold pages
NOT_WATCHED = "not watched"  # specs/signals.yaml does not ask for this bound
# Of two candidates that paged equally well, the first is preferred.
CANDIDATES = (LEARNED, KEPT, NAIVE, STATIC)
BOUND = (*SERIES, "bound")
ANOMALOUS_SHARE = 0.75  # share of the windows of a sustained value outside their bounds
WEEK_S = 7 * 86_400.0

TABLE_SCHEMA: Schema = {
    **dict.fromkeys((*BOUND, "candidate"), pl.String),
    "in_force": pl.Boolean,  # pages from now on; one candidate per series and bound
    "unproven": pl.Boolean,  # met no incident or anomaly: in force only as a guard, as a ticket
    "judgement": pl.String,
    "reason": pl.String,  # why it was decided so; the same in every row of a series and bound
    "pages_per_week": pl.Float64,
    "false_per_week": pl.Float64,
    "precision": pl.Float64,  # share of true pages; null without pages
    "recall": pl.Float64,  # share of incidents met; null without incidents
    "delay_s": pl.Float64,  # median time from the start of an incident to its page
    "events": pl.Int64,  # incidents or anomalies of this signal
}
ANOMALIES_SCHEMA: Schema = {
    **dict.fromkeys((*OPERATION, "signal"), pl.String),
    "start": pl.Datetime("us"),
    "end": pl.Datetime("us"),
}
Span = tuple[datetime, datetime]
Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Event:
    """An incident or an anomaly during which a page counts as true."""

    start: datetime
    end: datetime
    of_signal: bool  # it affects this signal, so the alert should page


@dataclass(frozen=True)
class Score:
    """How one candidate would have paged on one series and bound."""

    pages_per_week: float
    false_per_week: float
    precision: float | None
    recall: float | None
    delay_s: float | None

    def fault(self, budget: float) -> str | None:
        """Return why the candidate may not be in force; None when it may."""
        if self.false_per_week > budget:
            return (
                f"{self.false_per_week:.2g} false pages a week, at most {budget:g} are allowed "
                "(gate.max_pages_per_week)"
            )
        if self.false_per_week and not self.recall:
            return f"{self.false_per_week:.2g} false pages a week and nothing met"
        return None

    @property
    def quality(self) -> float:
        """The harmonic mean of precision and recall; 0 where no event was met."""
        if not self.precision or not self.recall:
            return 0.0
        return 2 * self.precision * self.recall / (self.precision + self.recall)

    def __str__(self) -> str:
        met = "" if self.recall is None else f"meets {self.recall:.0%} "
        return f"{met}at {self.false_per_week:.2g} false pages a week"


def judge(
    firings: pl.DataFrame,
    replayed: Sequence[Span],
    candidates: Mapping[Key, frozenset[str]],
    incidents: Calendar,
    anomalies: pl.DataFrame,
    params: Params,
) -> pl.DataFrame:
    """Score every candidate against incidents or anomalies, and decide.

    Parameters
    ----------
    firings : as `history.replayed` returns them, of all folds.
    replayed : [since, until) of the folds, UTC without a zone.
    candidates : the candidates of each (service, operation, signal, bound) beside no alert; none
        for a bound that nobody asked to watch.
    incidents : labelled ones; without any in the replayed time, anomalies stand in.
    anomalies : with `ANOMALIES_SCHEMA`, as `sustained_anomalies` returns them.
    params : the numbers of params.yaml.

    Returns
    -------
    A frame with `TABLE_SCHEMA`, sorted.
    """
    late = timedelta(seconds=params.thresholds.sustained_s)
    weeks = sum((until - since).total_seconds() for since, until in replayed) / WEEK_S
    in_time = [
        entry
        for entry in incidents.entries(kind="incident")
        if any(entry.overlaps(since, until) for since, until in replayed)
    ]
    pages = _intervals(firings, (*BOUND, "candidate"))
    anomalous = _intervals(anomalies.filter(_within(replayed)), (*OPERATION, "signal"))
    rows: list[tuple[object, ...]] = []
    unknown = (None,) * 5 + (0,)
    for key, names in sorted(candidates.items()):
        if not names:
            reason = f"signals.{key[2]}.bounds of specs/signals.yaml does not list {key[3]}"
            rows.append((*key, NONE, True, False, NOT_WATCHED, reason, *unknown))
            continue
        if not weeks:
            only = STATIC if STATIC in names else NONE
            reason = f"too little history to replay it over: {only}"
            rows.append((*key, only, True, only != NONE, NOT_JUDGED, reason, *unknown))
            continue
        events, judgement = _events(*key[:3], in_time, anomalous)
        scores = {
            name: score(pages.get((*key, name), []), events, weeks=weeks, late=late)
            for name in (*CANDIDATES, NONE)
            if name in names or name == NONE
        }
        chosen, reason = decide(scores, judgement, params.gate.max_pages_per_week)
        expected = sum(event.of_signal for event in events)
        rows += [
            (
                *key,
                name,
                name == chosen,
                name != NONE and not of_name.recall,
                judgement,
                reason,
                *astuple(of_name),
                expected,
            )
            for name, of_name in scores.items()
        ]
    return pl.DataFrame(rows, schema=TABLE_SCHEMA, orient="row")


def score(
    pages: Sequence[Span], events: Sequence[Event], *, weeks: float, late: timedelta
) -> Score:
    """Score the pages of one alert against events.

    A page is true when it fires during an event or begins at most `late` after its end. An event
    is met when a page fires before it ends.
    """
    true = [
        (start, end)
        for start, end in pages
        if any(start < event.end + late and end > event.start for event in events)
    ]
    expected = [event for event in events if event.of_signal]
    delays = []
    for event in expected:
        begun = [start for start, end in pages if start <= event.end and end > event.start]
        if begun:
            delays.append(max((min(begun) - event.start).total_seconds(), 0.0))
    return Score(
        pages_per_week=len(pages) / weeks,
        false_per_week=(len(pages) - len(true)) / weeks,
        precision=len(true) / len(pages) if pages else None,
        recall=len(delays) / len(expected) if expected else None,
        delay_s=float(np.median(delays)) if delays else None,
    )


def decide(scores: Mapping[str, Score], judgement: str, budget: float) -> tuple[str, str]:
    """Return the candidate that pages from now on, and the reason.

    Parameters
    ----------
    scores : of every candidate, `NONE` among them.
    judgement : anomalies may be chance, so only labelled incidents tell candidates apart that met
        the same share with the same precision.
    budget : false pages a week that an alert may have.
    """
    faults = {name: score.fault(budget) for name, score in scores.items()}
    allowed = [name for name in CANDIDATES if name in scores and not faults[name]]

    def rank(name: str) -> tuple[float, ...]:
        score = scores[name]
        if judgement != BY_INCIDENTS or not score.quality:
            return (score.quality,)
        # The simpler rule wins where it does as well.
        return (
            score.quality,
            -score.false_per_week,
            -(score.delay_s or 0.0),
            name == STATIC,
        )

    chosen = max(allowed, key=rank, default=NONE)
    return chosen, "; ".join(_reasons(scores, faults, chosen))


def _reasons(
    scores: Mapping[str, Score], faults: Mapping[str, str | None], chosen: str
) -> Iterator[str]:
    """Yield what speaks for the chosen candidate, and why the learned and static ones are not."""
    if chosen == NONE:
        yield f"{NONE}: no candidate keeps the budget and meets something"
    else:
        unproven = "" if scores[chosen].recall else ", unproven: a guard without a false page"
        yield f"{chosen}: {scores[chosen]}{unproven}"
    if LEARNED not in scores:
        yield "no threshold could be learned: too few quiet windows"
    for name in (LEARNED, STATIC):
        if name in scores and name != chosen:
            yield f"{name}: {faults[name] or scores[name]}"


def counts(table: pl.DataFrame) -> pl.DataFrame:
    """Count the alerts in force by candidate, for everyone who reports them.

    Returns
    -------
    One row per candidate: `candidate`, `alerts`, and `unproven`, how many of them are guards.
    Bounds that nobody asked to watch are left out.
    """
    return (
        table.filter(pl.col("in_force"), pl.col("judgement") != NOT_WATCHED)
        .group_by("candidate")
        .agg(alerts=pl.len(), unproven=pl.col("unproven").sum())
        .sort("alerts", "candidate", descending=[True, False])
    )


def sustained_anomalies(scores: pl.DataFrame, params: Params) -> pl.DataFrame:
    """Return the periods in which most windows of a sustained value were outside their bounds.

    Parameters
    ----------
    scores : derived/scores.parquet; a score above 1 is outside the bounds.

    Returns
    -------
    A frame with `ANOMALIES_SCHEMA`; `signal` as in the scores, so also "together", which stands
    for all signals of an operation.
    """
    window = np.timedelta64(params.features.window_s, "s")
    count = evaluations(params.thresholds.sustained_s, params.features.window_s)
    rows: list[tuple[object, ...]] = []
    for part in scores.sort(*SERIES, "time").partition_by(SERIES, maintain_order=True):
        times = part["time"].cast(pl.Datetime("us")).to_numpy()
        outside = (part["score"].fill_null(0.0).fill_nan(0.0) > 1.0).to_numpy()
        share = rolling_mean(outside.astype(np.float64), count)
        edges = np.flatnonzero(np.diff(np.r_[False, share >= ANOMALOUS_SHARE, False]))
        key = part.select(SERIES).row(0)
        for first, behind in zip(edges[::2], edges[1::2], strict=True):
            start = times[max(first - count + 1, 0)]
            rows.append((*key, start.item(), (times[behind - 1] + window).item()))
    return pl.DataFrame(rows, schema=ANOMALIES_SCHEMA, orient="row")


def _events(
    service: str,
    operation: str,
    signal: str,
    incidents: Sequence[Entry],
    anomalies: Mapping[tuple[str, ...], list[Span]],
) -> tuple[list[Event], str]:
    scope = labelled(operation)
    if incidents:
        events = [
            Event(
                entry.start.replace(tzinfo=None),
                entry.end.replace(tzinfo=None),
                entry.concerns(service, scope, signal),
            )
            for entry in incidents
            if entry.concerns(service, scope)
        ]
        met = any(event.of_signal for event in events)
        return events, BY_INCIDENTS if met else BY_PAGES
    return [
        Event(start, end, of_signal=of_signal == signal)
        for (of_service, of_operation, of_signal), spans in anomalies.items()
        if of_service == service and scope in (None, of_operation)
        for start, end in spans
    ], BY_ANOMALIES


def _intervals(frame: pl.DataFrame, by: Sequence[str]) -> dict[tuple[str, ...], list[Span]]:
    spans: dict[tuple[str, ...], list[Span]] = {}
    for *key, start, end in frame.select(*by, "start", "end").iter_rows():
        spans.setdefault(tuple(key), []).append((start, end))
    return spans


def _within(replayed: Sequence[Span]) -> pl.Expr:
    inside = pl.lit(False)
    for since, until in replayed:
        inside = inside | ((pl.col("end") > since) & (pl.col("start") < until))
    return inside
