from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from apm_analytics.baselines.detection import episodes as findings
from apm_analytics.baselines.detection import why, why_card
from apm_analytics.baselines.detection.why import Why
from apm_analytics.foundation.errors import NotFound

START = datetime(2026, 3, 1)  # a Sunday
WINDOW_S = 300
WINDOWS = 14 * 288
OPERATION = ("shop", "POST /checkout")
SIGNALS = ("latency_p95", "rate", "error_ratio")
Changes = dict[str, list[tuple[int, int, float]]]


def _frames(changes: Changes) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Scores and bounds: 2 in [1, 3] from 08:00 to 20:00, else 0.5 in [0, 1].

    changes : signal -> windows [start, end) and what is added to the value there.
    """
    rng = np.random.default_rng(4)
    scores, bounds = [], []
    times = [START + timedelta(seconds=WINDOW_S * at) for at in range(WINDOWS)]
    busy = np.array([8 <= time.hour < 20 for time in times])
    for signal in SIGNALS:
        expected = np.where(busy, 2.0, 0.5)
        reach = np.where(busy, 1.0, 0.5)
        values = expected + 0.2 * reach * rng.normal(size=WINDOWS)
        for start, end, added in changes.get(signal, []):
            values[start:end] += added
        scores.append(
            pl.DataFrame(
                {
                    "service_name": OPERATION[0],
                    "operation": OPERATION[1],
                    "time": times,
                    "signal": signal,
                    "value": values,
                    "expected": expected,
                    "lower": expected - reach,
                    "upper": expected + reach,
                    "score": np.abs(values - expected) / reach,
                    "model": "prophet",
                }
            )
        )
        hours = np.arange(168)
        light = (hours % 24 >= 8) & (hours % 24 < 20)
        bounds.append(
            pl.DataFrame(
                {
                    "service_name": OPERATION[0],
                    "operation": OPERATION[1],
                    "signal": signal,
                    "hour_of_week": hours.astype(np.int16),
                    "expected": np.where(light, 2.0, 0.5),
                    "lower": np.where(light, 1.0, 0.0),
                    "upper": np.where(light, 3.0, 1.0),
                }
            )
        )
    return pl.concat(scores), pl.concat(bounds)


def _why(changes: Changes, start: int, end: int, signal: str = "latency_p95") -> Why:
    scores, bounds = _frames(changes)
    return why.explain(
        scores,
        bounds,
        service=OPERATION[0],
        operation=OPERATION[1],
        signal=signal,
        start=START + timedelta(seconds=WINDOW_S * start),
        end=START + timedelta(seconds=WINDOW_S * end),
    )


NIGHT = 10 * 288 + 24  # 02:00 of a Wednesday
NOON = 10 * 288 + 144


def test_a_value_that_is_usual_by_day_is_a_matter_of_the_time_of_week_at_night() -> None:
    card = _why({"latency_p95": [(NIGHT, NIGHT + 6, 1.5)]}, NIGHT, NIGHT + 6)
    assert card.component == "time of week" and card.usual_hour is not None
    assert 8 <= card.usual_hour % 24 < 20
    assert card.kind == "spike"
    assert "Usual on " in why_card.table([card])["why"][0]


def test_a_value_that_is_usual_at_no_hour_is_a_matter_of_level() -> None:
    card = _why({"latency_p95": [(NOON, NOON + 60, 9.0)]}, NOON, NOON + 60)
    assert (card.component, card.kind, card.usual_hour) == ("level", "spike", None)
    assert card.expected == 2.0 and card.bound == 3.0 and card.value > 10.0
    lasting = _why({"latency_p95": [(NOON, WINDOWS, 9.0)]}, NOON, NOON + 60)
    assert (lasting.component, lasting.kind) == ("level", "level shift")


def test_the_signal_that_moved_most_explains_what_is_unusual_together() -> None:
    changes: Changes = {
        "error_ratio": [(NOON, NOON + 10, 5.0)],
        "latency_p95": [(NOON, NOON + 10, 1.5)],
    }
    card = _why(changes, NOON, NOON + 10, signal="together")
    assert card.mainly == "error_ratio"
    assert card.deviations["error_ratio"] > card.deviations["latency_p95"] > 1.0
    assert "Also outside: p95" in why_card.table([card])["why"][0]


def test_signals_inside_their_bounds_are_a_combination_and_shares_name_the_main_one() -> None:
    scores, bounds = _frames({})
    at = START + timedelta(seconds=WINDOW_S * NOON)
    contributions = pl.DataFrame(
        {
            "service_name": OPERATION[0],
            "operation": OPERATION[1],
            "time": [at],
            "score": [1.4],
            "latency_p95": [0.2],
            "rate": [0.7],
            "error_ratio": [0.1],
            "saturation": [None],
        }
    )
    card = why.explain(
        scores,
        bounds,
        contributions,
        service=OPERATION[0],
        operation=OPERATION[1],
        signal="together",
        start=at,
        end=at + timedelta(seconds=WINDOW_S),
    )
    assert (card.component, card.mainly, card.shares["rate"]) == ("combination", "rate", 0.7)
    assert "rate makes 70%" in why_card.table([card])["why"][0]


def test_an_episode_of_saturation_alone_has_no_card_and_stops_nothing() -> None:
    scores, bounds = _frames({"latency_p95": [(NOON, NOON + 10, 5.0)]})
    episodes = findings.episodes(scores, WINDOW_S)
    alone = scores.filter(pl.col("signal") == "rate").with_columns(
        operation=pl.lit("GET /quiet"), signal=pl.lit("together"), score=pl.lit(2.0)
    )
    both = findings.episodes(pl.concat([scores, alone]), WINDOW_S)
    assert len(both) == len(episodes) + 1
    cards = why_card.explained(both, scores, bounds, None, count=10)
    assert {card.operation for card in cards} == {OPERATION[1]}


def test_how_often_it_happened_before_and_what_looked_alike() -> None:
    changes: Changes = {
        "latency_p95": [
            (3 * 288 + 150, 3 * 288 + 160, 5.0),
            (6 * 288 + 150, 6 * 288 + 160, 5.0),
            (8 * 288 + 150, 8 * 288 + 151, 5.0),  # a single window is chance
            (NOON, NOON + 10, 5.0),
        ],
        "error_ratio": [(6 * 288 + 150, 6 * 288 + 160, 4.0), (NOON, NOON + 10, 4.0)],
    }
    card = _why(changes, NOON, NOON + 10)
    assert card.before == 2
    assert card.last_before == START + timedelta(days=6, hours=12, minutes=30)
    assert card.days == pytest.approx(10.5)
    # Slow and failing at once: like day 6, not like day 3.
    assert card.alike and all(one.time.day == 7 for one in card.alike)
    text = why_card.table([card])["before"][0]
    assert "As far out 2 times in 10.5 days before, last on 7 Mar 12:30" in text
    other_side = _why({**changes, "latency_p95": [(NOON, NOON + 10, -5.0)]}, NOON, NOON + 10)
    assert other_side.before == 0 and other_side.deviations["latency_p95"] < -1.0


def test_the_hour_before_belongs_to_the_same_occasion() -> None:
    changes: Changes = {"latency_p95": [(NOON - 10, NOON - 6, 5.0), (NOON, NOON + 10, 5.0)]}
    card = _why(changes, NOON, NOON + 10)
    assert card.before == 0 and card.alike == ()
    assert "Never as far out" in why_card.table([card])["before"][0]


def test_the_first_window_of_a_history_can_be_explained() -> None:
    card = _why({"latency_p95": [(0, 3, 5.0)]}, 0, 3)
    assert (card.before, card.alike, card.days) == (0, (), 0.0)


def test_a_time_without_windows_is_refused() -> None:
    with pytest.raises(NotFound, match=r"shop POST /checkout has no scored window between"):
        _why({}, WINDOWS + 5, WINDOWS + 9)


def test_hours_of_the_week_begin_on_sunday() -> None:
    assert why_card.hour_of_week(0) == "Sunday 00:00"
    assert why_card.hour_of_week(6 * 24 + 23) == "Saturday 23:00"


def test_an_episode_of_the_forest_that_says_the_same_again_is_left_out() -> None:
    scores, _ = _frames({"latency_p95": [(NOON, NOON + 10, 5.0)]})
    forest = scores.filter(pl.col("signal") == "latency_p95").with_columns(
        signal=pl.lit("together")
    )
    earlier = pl.col("time") == START + timedelta(seconds=WINDOW_S * NIGHT)
    forest = forest.with_columns(score=pl.when(earlier).then(3.0).otherwise("score"))
    grouped = findings.episodes(pl.concat([scores, forest]), WINDOW_S)
    assert grouped["signal"].to_list().count("together") == 2
    kept = findings.without_repeats(grouped)
    assert kept.select("signal", "start").rows() == [
        ("latency_p95", START + timedelta(seconds=WINDOW_S * NOON)),
        ("together", START + timedelta(seconds=WINDOW_S * NIGHT)),
    ]
