"""Reckon error budgets and burn rates from counted minutes.

In:  the minutes of `slo_events`, an objective, its period and the moment it is seen from.
Out: one `Budget` an objective, and its burn rate in each of Sloth's windows.

Counts are exact; the budget is (1 - target) of what was measured: events, or time slices.
What cannot be judged is "insufficient" and says why; it never counts as zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

import polars as pl

from apm_analytics.slo.events import OPERATORS
from apm_analytics.slo.model import Objective, Slo, duration_minutes

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")  # Sloth's
MET, MISSED, INSUFFICIENT = "met", "missed", "insufficient"


@dataclass(frozen=True)
class Limits:
    """With fewer requests in a period or burn window, or in a time slice, nothing is said."""

    events: int
    slice_events: int


@dataclass(frozen=True)
class Budget:
    """What an objective promised, what came of it, and what is left. Times are UTC."""

    slo: str
    objective: str
    start: datetime
    until: datetime  # measured up to here, not included
    end: datetime  # of the period
    target: Decimal
    unit: str  # requests, or slices of 15 min
    total: Decimal
    bad: Decimal
    excluded_total: Decimal  # in maintenance
    excluded_bad: Decimal
    unmeasured: int = 0  # slices without enough requests
    weight: Decimal = Decimal(1)
    reason: str = ""  # why it is insufficient

    @property
    def verdict(self) -> str:
        """met, missed or insufficient."""
        if self.reason:
            return INSUFFICIENT
        return MET if self.bad <= self.allowed else MISSED

    @property
    def attainment(self) -> Decimal | None:
        """The share of good ones; None when it is insufficient."""
        return None if self.reason else 1 - self.bad / self.total

    @property
    def allowed(self) -> Decimal:
        """How many may be bad."""
        return (1 - self.target) * self.total

    @property
    def left(self) -> Decimal | None:
        """How many more may be bad; below zero when the budget is overspent."""
        return None if self.reason else self.allowed - self.bad

    @property
    def consumed(self) -> Decimal | None:
        """The share of the budget that is spent."""
        return None if self.reason else self.bad / self.allowed

    def what_if(self, target: Decimal) -> "Budget":
        """Give the same measurement under another target."""
        return replace(self, target=target)


@dataclass(frozen=True)
class Burn:
    """How fast the budget burns in a window; 1 spends it exactly in the period."""

    slo: str
    objective: str
    window: str
    total: Decimal
    error_ratio: Decimal | None  # None: too few to judge by
    rate: Decimal | None


def budget(
    slo: Slo,
    objective: Objective,
    minutes: pl.DataFrame,
    *,
    start: datetime,
    until: datetime,
    end: datetime,
    limits: Limits,
    slices: pl.DataFrame | None = None,
) -> Budget:
    """Reckon one objective over [start, until).

    Parameters
    ----------
    minutes : of `slo_events.count_minutes`.
    start, until, end : the period's start, the last minute seen, the period's end.
    limits : with how few requests nothing is said.
    slices : of `slo_events.slice_quantiles`, for an objective with a quantile.

    Returns
    -------
    The budget. With time slices its total and bad count whole slices; slices with too few
    requests are left out and counted in `unmeasured`.
    """
    own = _between(minutes, start, until)
    found = Budget(
        slo=slo.name,
        objective=objective.name,
        start=start,
        until=until,
        end=end,
        target=objective.target,
        unit="requests",
        total=Decimal(own["total"].sum()),
        bad=Decimal(own["bad"].sum()),
        excluded_total=Decimal(own["excluded_total"].sum()),
        excluded_bad=Decimal(own["excluded_bad"].sum()),
        weight=objective.weight,
    )
    if not objective.slice_min:
        return replace(found, reason=_too_few(found.total, limits.events))
    measured = _slices(slo, objective, minutes, slices, start, until, limits)
    whole = int((until - start) // timedelta(minutes=objective.slice_min))
    none = f"no time slice has {limits.slice_events} requests or more"
    return replace(
        found,
        unit=f"slices of {objective.slice_min} min",
        total=Decimal(measured.height),
        bad=sum((Decimal(bad) for bad in measured["bad"].to_list()), Decimal(0)),
        unmeasured=whole - measured.height,
        reason="" if measured.height else none,
    )


def composite(slo: Slo, budgets: Sequence[Budget]) -> Budget:
    """Put the steps of a journey together by their weights.

    The error ratio is the weighted mean of the steps' error ratios, the target that of their
    targets; `total` is all weights together. One step that is insufficient makes it so.
    """
    weights = sum((one.weight for one in budgets), Decimal(0))
    target = sum((one.weight * one.target for one in budgets), Decimal(0)) / weights
    reason = "; ".join(f"{one.objective}: {one.reason}" for one in budgets if one.reason)
    bad = sum((one.weight * one.bad / one.total for one in budgets if one.total), Decimal(0))
    return replace(
        budgets[0],
        objective=f"{slo.title}, all steps",
        target=target,
        unit="weighted steps",
        total=weights,
        bad=bad,
        excluded_total=sum((one.excluded_total for one in budgets), Decimal(0)),
        excluded_bad=sum((one.excluded_bad for one in budgets), Decimal(0)),
        unmeasured=sum(one.unmeasured for one in budgets),
        weight=weights,
        reason=reason,
    )


def burns(
    slo: Slo,
    objective: Objective,
    minutes: pl.DataFrame,
    *,
    at: datetime,
    first: datetime,
    limits: Limits,
    slices: pl.DataFrame | None = None,
    slices_start: datetime | None = None,
) -> list[Burn]:
    """Give the burn rate of each of Sloth's windows that end at `at`.

    Parameters
    ----------
    at : end of the windows, a whole minute, UTC.
    first : start of the data; a window that begins before it is insufficient.
    limits : a window with fewer requests is insufficient.
    slices, slices_start : for an objective with a quantile: its slices, and where 0 begins.
    """
    found: list[Burn] = []
    for window in WINDOWS:
        since = at - timedelta(minutes=duration_minutes(window))
        own = _between(minutes, since, at)
        total = Decimal(own["total"].sum())
        ratio: Decimal | None = None
        if total >= limits.events and since >= first:
            if not objective.slice_min:
                ratio = Decimal(own["bad"].sum()) / total
            else:
                start = slices_start or since
                measured = _slices(slo, objective, minutes, slices, start, at, limits)
                measured = measured.filter(
                    pl.lit(start) + pl.duration(minutes=pl.col("slice") * objective.slice_min)
                    >= since
                )
                if measured.height:
                    ratio = Decimal(measured["bad"].sum()) / measured.height
        rate = None if ratio is None else ratio / (1 - objective.target)
        found.append(Burn(slo.name, objective.name, window, total, ratio, rate))
    return found


def _slices(
    slo: Slo,
    objective: Objective,
    minutes: pl.DataFrame,
    quantiles: pl.DataFrame | None,
    start: datetime,
    until: datetime,
    limits: Limits,
) -> pl.DataFrame:
    """Give slice and bad (1, 0 or, with RatioTimeslices, its error ratio) of those measured."""
    whole = int((until - start) // timedelta(minutes=objective.slice_min))
    if quantiles is not None:
        operator = OPERATORS[objective.op or "lte"]
        value = pl.col("value")
        good = {
            "<=": value <= objective.value,
            "<": value < objective.value,
            ">=": value >= objective.value,
            ">": value > objective.value,
        }[operator]
        return quantiles.filter(
            pl.col("slice").is_between(0, whole - 1), pl.col("total") >= limits.slice_events
        ).select("slice", bad=(~good).cast(pl.Int64))
    counted = (
        _between(minutes, start, start + whole * timedelta(minutes=objective.slice_min))
        .with_columns(slice=(pl.col("minute") - start).dt.total_minutes() // objective.slice_min)
        .group_by("slice")
        .agg(pl.col("total", "bad").sum())
        .filter(pl.col("total") >= limits.slice_events)
        .sort("slice")
    )
    if slo.method == "RatioTimeslices":
        return counted.select("slice", bad=pl.col("bad") / pl.col("total"))
    # 0.07 * 100 is a hair above 7; that hair must not make a slice bad.
    needed = (objective.slice_target or 0.0) * pl.col("total")
    enough = (pl.col("total") - pl.col("bad")) >= needed - 1e-9 * pl.col("total")
    return counted.select("slice", bad=(~enough).cast(pl.Int64))


def _between(minutes: pl.DataFrame, start: datetime, until: datetime) -> pl.DataFrame:
    return minutes.filter(pl.col("minute") >= start, pl.col("minute") < until)


def _too_few(total: Decimal, least: int) -> str:
    return "" if total >= least else f"{total.normalize():f} requests, at least {least} are needed"
