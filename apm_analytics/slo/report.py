"""Report on service level objectives: budget, burn, completeness, exclusions, restatements.

In:  a lake, the SLOs, the calendar, earlier statements.
Out: one `SloReport` per SLO; the same lake and arguments give the same report.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

import polars as pl

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.time import naive
from apm_analytics.lake import Connection, query
from apm_analytics.signals import Calendar, Entry, services
from apm_analytics.slo import events, ledger
from apm_analytics.slo.budget import WINDOWS, Budget, Burn, Limits, burn_rates, composite, measure
from apm_analytics.slo.ledger import Restatement, Statement
from apm_analytics.slo.model import Objective, Slo, duration_minutes

MONTH = re.compile(r"(19[789][0-9]|2[01][0-9]{2})-(0[1-9]|1[0-2])")
MINUTE = timedelta(minutes=1)
LONGEST_BURN = timedelta(minutes=duration_minutes(WINDOWS[-1]))


@dataclass(frozen=True)
class Completeness:
    """How much of a period the data cover. Times are naive UTC."""

    first: datetime  # of all spans
    last: datetime
    covered: float  # share of the period so far, without gaps
    gaps: tuple[tuple[datetime, datetime], ...]  # parts of the period without any span
    spans: int
    sampled: int  # spans with a sampling weight other than 1

    @property
    def whole(self) -> bool:
        """Whether the period has no known gap."""
        return self.covered >= 1.0


@dataclass(frozen=True)
class SloReport:
    """All results of one SLO in one period."""

    slo: Slo
    start: datetime
    until: datetime
    end: datetime
    budgets: tuple[Budget, ...]  # of a composite: its steps, then the journey
    burns: tuple[Burn, ...]
    what_if: tuple[Budget, ...]
    completeness: Completeness
    maintenance: tuple[Entry, ...]
    restatements: tuple[Restatement, ...]
    violations: pl.DataFrame
    by_day: pl.DataFrame


@dataclass(frozen=True)
class Given:
    """The inputs of a report besides the lake and the SLOs."""

    limits: Limits
    max_gap_s: float
    calendar: Calendar
    services: Mapping[str, frozenset[str]] | None = None  # transaction -> services of its steps
    stated: Sequence[Statement] = ()


def reports(
    con: Connection,
    slos: Sequence[Slo],
    given: Given,
    *,
    instances: Callable[[datetime, datetime], Mapping[str, str]] | None = None,
    month: str | None = None,
    what_if: Sequence[Decimal] = (),
    violations: int = 20,
) -> list[SloReport]:
    """Report on SLOs as of the end of the data.

    Parameters
    ----------
    con : from `lake.query.connect`.
    instances : returns the tables of transactions of a period, see `transactions.instances`.
    month : "2026-03" in each SLO's time zone; by default its current window.
    what_if : alternative targets to apply to the same measurements.
    violations : how many of the worst bad requests to list per objective.

    Raises
    ------
    NotEnoughData
        The lake has no span.
    BadParameter
        A month that does not exist, or a target outside [0, 1).
    """
    for target in what_if:
        if not 0 <= target < 1:
            raise BadParameter(f"got the target {target}, need 0 <= target < 1")
    first, last = services.period(con)
    at = last.replace(second=0, microsecond=0) + MINUTE
    periods = {slo.name: _period(slo, at, month) for slo in slos}
    maintenance = {slo.name: _maintenance(slo, periods[slo.name], given) for slo in slos}
    intervals = {
        name: [(naive(entry.start), naive(entry.end)) for entry in entries]
        for name, entries in maintenance.items()
    }
    since = min((start for start, _ in periods.values()), default=at)
    since = min(since, at - LONGEST_BURN)
    requests = events.gather(
        con, slos, since=since, until=at, transactions=instances(since, at) if instances else {}
    )
    minutes = events.count_minutes(requests, slos, since=since, until=at, maintenance=intervals)
    return [
        _report(
            requests,
            slo,
            given,
            minutes,
            period=periods[slo.name],
            at=at,
            recorded=(first, last),
            maintenance=maintenance[slo.name],
            what_if=what_if,
            violations=violations,
        )
        for slo in slos
    ]


def _report(
    requests: events.Requests,
    slo: Slo,
    given: Given,
    minutes: Mapping[events.Key, pl.DataFrame],
    *,
    period: tuple[datetime, datetime],
    at: datetime,
    recorded: tuple[datetime, datetime],
    maintenance: Sequence[Entry],
    what_if: Sequence[Decimal],
    violations: int,
) -> SloReport:
    start, end = period
    until = max(start, min(at, end))
    intervals = [(naive(entry.start), naive(entry.end)) for entry in maintenance]
    budgets: list[Budget] = []
    burns: list[Burn] = []
    restatements: list[Restatement] = []
    days: list[pl.DataFrame] = []
    for objective in slo.objectives:
        counted = minutes[slo.name, objective.name]
        slices = None
        if objective.indicator.total.quantile is not None:
            slices = events.slice_quantiles(
                requests, objective, start=start, until=until, maintenance=intervals
            )
        budget = measure(
            slo,
            objective,
            counted,
            start=start,
            until=until,
            end=end,
            limits=given.limits,
            slices=slices,
        )
        if budget.reason and not budget.total:
            reason = _why_none(requests.con, slo, objective, budget, recorded, given)
            budget = replace(budget, reason=reason)
        budgets.append(budget)
        before = ledger.last(given.stated, budget)
        if before is not None:
            # A difference in the minutes of the earlier statement comes from late data.
            again = measure(
                slo,
                objective,
                counted,
                start=start,
                until=min(until, datetime.fromisoformat(before.until)),
                end=end,
                limits=given.limits,
                slices=slices,
            )
            changed = ledger.restated(before, again)
            restatements += [changed] if changed else []
        if until == at:  # a closed period has no current burn rate
            burns += burn_rates(
                slo,
                objective,
                counted,
                at=at,
                first=recorded[0],
                limits=given.limits,
                slices=slices,
                slices_start=start,
            )
        days.append(_by_day(slo, objective, counted, start, until))
    if slo.composite:
        budgets.append(composite(slo, budgets))
    return SloReport(
        slo=slo,
        start=start,
        until=until,
        end=end,
        budgets=tuple(budgets),
        burns=tuple(burns),
        what_if=tuple(budget.what_if(target) for target in what_if for budget in budgets),
        completeness=completeness(requests.con, start, until, given.max_gap_s, recorded),
        maintenance=tuple(maintenance),
        restatements=tuple(restatements),
        violations=events.trace_ids(
            requests.con,
            events.worst(
                requests, slo, start=start, until=until, maintenance=intervals, count=violations
            ),
        ),
        by_day=pl.concat(days),
    )


def completeness(
    con: Connection,
    start: datetime,
    until: datetime,
    max_gap_s: float,
    recorded: tuple[datetime, datetime],
) -> Completeness:
    """Measure how much of [start, until) the lake's spans cover.

    A gap is a stretch longer than `max_gap_s` without any span of any service, including the time
    before the first span and after the last.
    """
    rows = query.named(
        con, "telemetry_gaps", since=start, until=until, max_gap_s=max_gap_s
    ).to_dicts()
    gaps = [(row["began"], row["ended"]) for row in rows]
    totals = query.frame(
        con,
        "select count(*) as spans, count(*) filter (where sample_weight <> 1) as sampled"
        " from spans where time >= $since::timestamp::timestamp_ns"
        " and time < $until::timestamp::timestamp_ns",
        {"since": start, "until": until},
    ).row(0)
    length = (until - start).total_seconds()
    missing = sum((ended - began).total_seconds() for began, ended in gaps)
    covered = 1.0 - missing / length if length > 0 else 0.0
    return Completeness(recorded[0], recorded[1], covered, tuple(gaps), totals[0], totals[1])


def _period(slo: Slo, at: datetime, month: str | None) -> tuple[datetime, datetime]:
    if month is None:
        return slo.window.period(at)
    parts = MONTH.fullmatch(month)
    if not parts:
        raise BadParameter(
            f"got the month {month!r}, needs one like 2026-03, of the years 1970 to 2199"
        )
    return slo.window.month(int(parts[1]), int(parts[2]))


def _maintenance(slo: Slo, period: tuple[datetime, datetime], given: Given) -> list[Entry]:
    """Return the maintenance entries of the services that an SLO counts."""
    counted: set[str] = set()
    for service, _, transaction in slo.sources:
        if service is not None:
            counted.add(service)
        elif transaction is not None:
            counted |= (given.services or {}).get(transaction, frozenset())
    entries = given.calendar.entries(kind="maintenance", until=period[1])
    return [entry for entry in entries if any(entry.concerns(service) for service in counted)]


def _why_none(
    con: Connection,
    slo: Slo,
    objective: Objective,
    budget: Budget,
    recorded: tuple[datetime, datetime],
    given: Given,
) -> str:
    """Explain why nothing was counted: no data in the period, an unknown name, or no traffic."""
    if budget.excluded_total:
        return "all requests fall into maintenance"
    if budget.start > recorded[1] or budget.until <= recorded[0]:
        return (
            f"the lake's data ({recorded[0]:%Y-%m-%d %H:%M} to {recorded[1]:%Y-%m-%d %H:%M} UTC)"
            " do not reach into the period"
        )
    selection = objective.indicator.total
    if selection.transaction is not None:
        return f"no instance of the transaction {selection.transaction!r} in the period"
    names = query.named(con, "entered_operations")
    known = names["service_name"].unique().sort().to_list()
    if selection.service not in known:
        return (
            f"{slo.where}: the lake has no service {selection.service!r}; "
            f"there are: {', '.join(known[:20])}"
        )
    operations = names.filter(service_name=selection.service)["operation"].to_list()
    unknown = [name for name in selection.operations if name not in operations]
    if unknown:
        return (
            f"{slo.where}: {selection.service} has no operation {unknown[0]!r}; "
            f"there are: {', '.join(operations[:20])}"
        )
    return "no request in the period"


def _by_day(
    slo: Slo, objective: Objective, minutes: pl.DataFrame, start: datetime, until: datetime
) -> pl.DataFrame:
    """Sum the counts per day of the contract's time zone."""
    return (
        minutes.filter(pl.col("minute") >= start, pl.col("minute") < until)
        .group_by(
            day=pl.col("minute")
            .dt.replace_time_zone("UTC")
            .dt.convert_time_zone(slo.window.zone)
            .dt.date()
        )
        .agg(pl.col("total", "bad", "excluded_total").sum())
        .sort("day")
        .select(pl.lit(objective.name).alias("objective"), "day", "total", "bad", "excluded_total")
    )
