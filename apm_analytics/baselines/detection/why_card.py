"""Sentences and tables of the explanations of anomalies.

In:  `baselines.detection.why.Why`, or the episodes to explain.
Out: sentences; a table of them.
"""

import calendar
import contextlib
from collections.abc import Iterator

import polars as pl

from apm_analytics.baselines.detection import why
from apm_analytics.baselines.detection.why import Why
from apm_analytics.charts import words
from apm_analytics.foundation.errors import NotFound

COLUMNS = ("service", "operation", "from (UTC)", "lasted", "what", "why", "before")
# Hours of the week begin on Sunday.
_DAYS = (6, 0, 1, 2, 3, 4, 5)


def explained(
    episodes: pl.DataFrame,
    scores: pl.DataFrame,
    bounds: pl.DataFrame,
    contributions: pl.DataFrame | None,
    *,
    count: int,
) -> list[Why]:
    """Explain the first `count` episodes of `baselines.detection.episodes.episodes`.

    An operation without baselines (only the saturation of its service was anomalous) has no card.
    """
    cards = []
    for row in episodes.head(count).iter_rows(named=True):
        with contextlib.suppress(NotFound):
            cards.append(
                why.explain(
                    scores,
                    bounds,
                    contributions,
                    service=row["service_name"],
                    operation=row["operation"],
                    signal=row["signal"],
                    start=row["start"],
                    end=row["end"],
                )
            )
    return cards


def table(cards: list[Why]) -> pl.DataFrame:
    """Return cards as a table, one row per card."""
    rows = [
        {
            "service": card.service_name,
            "operation": card.operation,
            "from (UTC)": words.moment(card.start),
            "lasted": words.span((card.end - card.start).total_seconds()),
            "what": what(card),
            "why": " ".join(_reasons(card)),
            "before": " ".join(_history(card)),
        }
        for card in cards
    ]
    return pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS, pl.String))


def what(card: Why) -> str:
    """Describe kind and numbers: "level shift: p95 1.9 s, expected 0.42 s (bound 0.61 s)"."""
    value, expected, bound = (
        words.value(one, card.mainly) for one in (card.value, card.expected, card.bound)
    )
    return f"{card.kind}: {words.signal(card.mainly)} {value}, expected {expected} (bound {bound})"


def hour_of_week(hour: int) -> str:
    """Return the name of an hour of the week, 0 is Sunday 00:00: "Monday 14:00"."""
    return f"{calendar.day_name[_DAYS[hour // 24]]} {hour % 24:02d}:00"


def _reasons(card: Why) -> Iterator[str]:
    match card.component:
        case "time of week":
            assert card.usual_hour is not None
            yield f"Usual on {hour_of_week(card.usual_hour)} UTC, not at this time."
        case "level":
            yield "Not usual at any hour of the week."
        case "trend":
            yield "It has been moving for a while."
        case "noise":
            yield "It swings more than it used to, to both sides."
        case "combination":
            yield "Each signal is inside its bounds, together they are not."
    others = [
        f"{words.signal(name)} ({abs(one):.1f} times its bound)"
        for name, one in card.deviations.items()
        if name != card.mainly and abs(one) > 1.0
    ]
    if others:
        yield f"Also outside: {', '.join(others)}."
    if card.shares:
        most = max(card.shares, key=lambda name: card.shares[name])
        share = card.shares[most]
        yield f"{words.signal(most)} makes {share:.0%} of how unusual it is as a whole."


def _history(card: Why) -> Iterator[str]:
    if card.before and card.last_before:
        times = "once" if card.before == 1 else f"{card.before} times"
        yield (
            f"As far out {times} in {words.span(card.days * 86_400)} before, last on "
            f"{words.moment(card.last_before)}."
        )
    else:
        yield f"Never as far out in {words.span(card.days * 86_400)} before."
    if card.alike:
        yield f"Most alike: {', '.join(words.moment(one.time) for one in card.alike)}."
