"""Render the SLA report as one self-contained HTML file without scripts.

In:  reports with their provenance, and the waterfalls of the worst traces.
Out: a page with verdicts, method, completeness, exclusions, violations, provenance, signatures.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import polars as pl
from markupsafe import Markup

from apm_analytics.charts import words
from apm_analytics.foundation.provenance import Provenance
from apm_analytics.report.pages import templates
from apm_analytics.report.pages.templates import ASSETS
from apm_analytics.slo import Objective, Slo, SloReport, tables

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
METHODS = {
    "Occurrences": "good requests among all requests; every request counts",
    "Timeslices": "good time slices among all time slices that had enough requests",
    "RatioTimeslices": "the mean, over the time slices, of the share of good requests",
}
SIGNS = {"lte": "at most", "lt": "below", "gte": "at least", "gt": "above"}


def page(
    reports: list[SloReport],
    provenance: Provenance,
    notes: Mapping[str, list[str]],
    waterfalls: Mapping[str, pl.DataFrame],
    *,
    min_events: int,
) -> bytes:
    """Render the page.

    Parameters
    ----------
    notes : SLO -> sentences that a reader needs beside the figures.
    waterfalls : trace id -> rows of `traces.waterfall.waterfall`, drawn at the end of the page.
    min_events : the fewest requests for a judgement.
    """
    filters: Mapping[str, Callable[..., object]] = {
        "exact": amount,
        "target": target,
        "percent": percent,
        "seconds": words.seconds,
        "count": words.count,
        "measure": measure,
    }
    return (
        templates.template("sla.html.j2", filters)
        .render(
            policy=POLICY,
            style=Markup((ASSETS / "report.css").read_text(encoding="utf-8")),
            made=datetime.now(UTC),
            provenance=provenance,
            reports=reports,
            notes=notes,
            methods=METHODS,
            local=_local,
            waterfalls={trace: _bars(rows) for trace, rows in waterfalls.items()},
            min_events=min_events,
        )
        .encode("utf-8", "replace")
    )


def percent(amount: Decimal | None) -> str:
    """Format a share in percent, rounded down so that it never reaches a missed target.

    Examples
    --------
    >>> percent(Decimal("0.98999")), percent(None)
    ('98.9990 %', 'insufficient')
    """
    if amount is None:
        return "insufficient"
    return f"{(amount * 100).quantize(Decimal('0.0001'), rounding='ROUND_FLOOR'):f} %"


def amount(number: Decimal) -> str:
    """Format a count with thin spaces; weighted counts have at most four decimals.

    Examples
    --------
    >>> amount(Decimal("316.0")), amount(Decimal("0.032979103"))
    ('316', '0.033')
    """
    exactly = Decimal(tables.exact(number.quantize(Decimal("0.0001"))))
    return f"{exactly:,f}".replace(",", words.THIN_SPACE)


def target(share: Decimal) -> str:
    """Format a target in percent, exactly."""
    return f"{tables.exact(share * 100)} %"


def measure(objective: Objective) -> str:
    """Describe in words which requests count as good."""
    indicator = objective.indicator
    total = indicator.total
    if total.transaction is not None:
        what = f"transaction {total.transaction}"
    else:
        operations = ", ".join(total.operations) or "every operation"
        what = f"{total.service}: {operations}"
    if total.where:
        what += " where " + " and ".join(f"{column} is {value}" for column, value in total.where)
    if objective.op is not None:
        quantity = "the duration"
        if total.quantile is not None:
            quantity = f"the {total.quantile * 100:g} % quantile of the duration"
        return f"{what}; {quantity} is {SIGNS[objective.op]} {objective.value:g} s"
    side = indicator.good or indicator.bad or total
    conditions = []
    if side.status is not None:
        conditions.append("with an error" if side.status == "error" else "without an error")
    if side.max_duration_s is not None:
        conditions.append(f"within {side.max_duration_s:g} s")
    return f"{what}; {'good' if indicator.good else 'bad'} is {' and '.join(conditions)}"


def _local(time: datetime, slo: Slo) -> str:
    """Format a time in the contract's zone, with its offset."""
    return f"{time.replace(tzinfo=UTC).astimezone(ZoneInfo(slo.window.zone)):%Y-%m-%d %H:%M %z}"


def _bars(rows: pl.DataFrame) -> list[dict[str, object]]:
    """Compute position and width of the spans in percent of the trace."""
    ends = rows["start_s"] + rows["duration_s"]
    first, last = float(rows["start_s"].min() or 0), float(ends.max() or 0)  # type: ignore[arg-type]
    length = (last - first) or 1.0
    return [
        {
            "depth": row["depth"],
            "name": f"{row['service_name']} · {row['name']}",
            "left": round(100 * (row["start_s"] - first) / length, 2),
            "width": max(round(100 * row["duration_s"] / length, 2), 0.3),
            "duration_s": row["duration_s"],
            "failed": row["status_code"] == "error",
        }
        for row in rows.iter_rows(named=True)
    ]
