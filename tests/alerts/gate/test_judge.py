"""The gate publishes what would have paged well, keeps the rest static, and says why."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from apm_analytics.alerts.gate import history, judge
from apm_analytics.alerts.gate.history import FIRINGS_SCHEMA, KEPT, LEARNED, NAIVE, NONE, STATIC
from apm_analytics.alerts.gate.judge import (
    ANOMALIES_SCHEMA,
    BY_ANOMALIES,
    BY_INCIDENTS,
    BY_PAGES,
    NOT_JUDGED,
    NOT_WATCHED,
    Event,
)
from apm_analytics.foundation import settings
from apm_analytics.foundation.settings import Params
from apm_analytics.signals import calendar
from apm_analytics.signals.calendar import Affected, Calendar, Entry

START = datetime(2026, 3, 2)
END = START + timedelta(days=14)
KEY = ("shop", "GET /", "latency_p95", "upper")
LATE = timedelta(minutes=20)
Minutes = tuple[float, float]


@pytest.fixture(scope="module")
def params(workspace: Path) -> Params:
    return settings.load_params(workspace / "params.yaml")


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def firings(**of: list[Minutes]) -> pl.DataFrame:
    """Firing intervals by candidate, in hours after the start."""
    names = {"learned": LEARNED, "naive": NAIVE, "static": STATIC, "kept": KEPT}
    rows = [
        (*KEY, names[name], at(begin), at(end), False)
        for name, held in of.items()
        for begin, end in held
    ]
    return pl.DataFrame(rows, schema=FIRINGS_SCHEMA, orient="row")


def incidents(*spans: Minutes, operation: str = "GET /", signal: str = "latency_p95") -> Calendar:
    return calendar.of(
        [
            Entry(
                "incident",
                f"incident {number}",
                at(begin).replace(tzinfo=UTC),
                at(end).replace(tzinfo=UTC),
                operations=(Affected("shop", operation, (signal,)),),
            )
            for number, (begin, end) in enumerate(spans)
        ]
    )


def judged(
    params: Params,
    fired: pl.DataFrame,
    labelled: Calendar,
    *,
    anomalies: list[Minutes] | None = None,
    candidates: tuple[str, ...] = (LEARNED, STATIC, NAIVE),
    replayed: bool = True,
) -> dict[str, dict[str, object]]:
    found = pl.DataFrame(
        [(*KEY[:3], at(begin), at(end)) for begin, end in anomalies or []],
        schema=ANOMALIES_SCHEMA,
        orient="row",
    )
    spans = [(START, END)] if replayed else []
    table = judge.judge(fired, spans, {KEY: frozenset(candidates)}, labelled, found, params)
    assert table.schema == pl.Schema(judge.TABLE_SCHEMA)
    assert table["in_force"].sum() == 1
    return {row["candidate"]: row for row in table.iter_rows(named=True)}


def test_a_threshold_that_meets_more_incidents_than_the_static_one_is_published(
    params: Params,
) -> None:
    fired = firings(learned=[(10.2, 11), (50.3, 51)], static=[(10.9, 11)])
    table = judged(params, fired, incidents((10, 11), (50, 51)))
    assert table[LEARNED]["in_force"]
    assert table[LEARNED]["judgement"] == BY_INCIDENTS
    assert (table[LEARNED]["recall"], table[LEARNED]["precision"]) == (1.0, 1.0)
    assert table[LEARNED]["pages_per_week"] == 1.0
    assert table[LEARNED]["delay_s"] == pytest.approx(0.25 * 3600)
    assert table[STATIC]["recall"] == 0.5
    assert table[LEARNED]["events"] == 2


def noise(count: int) -> list[Minutes]:
    """False pages in the two weeks; two are within the budget."""
    return [(100.0 + 10 * n, 101.0 + 10 * n) for n in range(count)]


def test_a_threshold_over_the_budget_is_not_published(params: Params) -> None:
    fired = firings(learned=[(10.2, 11), *noise(4)], static=[(10.9, 11)])
    table = judged(params, fired, incidents((10, 11)))
    assert table[STATIC]["in_force"]
    assert "2 false pages a week, at most 0.5" in str(table[STATIC]["reason"])


@pytest.mark.parametrize("labelled", [True, False])
def test_no_alert_is_in_force_where_every_candidate_is_over_the_budget(
    params: Params, labelled: bool
) -> None:
    pages = [(10.2, 11), *noise(4)]
    fired = firings(learned=pages, naive=pages, static=[*pages, *noise(8)])
    known = {"labelled": incidents((10, 11))} if labelled else {"labelled": Calendar()}
    table = judged(params, fired, **known, anomalies=[(10, 11)])
    assert table[NONE]["in_force"]
    assert not table[NONE]["unproven"]
    assert table[NONE]["pages_per_week"] == 0
    assert "no candidate keeps the budget" in str(table[NONE]["reason"])


def test_what_met_nothing_stays_only_as_a_guard_without_a_false_page(params: Params) -> None:
    labelled = incidents((10, 11), signal="rate")
    quiet = judged(params, firings(static=noise(1)), labelled)
    assert quiet[LEARNED]["in_force"]
    assert quiet[LEARNED]["unproven"]
    assert "unproven: a guard" in str(quiet[LEARNED]["reason"])
    learned_pages = judged(params, firings(learned=noise(1)), labelled)
    assert learned_pages[NAIVE]["in_force"]
    assert "0.5 false pages a week and nothing met" in str(learned_pages[NAIVE]["reason"])
    all_page = firings(learned=noise(1), naive=noise(1), static=noise(1))
    assert judged(params, all_page, labelled)[NONE]["in_force"]


def test_false_pages_within_the_budget_are_allowed_to_what_meets_incidents(params: Params) -> None:
    table = judged(params, firings(learned=[(10.2, 11), *noise(1)]), incidents((10, 11)))
    assert table[LEARNED]["in_force"]
    assert not table[LEARNED]["unproven"]


@pytest.mark.parametrize(("rival", "candidate"), [("static", STATIC), ("naive", NAIVE)])
def test_a_simple_rule_that_does_better_is_in_force(
    params: Params, rival: str, candidate: str
) -> None:
    fired = firings(learned=[(10.2, 11)], **{rival: [(10.2, 11), (50.2, 51)]})
    table = judged(params, fired, incidents((10, 11), (50, 51)))
    assert table[candidate]["in_force"]
    assert "learned: meets 50%" in str(table[candidate]["reason"])


def test_a_fall_back_over_the_budget_does_not_win_by_an_anomaly_that_it_meets(
    params: Params,
) -> None:
    fired = firings(static=[(10.2, 11), *noise(4)])
    table = judged(params, fired, incidents(), anomalies=[(10, 11)])
    assert table[LEARNED]["in_force"]
    few = judged(params, firings(static=[(10.2, 11)]), incidents(), anomalies=[(10, 11)])
    assert few[STATIC]["in_force"]


def test_a_bound_that_nobody_asked_for_has_no_alert_and_says_so(params: Params) -> None:
    table = judged(params, firings(learned=noise(1)), Calendar(), candidates=())
    assert table[NONE]["judgement"] == NOT_WATCHED
    assert "specs/signals.yaml does not list upper" in str(table[NONE]["reason"])


def test_alerts_in_force_are_counted_by_candidate(params: Params) -> None:
    found = pl.DataFrame(schema=ANOMALIES_SCHEMA)
    keys = {(*KEY[:3], bound): frozenset({LEARNED, STATIC}) for bound in ("lower", "upper")}
    keys[("shop", "GET /b", "rate", "upper")] = frozenset()
    table = judge.judge(firings(), [(START, END)], keys, Calendar(), found, params)
    assert judge.counts(table).rows() == [(LEARNED, 2, 2)]


def test_a_threshold_as_good_as_the_static_one_is_published_only_where_it_is_faster(
    params: Params,
) -> None:
    labelled = incidents((10, 11))
    slower = judged(params, firings(learned=[(10.5, 11)], static=[(10.2, 11)]), labelled)
    assert slower[STATIC]["in_force"]
    faster = judged(params, firings(learned=[(10.2, 11)], static=[(10.5, 11)]), labelled)
    assert faster[LEARNED]["in_force"]


def test_a_page_during_an_incident_of_the_operation_in_another_signal_is_not_false(
    params: Params,
) -> None:
    table = judged(params, firings(learned=[(10.2, 11)]), incidents((10, 11), signal="rate"))
    assert table[LEARNED]["judgement"] == BY_PAGES
    assert table[LEARNED]["false_per_week"] == 0
    assert table[LEARNED]["unproven"]
    other = judged(params, firings(learned=[(10.2, 11)]), incidents((10, 11), operation="GET /b"))
    assert other[LEARNED]["false_per_week"] == 0.5
    assert not other[LEARNED]["in_force"]


def test_without_labels_pages_are_held_against_sustained_anomalies(params: Params) -> None:
    pages = [(10.2, 11), (30.2, 31), (50.2, 51)]
    explained = judged(
        params, firings(learned=pages), Calendar(), anomalies=[(10, 11), (30, 31), (50, 51)]
    )
    assert explained[LEARNED]["judgement"] == BY_ANOMALIES
    assert explained[LEARNED]["in_force"]
    assert explained[LEARNED]["pages_per_week"] == 1.5
    unexplained = judged(params, firings(learned=pages), Calendar())
    assert unexplained[NAIVE]["in_force"]


def test_a_quiet_alert_within_the_budget_is_published(params: Params) -> None:
    assert judged(params, firings(), Calendar())[LEARNED]["in_force"]


def test_yesterdays_threshold_stays_where_tonights_does_worse(params: Params) -> None:
    fired = firings(learned=noise(4), kept=[(10.2, 11)])
    table = judged(params, fired, incidents((10, 11)), candidates=(LEARNED, STATIC, KEPT))
    assert table[KEPT]["in_force"]
    assert "yesterday's: meets 100%" in str(table[KEPT]["reason"])


def test_what_could_not_be_learned_or_replayed_stays_static_and_says_so(params: Params) -> None:
    table = judged(params, firings(), Calendar(), candidates=(STATIC,))
    assert "too few quiet windows" in str(table[STATIC]["reason"])
    table = judged(params, firings(), Calendar(), replayed=False)
    assert table[STATIC]["judgement"] == NOT_JUDGED
    assert table[STATIC]["pages_per_week"] is None


def test_a_page_just_after_an_incident_is_late_but_neither_false_nor_a_hit() -> None:
    event = Event(at(10), at(11), of_signal=True)
    late = judge.score([(at(11.2), at(12))], [event], weeks=2, late=LATE)
    assert (late.false_per_week, late.recall, late.delay_s) == (0.0, 0.0, None)
    false = judge.score([(at(11.5), at(12))], [event], weeks=2, late=LATE)
    assert (false.false_per_week, false.precision) == (0.5, 0.0)
    before = judge.score([(at(9.5), at(10.5))], [event], weeks=2, late=LATE)
    assert (before.recall, before.delay_s) == (1.0, 0.0)


def test_only_what_stays_outside_most_of_a_sustained_time_is_an_anomaly(params: Params) -> None:
    score = [0.5] * 19 + [2.0] * 2 + [0.5] * 20 + [2.0] * 6 + [None] * 10
    scores = pl.DataFrame(
        {
            "service_name": "shop",
            "operation": "GET /",
            "signal": "rate",
            "time": [START + timedelta(minutes=5 * n) for n in range(len(score))],
            "score": score,
        }
    )
    found = judge.sustained_anomalies(scores, params)
    assert len(found) == 1
    row = found.row(0, named=True)
    assert row["start"] <= START + timedelta(minutes=5 * 41) < row["end"]


def test_each_replayed_week_has_a_week_before_it_and_short_histories_are_halved() -> None:
    month = history.splits(START, START + timedelta(days=28), weeks=3)
    assert month == [(at(24 * 7 * n), at(24 * 7 * (n + 1))) for n in (1, 2, 3)]
    assert history.splits(START, at(48), weeks=3) == [(at(24), at(48))]
    assert history.splits(START, at(12), weeks=3) == []
