"""Summarise health, error budgets and money in one sentence each, for executives.

In:  derived/scores.parquet, the budgets of the SLOs, the KPIs, the cost of the latest incident.
Out: three sentences, and a comparison of the last seven days with the seven before.
"""

from datetime import datetime, timedelta

import polars as pl

from apm_analytics.baselines.detection import episodes
from apm_analytics.business import summary
from apm_analytics.business.costs import Costs
from apm_analytics.business.kpis import Measured
from apm_analytics.business.specs import Kpi
from apm_analytics.charts import words

RECENT = timedelta(days=1)
PERIOD = timedelta(days=7)
PERIODS: dict[str, type[pl.DataType]] = {
    "kpi": pl.String,
    "figure": pl.String,
    "unit": pl.String,
    "last_7_days": pl.Float64,
    "7_days_before": pl.Float64,
    "change": pl.Float64,
    "good": pl.Boolean,  # null without a comparison
}


def health(scores: pl.DataFrame | None, *, window_s: int) -> str:
    """Summarise how many operations stayed within their bounds in the last day of the data.

    Parameters
    ----------
    scores : derived/scores.parquet, if there is a trained model.
    window_s : length of its windows, in seconds.
    """
    if scores is None or scores.is_empty():
        return "Health: no model is trained yet, so nothing can be called unusual."
    end = episodes.end_of(scores, window_s)
    assert end is not None  # a frame with rows has an end
    lasting = episodes.episodes(scores, window_s).filter(
        pl.col("windows") >= episodes.LASTING_WINDOWS, pl.col("end") > end - RECENT
    )
    watched = scores.select(episodes.OPERATION).n_unique()
    unusual = lasting.select(episodes.OPERATION).n_unique()
    sentence = (
        f"Health: {watched - unusual} of {watched} operations stayed within their bounds in the "
        "last day of the data"
    )
    single = lasting.filter(pl.col("signal") != episodes.TOGETHER)
    if single.is_empty():
        return f"{sentence}."
    worst = single.row(0, named=True)
    return (
        f"{sentence}; furthest outside was {worst['service_name']} {worst['operation']}: "
        f"{episodes.sentence(worst, end)}."
    )


def budget(budgets: pl.DataFrame) -> str:
    """Summarise which objectives have overspent their error budget.

    Parameters
    ----------
    budgets : from `slo.tables.budgets`.
    """
    measured = budgets.filter(pl.col("budget_consumed").is_not_null())
    unmeasured = budgets.height - measured.height
    left_out = f"; {unmeasured} cannot be measured" if unmeasured else ""
    if measured.is_empty():
        return f"Budget: no objective can be measured in this lake ({unmeasured} are defined)."
    spent = measured.filter(pl.col("budget_consumed") > 1).sort("budget_consumed", descending=True)
    if spent.is_empty():
        most = measured.sort("budget_consumed", descending=True).row(0, named=True)
        return (
            f"Budget: all {measured.height} objectives are within their error budget; "
            f"{most['slo']} ({most['objective']}) has spent most of it, "
            f"{most['budget_consumed']:.0%}{left_out}."
        )
    worst = spent.row(0, named=True)
    return (
        f"Budget: {spent.height} of {measured.height} objectives have overspent their error "
        f"budget; {worst['slo']} ({worst['objective']}) has spent most, "
        f"{worst['budget_consumed']:.0%}{left_out}."
    )


def money(measured: Measured, cost: Costs | None) -> str:
    """Summarise the earnings of the last seven days and the cost of the latest incident."""
    rows = periods(measured)
    earning = [name for name, kpi in measured.kpis.items() if kpi.money]
    sentence = "Money: this lake has no KPI with `money` in specs/kpis.yaml"
    if earning:
        row = rows.filter(kpi=earning[0]).row(0, named=True)
        change = ""
        if row["change"] is not None:
            change = (
                f", {abs(row['change']):.0%} {'more' if row['change'] >= 0 else 'less'} than "
                "in the seven days before"
            )
        amount = row["last_7_days"]
        if amount is None:
            sentence = f"Money: the data do not cover seven days of {row['figure']}"
        else:
            sentence = (
                f"Money: {words.count(round(amount))} {row['unit']} of {row['figure']} in the "
                f"last seven days of the data{change}"
            )
    if cost is None:
        return f"{sentence}; no incident is known."
    loss = summary.money(cost)
    return f"{sentence}. The latest incident, {summary.title(cost)}: {loss[0].lower()}{loss[1:]}"


def periods(measured: Measured) -> pl.DataFrame:
    """Compare the last seven days of every KPI with the seven before.

    Returns
    -------
    A frame with `PERIODS`: sums of additive KPIs, means of the others; null where the data do not
    cover a period. `change` is a share of the earlier period.
    """
    if not measured.kpis:
        return pl.DataFrame(schema=PERIODS)
    times = measured.values["time"]
    step = times[1] - times[0] if len(times) > 1 else PERIOD
    end = times[-1] + step
    rows = []
    for name, kpi in measured.kpis.items():
        now, before = (
            _period(measured.values, name, kpi, times[0], end - back * PERIOD) for back in (0, 1)
        )
        change = now / before - 1 if now is not None and before else None
        rows.append(
            {
                "kpi": name,
                "figure": kpi.title,
                "unit": kpi.unit,
                "last_7_days": now,
                "7_days_before": before,
                "change": change,
                "good": None if change is None else (change >= 0) == (kpi.better == "up"),
            }
        )
    return pl.DataFrame(rows, schema=PERIODS)


def _period(
    values: pl.DataFrame, name: str, kpi: Kpi, first: datetime, end: datetime
) -> float | None:
    start = end - PERIOD
    known = values.filter(pl.col("time") >= start, pl.col("time") < end)[name].drop_nulls()
    if start < first or known.is_empty():
        return None
    value: float = known.sum() if kpi.additive else known.mean()  # type: ignore[assignment]
    return float(value)


def sentences(
    scores: pl.DataFrame | None,
    budgets: pl.DataFrame,
    measured: Measured,
    cost: Costs | None,
    *,
    window_s: int,
) -> tuple[str, str, str]:
    """Return the three sentences."""
    return health(scores, window_s=window_s), budget(budgets), money(measured, cost)
