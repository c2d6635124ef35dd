"""Lay SLO reports out as frames: budgets, burn rates, exclusions, gaps, restatements, violations.

In:  what `slo_report.reports` gave.
Out: Polars frames, one row a thing; times in UTC, ratios as shares of 1.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal

import polars as pl

from apm_analytics.slo.budget import Budget
from apm_analytics.slo.report import SloReport

TIME = pl.Datetime("us")
BUDGETS: dict[str, pl.DataType] = {
    "slo": pl.String(),
    "objective": pl.String(),
    "start": TIME,
    "until": TIME,
    "end": TIME,
    "unit": pl.String(),
    "total": pl.Float64(),
    "bad": pl.Float64(),
    "target": pl.Float64(),
    "attainment": pl.Float64(),
    "verdict": pl.String(),
    "budget": pl.Float64(),
    "budget_left": pl.Float64(),
    "budget_consumed": pl.Float64(),
    "excluded": pl.Float64(),
    "unmeasured": pl.Int64(),
    "reason": pl.String(),
}


def budgets(reports: Iterable[SloReport]) -> pl.DataFrame:
    """Give `BUDGETS`: every objective, its counts and what is left of its budget."""
    return _budgets(one for report in reports for one in report.budgets)


def what_if(reports: Iterable[SloReport]) -> pl.DataFrame:
    """Give `BUDGETS` for the targets that were asked for instead."""
    return _budgets(one for report in reports for one in report.what_if)


def burns(reports: Iterable[SloReport]) -> pl.DataFrame:
    """Give slo, objective, window, requests, error_ratio, burn_rate; null where insufficient."""
    return pl.DataFrame(
        [
            {
                "slo": one.slo,
                "objective": one.objective,
                "window": one.window,
                "requests": float(one.total),
                "error_ratio": _number(one.error_ratio),
                "burn_rate": _number(one.rate),
            }
            for report in reports
            for one in report.burns
        ],
        schema={
            "slo": pl.String,
            "objective": pl.String,
            "window": pl.String,
            "requests": pl.Float64,
            "error_ratio": pl.Float64,
            "burn_rate": pl.Float64,
        },
    )


def exclusions(reports: Iterable[SloReport]) -> pl.DataFrame:
    """Give the maintenance that each SLO leaves out: slo, name, start, end."""
    return pl.DataFrame(
        [
            {
                "slo": report.slo.name,
                "name": entry.name,
                "start": entry.start.replace(tzinfo=None),
                "end": entry.end.replace(tzinfo=None),
            }
            for report in reports
            for entry in report.maintenance
        ],
        schema={"slo": pl.String, "name": pl.String, "start": TIME, "end": TIME},
    )


def gaps(reports: Iterable[SloReport]) -> pl.DataFrame:
    """Give where the data are missing: slo, start, end, hours."""
    return pl.DataFrame(
        [
            {
                "slo": report.slo.name,
                "start": began,
                "end": ended,
                "hours": (ended - began).total_seconds() / 3_600,
            }
            for report in reports
            for began, ended in report.completeness.gaps
        ],
        schema={"slo": pl.String, "start": TIME, "end": TIME, "hours": pl.Float64},
    )


def restatements(reports: Iterable[SloReport]) -> pl.DataFrame:
    """Give what late data changed in earlier statements."""
    return pl.DataFrame(
        [
            {
                "slo": one.slo,
                "objective": one.objective,
                "stated_at": one.stated_at.replace(tzinfo=None),
                "until": one.until,
                "total_before": float(one.total_before),
                "total_now": float(one.total_now),
                "bad_before": float(one.bad_before),
                "bad_now": float(one.bad_now),
                "run_id": one.run_id,
            }
            for report in reports
            for one in report.restatements
        ],
        schema={
            "slo": pl.String,
            "objective": pl.String,
            "stated_at": TIME,
            "until": TIME,
            "total_before": pl.Float64,
            "total_now": pl.Float64,
            "bad_before": pl.Float64,
            "bad_now": pl.Float64,
            "run_id": pl.String,
        },
    )


def violations(reports: Sequence[SloReport]) -> pl.DataFrame:
    """Give the worst bad requests with their traces, one frame for all SLOs."""
    if not reports:
        return pl.DataFrame()
    return pl.concat(
        report.violations.select(pl.lit(report.slo.name).alias("slo"), pl.all())
        for report in reports
    )


def stated(reports: Iterable[SloReport]) -> list[Budget]:
    """Give the budgets of calendar periods: what a contract keeps. Rolling windows move on."""
    return [
        one
        for report in reports
        if report.slo.window.start is not None or report.until == report.end
        for one in report.budgets
    ]


def exact(amount: Decimal) -> str:
    """Write a number out, as short as it is exact.

    Examples
    --------
    >>> exact(Decimal("25316.000")), exact(Decimal("0E+2"))
    ('25316', '0')
    """
    text = f"{amount:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def _budgets(found: Iterable[Budget]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "slo": one.slo,
                "objective": one.objective,
                "start": one.start,
                "until": one.until,
                "end": one.end,
                "unit": one.unit,
                "total": float(one.total),
                "bad": float(one.bad),
                "target": float(one.target),
                "attainment": _number(one.attainment),
                "verdict": one.verdict,
                "budget": float(one.allowed),
                "budget_left": _number(one.left),
                "budget_consumed": _number(one.consumed),
                "excluded": float(one.excluded_total),
                "unmeasured": one.unmeasured,
                "reason": one.reason,
            }
            for one in found
        ],
        schema=BUDGETS,
    )


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)
