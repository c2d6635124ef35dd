"""`charts.words`: values in units that fit their size."""

from datetime import datetime

import pytest

from apm_analytics.charts import words


@pytest.mark.parametrize(
    ("amount", "signal", "said"),
    [
        (1.9, "latency_p95", "1.9 s"),
        (0.42, "latency_p95", "0.42 s"),
        (0.042, "latency_p95", "42 ms"),
        (0.000213, "latency_p95", "0.21 ms"),
        (12.345, "latency_p95", "12.3 s"),
        (0.0, "latency_p95", "0 s"),
        (0.125, "error_ratio", "12.5 %"),
        (1.0, "error_ratio", "100 %"),
        (3.2, "rate", "3.2/s"),
        (0.02, "rate", "1.2/min"),
        (0.0, "rate", "0/s"),
        (1234.5, "rate", "1\u202f234/s"),
        (None, "rate", "none"),
        (float("inf"), "latency_p95", "inf s"),
        (7.0, "queue_length", "7"),
    ],
)
def test_a_value_is_said_in_a_unit_that_fits_its_size(
    amount: float | None, signal: str, said: str
) -> None:
    assert words.value(amount, signal) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(300, "5 min"), (2400, "40 min"), (9000, "2.5 h"), (28 * 86_400, "28 days")],
)
def test_a_period_is_said_in_a_unit_that_fits_its_length(seconds: float, said: str) -> None:
    assert words.span(seconds) == said


def test_a_moment_and_a_signal_have_short_names() -> None:
    assert words.moment(datetime(2026, 11, 3, 7, 5)) == "3 Nov 07:05"
    assert words.signal("error_ratio") == "errors" and words.signal("queue") == "queue"
