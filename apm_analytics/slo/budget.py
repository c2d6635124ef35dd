"""Compute error budgets and burn rates from counts per minute.

In:  the minutes of `slo.events`, an objective, its period and the end of the data.
Out: one `Budget` per objective, and its burn rate in each of Sloth's windows.

Counts are exact. The budget is (1 - target) of what was measured: requests, or time slices. An
objective that cannot be judged is "insufficient" and carries its reason; it never counts as zero.
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
    """The fewest requests that a period or burn window, and a time slice, must have."""

    events: int
    slice_events: int


@dataclass(frozen=True)
class Budget:
    """Target, counts and remaining budget of an objective in one period. Times are UTC."""

    slo: str
    objective: str
    start: datetime
    until: datetime  # end of the measurement, exclusive
    end: datetime  # of the period
    target: Decimal
    unit: str  # requests, or slices of 15 min
    total: Decimal
    bad: Decimal
    excluded_total: Decimal  # in maintenance
    excluded_bad: Decimal
    unmeasured: int = 0  # slices with too few requests
    weight: Decimal = Decimal(1)
    reason: str = ""  # why it is insufficient

    @property
    def verdict(self) -> str:
        """One of met, missed and insufficient."""
        if self.reason:
            return INSUFFICIENT
        return MET if self.bad <= self.allowed else MISSED

    @property
    def attainment(self) -> Decimal | None:
        """The share of good requests or slices; None when insufficient."""
        return None if self.reason else 1 - self.bad / self.total

    @property
    def allowed(self) -> Decimal:
        """How many requests or slices may be bad."""
        return (1 - self.target) * self.total

    @property
    def left(self) -> Decimal | None:
        """How many more may be bad; negative when the budget is overspent."""
        return None if self.reason else self.allowed - self.bad

    @property
    def consumed(self) -> Decimal | None:
        """The spent share of the budget."""
        return None if self.reason else self.bad / self.allowed

    def what_if(self, target: Decimal) -> "Budget":
        """Return the same measurement under another target."""
        return replace(self, target=target)


@dataclass(frozen=True)
class Burn:
    """How fast the budget burns in a window; a rate of 1 spends it exactly in its period."""

    slo: str
    objective: str
    window: str
    total: Decimal
    error_ratio: Decimal | None  # None: too few requests
    rate: Decimal | None


def measure(
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
    """Compute the budget of one objective over [start, until).

    Parameters
    ----------
    minutes : from `events.count_minutes`.
    start, until, end : start of the period, end of the measurement, end of the period.
    limits : the fewest requests needed for a judgement.
    slices : from `events.slice_quantiles`, for an objective with a quantile.

    Returns
    -------
    The budget. With time slices, `total` and `bad` count whole slices; slices with too few
    requests are left out and counted in `unmeasured`.
    """
    counts = _between(minutes, start, until)
    budget = Budget(
        slo=slo.name,
        objective=objective.name,
        start=start,
        until=until,
        end=end,
        target=objective.target,
        unit="requests",
        total=Decimal(counts["total"].sum()),
        bad=Decimal(counts["bad"].sum()),
        excluded_total=Decimal(counts["excluded_total"].sum()),
        excluded_bad=Decimal(counts["excluded_bad"].sum()),
        weight=objective.weight,
    )
    if not objective.slice_min:
        return replace(budget, reason=_too_few(budget.total, limits.events))
    measured = _slices(slo, objective, minutes, slices, start, until, limits)
    whole = int((until - start) // timedelta(minutes=objective.slice_min))
    none = f"no time slice has {limits.slice_events} requests or more"
    return replace(
        budget,
        unit=f"slices of {objective.slice_min} min",
        total=Decimal(measured.height),
        bad=sum((Decimal(bad) for bad in measured["bad"].to_list()), Decimal(0)),
        unmeasured=whole - measured.height,
        reason="" if measured.height else none,
    )


def composite(slo: Slo, budgets: Sequence[Budget]) -> Budget:
    """Combine the steps of a journey by their weights.

    Error ratio and target are the weighted means of those of the steps; `total` is the sum of the
    weights. The journey is insufficient if one of its steps is.
    """
    weights = sum((step.weight for step in budgets), Decimal(0))
    target = sum((step.weight * step.target for step in budgets), Decimal(0)) / weights
    reason = "; ".join(f"{step.objective}: {step.reason}" for step in budgets if step.reason)
    bad = sum((step.weight * step.bad / step.total for step in budgets if step.total), Decimal(0))
    return replace(
        budgets[0],
        objective=f"{slo.title}, all steps",
        target=target,
        unit="weighted steps",
        total=weights,
        bad=bad,
        excluded_total=sum((step.excluded_total for step in budgets), Decimal(0)),
        excluded_bad=sum((step.excluded_bad for step in budgets), Decimal(0)),
        unmeasured=sum(step.unmeasured for step in budgets),
        weight=weights,
        reason=reason,
    )


def burn_rates(
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
    """Compute the burn rate in each of Sloth's windows that end at `at`.

    Parameters
    ----------
    at : end of the windows, a whole minute, UTC.
    first : start of the data; a window that begins earlier is insufficient.
    limits : a window with fewer requests is insufficient.
    slices, slices_start : the slices of an objective with a quantile, and the start of slice 0.
    """
    burns: list[Burn] = []
    for window in WINDOWS:
        since = at - timedelta(minutes=duration_minutes(window))
        counts = _between(minutes, since, at)
        total = Decimal(counts["total"].sum())
        ratio: Decimal | None = None
        if total >= limits.events and since >= first:
            if not objective.slice_min:
                ratio = Decimal(counts["bad"].sum()) / total
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
        burns.append(Burn(slo.name, objective.name, window, total, ratio, rate))
    return burns


def _slices(
    slo: Slo,
    objective: Objective,
    minutes: pl.DataFrame,
    quantiles: pl.DataFrame | None,
    start: datetime,
    until: datetime,
    limits: Limits,
) -> pl.DataFrame:
    """Return `slice` and `bad` (0 or 1; the error ratio with RatioTimeslices) per slice."""
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
    # 0.07 * 100 is slightly above 7 in floating point; that must not make a slice bad.
    needed = (objective.slice_target or 0.0) * pl.col("total")
    enough = (pl.col("total") - pl.col("bad")) >= needed - 1e-9 * pl.col("total")
    return counted.select("slice", bad=(~enough).cast(pl.Int64))


def _between(minutes: pl.DataFrame, start: datetime, until: datetime) -> pl.DataFrame:
    return minutes.filter(pl.col("minute") >= start, pl.col("minute") < until)


def _too_few(total: Decimal, needed: int) -> str:
    return (
        "" if total >= needed else f"{total.normalize():f} requests, at least {needed} are needed"
    )
