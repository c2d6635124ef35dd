from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from apm_analytics.baselines.detection import episodes

START = datetime(2026, 3, 2)
WINDOW_S = 300


def scores(series: dict[tuple[str, str], list[float | None]]) -> pl.DataFrame:
    """One row per window; a score above 1 has a value above its upper bound."""
    return pl.DataFrame(
        [
            {
                "service_name": "shop",
                "operation": operation,
                "signal": signal,
                "time": START + timedelta(seconds=WINDOW_S * number),
                "value": None if score is None or signal == "together" else 0.1 + 0.3 * score,
                "expected": None if signal == "together" else 0.1,
                "lower": None if signal == "together" else 0.0,
                "upper": None if signal == "together" else 0.4,
                "score": score,
                "model": "robust",
            }
            for (operation, signal), values in series.items()
            for number, score in enumerate(values)
        ],
        schema_overrides={
            "time": pl.Datetime("us"),
            **dict.fromkeys(("value", "expected", "lower", "upper", "score"), pl.Float64),
        },
    )


def now(frame: pl.DataFrame, **options: Any) -> list[dict[str, Any]]:
    return episodes.anomalous_now(frame, window_s=WINDOW_S, recent_s=3600, **options).to_dicts()


def test_windows_in_a_row_are_one_episode_and_a_quiet_one_does_not_end_it() -> None:
    frame = scores({("GET /", "latency_p95"): [0.1, 2, 3, 0.5, 4, 0.2, 0.2, 2]})
    grouped = episodes.episodes(frame, WINDOW_S).sort("start").to_dicts()
    assert [(e["windows"], e["score"]) for e in grouped] == [(3, 4.0), (1, 2.0)]
    assert grouped[0]["start"] == START + timedelta(minutes=5)
    assert grouped[0]["end"] == START + timedelta(minutes=25)


def test_what_was_outside_longest_ago_is_not_now() -> None:
    quiet: list[float | None] = [0.1] * 13
    frame = scores({("GET /", "rate"): [3.0, 3.0, *quiet], ("GET /b", "rate"): [*quiet, 2.0, 2.0]})
    assert [row["operation"] for row in now(frame)] == ["GET /b"]


def test_a_single_window_is_brief_and_stands_last() -> None:
    frame = scores({("GET /", "rate"): [0, 0, 0, 9.0], ("GET /b", "rate"): [0, 0, 1.5, 1.5]})
    assert [(row["operation"], row["lasting"]) for row in now(frame)] == [
        ("GET /b", True),
        ("GET /", False),
    ]


def test_the_forest_speaks_only_where_no_signal_does() -> None:
    frame = scores(
        {
            ("GET /", "rate"): [0, 0, 2, 2],
            ("GET /", "together"): [0, 0, 3, 3],
            ("GET /b", "rate"): [0, 0, 0, 0],
            ("GET /b", "together"): [0, 0, 3, 3],
        }
    )
    assert {(row["operation"], row["signal"]) for row in now(frame)} == {
        ("GET /", "rate"),
        ("GET /b", "together"),
    }


def test_the_forest_names_the_signal_that_moved_most() -> None:
    frame = scores({("GET /", "together"): [0, 0, 3, 3]})
    contributions = frame.filter(pl.col("score") > 1).select(
        "service_name",
        "operation",
        "time",
        "score",
        latency_p95=pl.lit(0.1),
        rate=pl.lit(0.7),
        error_ratio=pl.lit(None, pl.Float64),
    )
    (row,) = now(frame, contributions=contributions)
    assert episodes.sentence(row) == "unusual as a whole, mainly its rate (score 3.0) for 10 min"


def test_a_sentence_says_value_expectation_bound_and_how_long() -> None:
    frame = scores({("GET /", "latency_p95"): [2.0] * 8})
    (row,) = now(frame)
    end = episodes.end_of(frame, WINDOW_S)
    assert episodes.sentence(row, end) == "p95 0.7 s, expected 0.1 s (upper 0.4 s) for 40 min"


def test_a_sentence_says_until_when_something_lasted_that_is_over() -> None:
    frame = scores({("GET /", "rate"): [2.0, 2.0, 0.1, 0.1]})
    (row,) = now(frame)
    sentence = episodes.sentence(row, episodes.end_of(frame, WINDOW_S))
    assert sentence.endswith("for 10 min until 2 Mar 00:10")


def test_a_value_below_its_lower_bound_names_that_bound() -> None:
    row = {
        "signal": "rate", "start": START, "end": START + timedelta(hours=2), "value": 0.5,
        "expected": 4.0, "lower": 2.0, "upper": 6.0, "score": 1.7,
    }  # fmt: skip
    assert episodes.sentence(row) == "rate 0.5/s, expected 4/s (lower 2/s) for 2 h"


def test_single_windows_are_calmed_and_lasting_ones_kept() -> None:
    values: list[float | None] = [0.1, 5.0, 0.1, 0.1, 3.0, 0.2, 2.0, None, 0.1, 0.1, 4.0]
    frame = scores({("GET /", "rate"): values, ("GET /b", "rate"): [2.0, 2.0]})
    calm = episodes.without_single_windows(frame, WINDOW_S)
    assert calm.columns == frame.columns
    assert calm["score"].to_list() == [
        0.1, 1.0, 0.1, 0.1, 3.0, 0.2, 2.0, None, 0.1, 0.1, 1.0, 2.0, 2.0
    ]  # fmt: skip


def test_without_windows_nothing_is_anomalous() -> None:
    empty = scores({("GET /", "rate"): [0.1]}).clear()
    assert now(empty) == []
    assert episodes.why(episodes.episodes(empty, WINDOW_S)).height == 0
    quiet = scores({("GET /", "rate"): [0.1, None, 0.2]})
    assert now(quiet) == []


@pytest.mark.parametrize(
    ("days", "requests", "errors", "expected"),
    [
        (3, {0: 5, 1: 5, 2: 5}, {}, "same"),
        (3, {2: 5}, {}, "new"),
        (3, {0: 5, 1: 5}, {}, "gone"),
        (3, {0: 5}, {}, "same"),  # gone before yesterday already
        (3, {0: 5, 1: 5, 2: 5}, {2: 2}, "errors"),
        (3, {0: 5, 1: 5, 2: 5}, {0: 1, 2: 2}, "same"),
        (1, {0: 5}, {}, "short"),
    ],
)
def test_the_last_day_is_compared_with_the_days_before(
    days: int, requests: dict[int, int], errors: dict[int, int], expected: str
) -> None:
    windows = [START + timedelta(hours=hour) for hour in range(24 * days)]
    frame = pl.DataFrame(
        {
            "service_name": ["shop"] * len(windows) * 2,
            "operation": ["always"] * len(windows) + ["GET /"] * len(windows),
            "time": windows * 2,
            "count": [9] * len(windows) + [requests.get(n // 24, 0) for n in range(len(windows))],
            "error_count": [0] * len(windows)
            + [errors.get(n // 24, 0) if n % 24 == 0 else 0 for n in range(len(windows))],
        }
    )
    changed = episodes.changed(frame)
    assert changed.comparable is (expected != "short")
    assert changed.new == ([("shop", "GET /")] if expected == "new" else [])
    assert changed.gone == ([("shop", "GET /")] if expected == "gone" else [])
    assert changed.new_errors == ([("shop", "GET /", 2)] if expected == "errors" else [])
