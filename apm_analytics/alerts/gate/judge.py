"""Decide which candidate pages for every series: the learned threshold, another one, or static.

In:  firing intervals of every candidate in the replayed weeks; labelled incidents and anomalies.
Out: the gate's table, one row per series, bound and candidate: how it would have paged, whether
     it is in force, and why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from apm_analytics.alerts.gate.history import KEPT, LEARNED, NAIVE, STATIC
from apm_analytics.alerts.gate.watching import evaluations, labelled, rolling_mean
from apm_analytics.foundation.settings import Params
from apm_analytics.signals import OPERATION, SERIES, Calendar, Entry, Schema

BY_INCIDENTS = "incidents"  # labelled incidents of this signal lie in the replayed time
BY_PAGES = "pages"  # incidents are labelled, but none of this signal: it should not page
BY_ANOMALIES = "anomalies"  # nothing is labelled: anomalies stand in for incidents
NOT_JUDGED = "not judged"  # too little history to replay: no learned threshold pages
CANDIDATES = (LEARNED, STATIC, NAIVE, KEPT)
BOUND = (*SERIES, "bound")
ANOMALOUS_SHARE = 0.75  # share of the windows of a sustained value outside their bounds
WEEK_S = 7 * 86_400.0

TABLE_SCHEMA: Schema = {
    **dict.fromkeys((*BOUND, "candidate"), pl.String),
    "in_force": pl.Boolean,  # pages from now on; at most one candidate per series and bound
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
    candidates : the candidates of each (service, operation, signal, bound).
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
    if not weeks:
        reason = "too little history to replay it over; static stands in"
        unknown = (None,) * 5 + (0,)
        return pl.DataFrame(
            [(*key, STATIC, True, NOT_JUDGED, reason, *unknown) for key in sorted(candidates)],
            schema=TABLE_SCHEMA,
            orient="row",
        )
    pages = _intervals(firings, (*BOUND, "candidate"))
    anomalous = _intervals(anomalies.filter(_within(replayed)), (*OPERATION, "signal"))
    rows: list[tuple[object, ...]] = []
    for key, names in sorted(candidates.items()):
        service, operation, signal, _ = key
        events, judgement = _events(service, operation, signal, in_time, anomalous)
        scores = {
            name: score(pages.get((*key, name), []), events, weeks=weeks, late=late)
            for name in CANDIDATES
            if name in names
        }
        chosen, reason = decide(scores, judgement, params)
        expected = sum(event.of_signal for event in events)
        rows += [
            (
                *key,
                name,
                name == chosen,
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


def decide(scores: Mapping[str, Score], judgement: str, params: Params) -> tuple[str, str]:
    """Return the candidate that pages from now on, and the reason."""
    static = scores[STATIC]
    refusal = _refusal(scores, judgement, params.gate.max_pages_per_week)
    if refusal is None:
        learned = scores[LEARNED]
        return LEARNED, f"{learned}; static {static}"
    kept = scores.get(KEPT)
    budget = params.gate.max_pages_per_week
    if kept and kept.false_per_week <= budget and kept.quality >= static.quality:
        return KEPT, f"tonight's: {refusal}; yesterday's {kept}"
    return STATIC, refusal


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


def _refusal(scores: Mapping[str, Score], judgement: str, budget: float) -> str | None:
    """Return why the learned threshold may not page; None when it may."""
    learned, static, naive = (scores.get(name) for name in (LEARNED, STATIC, NAIVE))
    assert static is not None
    if learned is None:
        return "no threshold could be learned: too few quiet windows"
    over = learned.false_per_week > budget
    # A learned threshold over the budget still pages if the static one has more false pages.
    if over and (
        static.false_per_week <= learned.false_per_week or static.quality > learned.quality
    ):
        return (
            f"{learned.false_per_week:.2g} false pages a week, at most {budget:g} are allowed "
            "(gate.max_pages_per_week)"
        )
    for name, rival in ((STATIC, static), (NAIVE, naive)):
        if rival is None or rival.quality <= learned.quality:
            continue
        # An anomaly may be chance, so meeting it does not justify paging over the budget.
        allowed = max(budget, learned.false_per_week)
        if judgement == BY_INCIDENTS or rival.false_per_week <= allowed:
            return f"{name} does better: {rival}, learned {learned}"
    same = judgement == BY_INCIDENTS and static.quality == learned.quality > 0
    if same and (static.false_per_week, static.delay_s or 0.0) <= (
        learned.false_per_week,
        learned.delay_s or 0.0,
    ):
        return f"static does as well: {static}"
    return None


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
