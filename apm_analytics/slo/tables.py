"""Lay SLO reports out as frames: budgets, burn rates, exclusions, gaps, restatements, violations.

In:  the `SloReport`s of `slo.report.reports`.
Out: Polars frames, one row per item; times in UTC, ratios as shares of 1.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

import polars as pl

from apm_analytics.slo.budget import Budget
from apm_analytics.slo.report import SloReport

Schema = dict[str, pl.DataType]
TIME, TEXT, NUMBER = pl.Datetime("us"), pl.String(), pl.Float64()
BUDGETS: Schema = {
    "slo": TEXT,
    "objective": TEXT,
    "start": TIME,
    "until": TIME,
    "end": TIME,
    "unit": TEXT,
    "total": NUMBER,
    "bad": NUMBER,
    "target": NUMBER,
    "attainment": NUMBER,
    "verdict": TEXT,
    "budget": NUMBER,
    "budget_left": NUMBER,
    "budget_consumed": NUMBER,
    "excluded": NUMBER,
    "unmeasured": pl.Int64(),
    "reason": TEXT,
}
# Columns whose attribute has another name.
ATTRIBUTES = {
    "budget": "allowed",
    "budget_left": "left",
    "budget_consumed": "consumed",
    "excluded": "excluded_total",
}
BURNS: Schema = {
    "slo": TEXT,
    "objective": TEXT,
    "window": TEXT,
    "requests": NUMBER,
    "error_ratio": NUMBER,  # null where insufficient
    "burn_rate": NUMBER,  # null where insufficient
}
EXCLUSIONS: Schema = {"slo": TEXT, "name": TEXT, "start": TIME, "end": TIME}
GAPS: Schema = {"slo": TEXT, "start": TIME, "end": TIME, "hours": NUMBER}
RESTATEMENTS: Schema = {
    "slo": TEXT,
    "objective": TEXT,
    "stated_at": TIME,
    "until": TIME,
    "total_before": NUMBER,
    "total_now": NUMBER,
    "bad_before": NUMBER,
    "bad_now": NUMBER,
    "run_id": TEXT,
}


def budgets(reports: Iterable[SloReport]) -> pl.DataFrame:
    """Return `BUDGETS`: the counts of every objective and what is left of its budget."""
    return _budgets(budget for report in reports for budget in report.budgets)


def what_if(reports: Iterable[SloReport]) -> pl.DataFrame:
    """Return `BUDGETS` under the alternative targets."""
    return _budgets(budget for report in reports for budget in report.what_if)


def burns(reports: Iterable[SloReport]) -> pl.DataFrame:
    """Return `BURNS`: the burn rate of every objective in each window."""
    return _frame(
        BURNS,
        (
            (burn.slo, burn.objective, burn.window, burn.total, burn.error_ratio, burn.rate)
            for report in reports
            for burn in report.burns
        ),
    )


def exclusions(reports: Iterable[SloReport]) -> pl.DataFrame:
    """Return `EXCLUSIONS`: the maintenance that each SLO leaves out."""
    return _frame(
        EXCLUSIONS,
        (
            (report.slo.name, entry.name, entry.start, entry.end)
            for report in reports
            for entry in report.maintenance
        ),
    )


def gaps(reports: Iterable[SloReport]) -> pl.DataFrame:
    """Return `GAPS`: where telemetry is missing."""
    return _frame(
        GAPS,
        (
            (report.slo.name, began, ended, (ended - began).total_seconds() / 3_600)
            for report in reports
            for began, ended in report.completeness.gaps
        ),
    )


def restatements(reports: Iterable[SloReport]) -> pl.DataFrame:
    """Return `RESTATEMENTS`: what late data changed in earlier statements."""
    return _frame(
        RESTATEMENTS,
        (_values(change, RESTATEMENTS) for report in reports for change in report.restatements),
    )


def violations(reports: Sequence[SloReport]) -> pl.DataFrame:
    """Return the worst bad requests of all SLOs with their traces, in one frame."""
    if not reports:
        return pl.DataFrame()
    return pl.concat(
        report.violations.select(pl.lit(report.slo.name).alias("slo"), pl.all())
        for report in reports
    )


def stated(reports: Iterable[SloReport]) -> list[Budget]:
    """Return the budgets of calendar periods, which go into the ledger.

    A rolling window is stated only when it is complete, because it moves on.
    """
    return [
        budget
        for report in reports
        if report.slo.window.start is not None or report.until == report.end
        for budget in report.budgets
    ]


def exact(amount: Decimal) -> str:
    """Format a number with as few digits as keep it exact.

    Examples
    --------
    >>> exact(Decimal("25316.000")), exact(Decimal("0E+2"))
    ('25316', '0')
    """
    text = f"{amount:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def _budgets(budgets: Iterable[Budget]) -> pl.DataFrame:
    return _frame(BUDGETS, (_values(budget, BUDGETS) for budget in budgets))


def _values(item: object, schema: Schema) -> tuple[object, ...]:
    return tuple(getattr(item, ATTRIBUTES.get(column, column)) for column in schema)


def _frame(schema: Schema, rows: Iterable[tuple[object, ...]]) -> pl.DataFrame:
    plain = [[_plain(value) for value in row] for row in rows]
    return pl.DataFrame(plain, schema=schema, orient="row")


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value
