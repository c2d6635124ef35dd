"""Summarise incidents, costs and associations in tables and sentences for notebooks.

In:  the calendar, derived/scores.parquet, frames of `business.costs` and `business.association`.
Out: incidents with their times, tables for reading, sentences.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from apm_analytics.baselines.detection import episodes
from apm_analytics.business import association, costs
from apm_analytics.business.costs import Costs
from apm_analytics.business.specs import Kpi
from apm_analytics.charts import words
from apm_analytics.foundation.settings import BusinessParams
from apm_analytics.lake import Connection
from apm_analytics.signals import Calendar

# An incident affects several series for several windows. In a large fleet, fewer are chance.
MIN_SERIES = 2
MIN_WINDOWS = 3
INCIDENTS: dict[str, type[pl.DataType] | pl.DataType] = {
    "name": pl.String,
    "start": pl.Datetime("us"),
    "end": pl.Datetime("us"),
    "operations": pl.Int64,
    "source": pl.String,  # calendar, detector or by hand
}


def incidents(
    calendar: Calendar, scores: pl.DataFrame | None, *, window_s: int, start: str, end: str
) -> pl.DataFrame:
    """List incidents, latest first: the one given by hand, or those of calendar and detector.

    Parameters
    ----------
    scores : derived/scores.parquet, if there is a trained model.
    window_s : length of its windows, in seconds.
    start, end : ISO times (UTC) of an incident given by hand; empty for none.

    Returns
    -------
    A frame with `INCIDENTS`.
    """
    if start and end:
        row = ("by hand", _moment(start), _moment(end), None, "by hand")
        return pl.DataFrame([row], schema=INCIDENTS, orient="row")
    rows: list[tuple[Any, ...]] = [
        (
            entry.name,
            entry.start.replace(tzinfo=None),
            entry.end.replace(tzinfo=None),
            len(entry.operations) or None,
            "calendar",
        )
        for entry in calendar.entries(kind="incident")
    ]
    known = [(row[1], row[2]) for row in rows]
    for row in _detected(scores, window_s):
        if all(row[2] <= first or row[1] >= last for first, last in known):
            rows.append(row)
    return pl.DataFrame(rows, schema=INCIDENTS, orient="row").sort("start", descending=True)


def related(associations: pl.DataFrame) -> pl.DataFrame:
    """Return the associations for reading, strongest first."""
    kept = associations.filter(pl.col("status") == association.ASSOCIATED)
    return kept.select(
        pl.col("kpi").alias("figure"),
        pl.format(
            "{} when it rises",
            pl.when(pl.col("r") > 0).then(pl.lit("rises")).otherwise(pl.lit("falls")),
        ).alias("the figure"),
        pl.col("metric"),
        (pl.col("lag_s") / 3600).alias("hours later"),
        "r",
        "q",
        "n",
        pl.col("confounders").alias("may stand for"),
    )


def refused(associations: pl.DataFrame) -> pl.DataFrame:
    """Count the pairs that could not be judged, by reason."""
    return (
        associations.filter(pl.col("status") == association.INSUFFICIENT)
        .group_by("reason")
        .agg(pairs=pl.len(), such_as=pl.col("metric").first())
        .sort("pairs", descending=True)
    )


def latest_cost(
    con: Connection,
    known: Mapping[str, Kpi],
    incidents: pl.DataFrame,
    calendar: Calendar,
    params: BusinessParams,
) -> Costs | None:
    """Estimate what the latest of the incidents cost; return None if there is none."""
    if incidents.is_empty() or not any(kpi.additive for kpi in known.values()):
        return None
    latest = incidents.row(0, named=True)
    return costs.of_incident(
        con,
        known,
        latest["start"],
        latest["end"],
        window_s=params.impact_window_s,
        history_days=params.impact_history_days,
        level=params.impact_level,
        calendar=calendar,
    )


def title(cost: Costs | None) -> str:
    """Return start and duration of an incident as its name."""
    if cost is None:
        return "No incident is known"
    lasted = words.span((cost.end - cost.start).total_seconds())
    return f"{words.moment(cost.start.replace(tzinfo=None))} UTC, {lasted}"


def estimated(cost: Costs | None) -> int:
    """Count the KPIs and segments with an estimated loss."""
    return 0 if cost is None else cost.table.filter(pl.col("status") == costs.ESTIMATED).height


def money(cost: Costs | None) -> str:
    """Summarise in one sentence what an incident cost.

    Examples
    --------
    >>> money(cost)  # doctest: +SKIP
    'It cost 310 EUR of revenue (95 % interval 120 to 560), 21 % of the expected value.'
    """
    if cost is None:
        return "There is nothing to estimate."
    whole = cost.table.filter(
        pl.col("segment") == costs.ALL, pl.col("money"), pl.col("status") == costs.ESTIMATED
    )
    if whole.is_empty():
        reasons = cost.table.filter(pl.col("money"), pl.col("segment") == costs.ALL)["reason"]
        reason = reasons[0] if len(reasons) else "no figure of specs/kpis.yaml is money"
        return f"The cost cannot be estimated: {reason}."
    row = whole.row(0, named=True)
    interval = f"{_short(row['loss_lower'])} to {_short(row['loss_upper'])}"
    share = row["loss"] / row["expected"]
    if row["loss_lower"] <= 0:
        return (
            f"The loss of {row['title']} may be chance: {_short(row['loss'])} "
            f"{row['unit']} ({cost.level:.0%} interval {interval})."
        )
    return (
        f"It cost {_short(row['loss'])} {row['unit']} of {row['title']} "
        f"({cost.level:.0%} interval {interval}), {share:.0%} of the expected value."
    )


def placebo(cost: Costs | None) -> str:
    """Summarise the placebos: what the same method estimates for quiet times."""
    if cost is None:
        return "There is no incident to compare with."
    whole = cost.table.filter(pl.col("segment") == costs.ALL, pl.col("status") == costs.ESTIMATED)
    if whole.is_empty():
        return "There is no quiet time to compare with."
    sentences = [
        f"{row['title']}: {row['placebo_p']:.1%} of {words.count(row['placebos'])} quiet periods "
        f"show a loss as large; the mean error is {row['placebo_error']:.0%}"
        for row in whole.iter_rows(named=True)
    ]
    return "; ".join(sentences) + "."


def _detected(scores: pl.DataFrame | None, window_s: int) -> Sequence[tuple[Any, ...]]:
    """Merge lasting episodes that overlap in time."""
    if scores is None or scores.is_empty():
        return []
    lasting = (
        episodes.episodes(scores, window_s)
        .filter(pl.col("windows") >= MIN_WINDOWS, pl.col("signal") != episodes.TOGETHER)
        .sort("start")
    )
    groups: list[dict[str, Any]] = []
    for row in lasting.iter_rows(named=True):
        series = (row["service_name"], row["operation"])
        if groups and row["start"] <= groups[-1]["end"]:
            groups[-1]["end"] = max(groups[-1]["end"], row["end"])
            groups[-1]["operations"].add(series)
            groups[-1]["series"] += 1
        else:
            groups.append(
                {"start": row["start"], "end": row["end"], "operations": {series}, "series": 1}
            )
    return [
        (
            f"{len(group['operations'])} operations out of bounds",
            group["start"],
            group["end"],
            len(group["operations"]),
            "detector",
        )
        for group in groups
        if group["series"] >= MIN_SERIES and group["end"] - group["start"] < timedelta(days=1)
    ]


def _moment(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def _short(value: float) -> str:
    return words.count(round(value)) if abs(value) >= 100 else f"{value:.3g}"
