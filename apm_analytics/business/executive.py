"""Three sentences for those who read nothing else: health, budget, money.

In:  derived/scores.parquet, the budgets of the SLOs, the business figures, the latest cost.
Out: sentences made of the figures, and the frames that the page draws.
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
    "good": pl.Boolean,  # null where nothing can be compared
}


def health(scores: pl.DataFrame | None, *, window_s: int) -> str:
    """Say how many operations kept to what is normal in the last day of the data.

    Parameters
    ----------
    scores : derived/scores.parquet, where something was trained.
    window_s : length of its windows, in seconds.
    """
    if scores is None or scores.is_empty():
        return "Health: nothing is learned yet, so nothing can be called unusual."
    end = episodes.end_of(scores, window_s)
    assert end is not None  # a frame with rows has an end
    lasting = episodes.episodes(scores, window_s).filter(
        pl.col("windows") >= episodes.LASTING_WINDOWS, pl.col("end") > end - RECENT
    )
    watched = scores.select(episodes.OPERATION).n_unique()
    unusual = lasting.select(episodes.OPERATION).n_unique()
    said = (
        f"Health: {watched - unusual} of {watched} operations kept to what is normal in the "
        "last day of the data"
    )
    own = lasting.filter(pl.col("signal") != episodes.TOGETHER)
    if own.is_empty():
        return f"{said}."
    worst = own.row(0, named=True)
    return (
        f"{said}; furthest from it was {worst['service_name']} {worst['operation']}: "
        f"{episodes.sentence(worst, end)}."
    )


def budget(budgets: pl.DataFrame) -> str:
    """Say which objectives have spent their error budget.

    Parameters
    ----------
    budgets : of `slo.tables.budgets`.
    """
    measured = budgets.filter(pl.col("budget_consumed").is_not_null())
    unsaid = budgets.height - measured.height
    left_out = f"; {unsaid} cannot be measured" if unsaid else ""
    if measured.is_empty():
        return f"Budget: no objective can be measured in this lake ({unsaid} are named)."
    spent = measured.filter(pl.col("budget_consumed") > 1).sort("budget_consumed", descending=True)
    if spent.is_empty():
        most = measured.sort("budget_consumed", descending=True).row(0, named=True)
        return (
            f"Budget: all {measured.height} objectives are within their error budget; most is "
            f"spent of {most['slo']} ({most['objective']}), "
            f"{most['budget_consumed']:.0%}{left_out}."
        )
    worst = spent.row(0, named=True)
    return (
        f"Budget: {spent.height} of {measured.height} objectives have overspent their error "
        f"budget, most of all {worst['slo']} ({worst['objective']}) with "
        f"{worst['budget_consumed']:.0%} of it{left_out}."
    )


def money(measured: Measured, cost: Costs | None) -> str:
    """Say what came in over the last seven days of the data, and what the latest incident cost."""
    rows = periods(measured)
    earning = [name for name, kpi in measured.kpis.items() if kpi.money]
    said = "Money: no figure of specs/kpis.yaml that is money is in this lake"
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
            said = f"Money: the data hold no seven days of {row['figure']}"
        else:
            said = (
                f"Money: {words.count(round(amount))} {row['unit']} of {row['figure']} in the "
                f"last seven days of the data{change}"
            )
    if cost is None:
        return f"{said}; no incident is known."
    told = summary.money(cost)
    return f"{said}. The latest incident, {summary.title(cost)}: {told[0].lower()}{told[1:]}"


def periods(measured: Measured) -> pl.DataFrame:
    """Compare the last seven days of every figure with the seven before.

    Returns
    -------
    A frame with `PERIODS`: sums of what adds up, means of the rest; null where a period is not
    wholly in the data. `change` is a share of the earlier period.
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
    own = values.filter(pl.col("time") >= start, pl.col("time") < end)[name].drop_nulls()
    if start < first or own.is_empty():
        return None
    found: float = own.sum() if kpi.additive else own.mean()  # type: ignore[assignment]
    return float(found)


def sentences(
    scores: pl.DataFrame | None,
    budgets: pl.DataFrame,
    measured: Measured,
    cost: Costs | None,
    *,
    window_s: int,
) -> tuple[str, str, str]:
    """Give the three sentences."""
    return health(scores, window_s=window_s), budget(budgets), money(measured, cost)
