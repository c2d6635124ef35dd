"""`business.executive`: three sentences that agree with the figures or state what is missing."""

from datetime import datetime, timedelta

import polars as pl
import pytest

from apm_analytics.business import charts as business_plots
from apm_analytics.business import executive
from apm_analytics.business.kpis import Measured
from apm_analytics.business.specs import Kpi
from apm_analytics.slo import tables as slo_tables

START = datetime(2026, 3, 2)


def scores(unusual: int) -> pl.DataFrame:
    """Two days of three operations; the last `unusual` windows of the first are out of bounds."""
    rows = [
        {
            "service_name": "shop",
            "operation": operation,
            "signal": "latency_p95",
            "time": START + timedelta(minutes=5 * window),
            "value": 2.0,
            "expected": 0.4,
            "lower": 0.0,
            "upper": 0.6,
            "score": 4.0 if operation == "GET /" and window >= 576 - unusual else 0.5,
            "model": "prophet",
        }
        for operation in ("GET /", "GET /a", "GET /b")
        for window in range(576)
    ]
    return pl.DataFrame(rows)


def measured(days: int, daily: float = 100.0, growth: float = 0.0) -> Measured:
    """Hourly revenue that grows by `growth` per week, and a share."""
    source = {"kind": "metric", "name": "x", "aggregate": "sum"}
    fields = {"title": "revenue", "unit": "EUR", "better": "up"}
    revenue = Kpi.model_validate({"name": "revenue", "money": True, "source": source, **fields})
    share = Kpi.model_validate(
        {"name": "left", **fields, "title": "left carts", "unit": "1", "better": "down",
         "source": {**source, "aggregate": "mean"}}
    )  # fmt: skip
    count = days * 24
    return Measured(
        pl.DataFrame(
            {
                "time": [START + timedelta(hours=hour) for hour in range(count)],
                "revenue": [daily / 24 * (1 + growth) ** (hour // 168) for hour in range(count)],
                "left": [0.5 if hour < count - 168 else 0.6 for hour in range(count)],
            }
        ),
        {"revenue": revenue, "left": share},
    )


def budgets(*consumed: float | None) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"slo": f"slo-{number}", "objective": "fast", "target": 0.99, "budget_consumed": one}
            for number, one in enumerate(consumed)
        ],
        schema=slo_tables.BUDGETS,
    )


def test_health_counts_operations_and_names_the_furthest() -> None:
    assert executive.health(scores(0), window_s=300) == (
        "Health: 3 of 3 operations stayed within their bounds in the last day of the data."
    )
    sentence = executive.health(scores(6), window_s=300)
    assert sentence.startswith("Health: 2 of 3 operations")
    assert "furthest outside was shop GET /: p95 2 s, expected 0.4 s" in sentence
    assert "no model is trained yet" in executive.health(None, window_s=300)


def test_the_budget_names_what_is_overspent_and_what_cannot_be_measured() -> None:
    assert "all 2 objectives are within" in executive.budget(budgets(0.2, 0.7))
    assert "slo-1 (fast) has spent most of it, 70%" in executive.budget(budgets(0.2, 0.7))
    sentence = executive.budget(budgets(0.2, 1.3, None))
    assert (
        "1 of 2 objectives have overspent" in sentence
        and "slo-1 (fast) has spent most, 130%" in sentence
    )
    assert "1 cannot be measured" in sentence
    assert "no objective can be measured" in executive.budget(budgets(None))


def test_money_compares_whole_weeks_or_says_that_it_cannot() -> None:
    sentence = executive.money(measured(14, growth=0.1), None)
    assert sentence == (
        "Money: 770 EUR of revenue in the last seven days of the data, 10% more than in the seven "
        "days before; no incident is known."
    )
    assert "less than" in executive.money(measured(14, growth=-0.1), None)
    assert "before;" not in executive.money(measured(10), None)
    assert "do not cover seven days of revenue" in executive.money(measured(5), None)
    nothing = Measured(measured(5).values, {})
    assert "no KPI with `money`" in executive.money(nothing, None)


def test_a_change_is_good_or_bad_by_which_way_is_better() -> None:
    rows = {row["kpi"]: row for row in executive.periods(measured(14)).iter_rows(named=True)}
    assert rows["revenue"]["change"] == pytest.approx(0) and rows["revenue"]["good"]
    assert rows["left"]["change"] == pytest.approx(0.2) and rows["left"]["good"] is False
    assert executive.periods(measured(10))["change"].null_count() == 2


def test_budgets_are_drawn_where_there_are_any() -> None:
    assert len(business_plots.budgets(budgets(0.2, 1.3)).to_dict()["layer"]) == 2
    assert "mark" in business_plots.budgets(budgets(None)).to_dict()
