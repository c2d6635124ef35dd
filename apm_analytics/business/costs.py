"""Estimate what an incident cost: the loss of every additive KPI, in total and by segment.

In:  a lake through `lake.query`, the KPIs, start and end of the incident, the calendar.
Out: a table with expected, actual, loss and interval; the windows of each KPI for a chart. What
     cannot be estimated is "insufficient" with its reason, never a loss of zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import polars as pl

from apm_analytics.business import impact, kpis
from apm_analytics.business.specs import Kpi
from apm_analytics.foundation.errors import ApmError, BadParameter, NotEnoughData, NotFound
from apm_analytics.lake import Connection
from apm_analytics.signals import Calendar
from apm_analytics.signals.calendar import utc

ESTIMATED, INSUFFICIENT = "estimated", "insufficient"
SCHEMA: dict[str, type[pl.DataType]] = {
    "kpi": pl.String,
    "title": pl.String,
    "unit": pl.String,
    "money": pl.Boolean,
    "segment": pl.String,  # "all" for the total
    "status": pl.String,  # estimated, insufficient
    "expected": pl.Float64,
    "actual": pl.Float64,
    "loss": pl.Float64,
    "loss_lower": pl.Float64,
    "loss_upper": pl.Float64,
    "method": pl.String,
    "placebos": pl.Int64,
    "placebo_error": pl.Float64,
    "placebo_p": pl.Float64,
    "reason": pl.String,
}
ALL = "all"
# How long the chart continues after an incident, to show the recovery.
AFTER = timedelta(hours=6)


@dataclass(frozen=True)
class Costs:
    """The costs of one incident; `windows` has `kpi` and the columns of `impact`."""

    start: datetime
    end: datetime
    level: float
    table: pl.DataFrame
    windows: pl.DataFrame


def of_incident(
    con: Connection,
    known: Mapping[str, Kpi],
    start: datetime,
    end: datetime,
    *,
    window_s: int,
    history_days: int,
    level: float,
    calendar: Calendar | None = None,
    control: Sequence[str] = (),
) -> Costs:
    """Estimate the loss of every additive KPI in an incident.

    Parameters
    ----------
    con : from `lake.query.connect`.
    known : KPIs by name; those that are not additive are left out.
    start, end : of the incident; naive times are UTC.
    window_s : length of a window, in seconds.
    history_days : days of history to learn from.
    level : confidence level of the intervals.
    calendar : the other incidents and the maintenance in it are left out of the history.
    control : segments that were not affected.

    Raises
    ------
    BadParameter
        The end is not after the start, or no KPI is additive.

    Examples
    --------
    >>> of_incident(con, kpi_specs.load(Path("specs")), start, end, window_s=300,
    ...             history_days=28, level=0.95).table  # doctest: +SKIP
    """
    start, end = utc(start), utc(end)
    if end <= start:
        raise BadParameter(f"the incident ends at {end}, not after its start {start}; swap them")
    additive = [kpi for kpi in known.values() if kpi.additive]
    if not additive:
        raise BadParameter("no KPI is additive (aggregate sum, increase or count); see kpis.yaml")
    since, until = start - timedelta(days=history_days), end + AFTER
    rows: list[dict[str, object]] = []
    windows: list[pl.DataFrame] = []
    for kpi in additive:
        split = getattr(kpi.source, "segment", None) is not None
        try:
            figures = {ALL: _measured(con, kpi, window_s, since, until, split=False)}
            if split:
                frame = _measured(con, kpi, window_s, since, until, split=True)
                figures |= {str(key[0]): part for key, part in frame.group_by("segment")}
        except ApmError as error:
            rows.append(_row(kpi, ALL, str(error)))
            continue
        spared = [figures[name].sort("time") for name in control if name in figures]
        other = sum((part["value"] for part in spared[1:]), spared[0]["value"]) if spared else None
        for segment in sorted(figures, key=lambda name: (name != ALL, name)):
            figure = figures[segment].sort("time")
            masked = _masked(figure, calendar, start, end, window_s)
            try:
                estimate = impact.of_incident(
                    figure.select("time", "value"),
                    start,
                    end,
                    control=None if segment in control else other,
                    masked=masked,
                    level=level,
                )
            except NotEnoughData as error:
                rows.append(_row(kpi, segment, str(error)))
                continue
            rows.append(_row(kpi, segment, estimate.impact))
            if segment == ALL:
                windows.append(estimate.windows.select(pl.lit(kpi.name).alias("kpi"), pl.all()))
    empty = pl.DataFrame(schema={"kpi": pl.String, "time": pl.Datetime("us")})
    return Costs(
        start,
        end,
        level,
        pl.DataFrame(rows, schema=SCHEMA),
        pl.concat(windows) if windows else empty,
    )


def readable(costs: Costs | None) -> pl.DataFrame:
    """Return the table for reading: rounded, with one column for the interval."""
    if costs is None:
        return pl.DataFrame(schema={"figure": pl.String, "loss": pl.Float64})
    interval = pl.format("{} to {}", pl.col("loss_lower").round(1), pl.col("loss_upper").round(1))
    return costs.table.select(
        pl.format("{} ({})", "title", "unit").alias("figure"),
        "segment",
        pl.col("expected", "actual", "loss").round(1),
        interval.alias(f"{costs.level:.0%} interval"),
        pl.col("placebo_p").round(3).alias("as bad in quiet times"),
        pl.coalesce("reason", "method").alias("how, or why not"),
    )


def _measured(
    con: Connection,
    kpi: Kpi,
    window_s: int,
    since: datetime,
    until: datetime,
    *,
    split: bool,
) -> pl.DataFrame:
    """Measure a KPI in the part of [since, until) that the lake covers."""
    whole = kpis.grid(con, window_s=window_s)
    first = max(since.replace(tzinfo=None), whole["time"][0])
    last = min(until.replace(tzinfo=None), whole["time"][-1] + timedelta(seconds=window_s))
    if last <= first:
        raise NotFound(f"the lake holds nothing between {since} and {until}")
    return kpis.measure(con, kpi, window_s=window_s, since=first, until=last, split=split)


def _masked(
    figure: pl.DataFrame,
    calendar: Calendar | None,
    start: datetime,
    end: datetime,
    window_s: int,
) -> pl.Series:
    """Return which windows overlap other incidents or maintenance."""
    hidden = pl.Series([False] * len(figure))
    for entry in calendar or ():
        itself = entry.kind == "incident" and entry.start < end and entry.end > start
        if itself or entry.kind == "deployment":
            continue
        first = entry.start.replace(tzinfo=None) - timedelta(seconds=window_s)
        last = entry.end.replace(tzinfo=None)
        hidden |= (figure["time"] > first) & (figure["time"] < last)
    return hidden


def _row(kpi: Kpi, segment: str, outcome: impact.Impact | str) -> dict[str, object]:
    row: dict[str, object] = {
        "kpi": kpi.name,
        "title": kpi.title,
        "unit": kpi.unit,
        "money": kpi.money,
        "segment": segment,
    }
    if isinstance(outcome, str):
        return {**row, "status": INSUFFICIENT, "reason": outcome}
    estimate = {name: value for name, value in asdict(outcome).items() if name in SCHEMA}
    return {**row, "status": ESTIMATED, **estimate}
