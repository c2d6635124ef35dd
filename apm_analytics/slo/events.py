"""Count the good and the bad of every indicator, minute by minute, exactly.

In:  a lake's entry spans, or tables of transactions; the SLOs' indicators.
Out: for each objective a frame of minutes with weighted counts, maintenance apart.

Every request counts as often as its sampling weight says, and once however often its span
arrived. A request belongs to the minute in which it began.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import polars as pl

from apm_analytics.lake import query
from apm_analytics.lake.query import Connection
from apm_analytics.signals import sampling
from apm_analytics.slo.model import Objective, Selection, Slo

Interval = tuple[datetime, datetime]
Key = tuple[str, str]  # SLO, objective
COUNTS = ("total", "bad", "excluded_total", "excluded_bad")
SCHEMA: dict[str, pl.DataType] = {
    "minute": pl.Datetime("us"),
    **{name: pl.Float64() for name in COUNTS},
}
WORST: dict[str, pl.DataType] = {
    "objective": pl.String(),
    "time": pl.Datetime("us"),
    "service_name": pl.String(),
    "operation": pl.String(),
    "duration_s": pl.Float64(),
    "status_code": pl.String(),
    "id": pl.UInt64(),
}
OPERATORS = {"lte": "<=", "lt": "<", "gte": ">=", "gt": ">"}
# The requests of a report, once in memory; tables of transactions have the same columns.
REQUESTS = "slo_requests"
FIELDS = ("time", "service_name", "name", "duration_ns", "status_code")
# A span's id in few bytes; two of a billion may share one, but not their time and duration.
SPAN_KEY = "hash(trace_id, span_id)"
NS_PER_S = 1_000_000_000


@dataclass
class Question:
    """The values of a statement's parameters."""

    values: dict[str, object] = field(default_factory=dict)

    def bind(self, value: object) -> str:
        """Keep a value and give its placeholder."""
        name = f"v{len(self.values)}"
        self.values[name] = value
        return f"${name}"

    def between(self, start: datetime, until: datetime) -> str:
        """Give the SQL of a time in [start, until)."""
        return (
            f"(time >= {self.bind(start)}::timestamp::timestamp_ns"
            f" and time < {self.bind(until)}::timestamp::timestamp_ns)"
        )


@dataclass(frozen=True)
class Requests:
    """The requests of some SLOs in memory: the table of those of the lake, and of transactions."""

    con: Connection
    transactions: Mapping[str, str] = field(default_factory=dict)  # name -> table

    def table(self, objective: Objective) -> str:
        """Name the table that holds the requests of an objective."""
        transaction = objective.indicator.total.transaction
        return REQUESTS if transaction is None else self.transactions[transaction]


def gather(
    con: Connection,
    slos: Iterable[Slo],
    *,
    since: datetime,
    until: datetime,
    transactions: Mapping[str, str] | None = None,
) -> Requests:
    """Read what the SLOs count out of the lake, in one pass and each span once.

    Parameters
    ----------
    con : of `lake.query.connect`.
    since, until : the period, UTC; `until` is not part of it.
    transactions : transaction -> table of its instances, as `transactions.tables` makes them.

    Returns
    -------
    The requests, in a temporary table of `con` that the next call replaces.
    """
    objectives = [
        objective
        for slo in slos
        for objective in slo.objectives
        if objective.indicator.total.transaction is None
    ]
    narrowed = sorted({name for one in objectives for name in _columns(one)} - set(FIELDS))
    services = sorted({str(one.indicator.total.service) for one in objectives})
    asked = Question()
    con.execute(
        f"create or replace temp table {REQUESTS} as"
        f" select {', '.join([*FIELDS, *narrowed])}, {SPAN_KEY} as id, sample_weight as weight"
        f" from entry_spans where {asked.between(since, until)}"
        f" and service_name in (select unnest({asked.bind(services)}))",
        asked.values,
    )
    con.execute(
        f"delete from {REQUESTS} where rowid in ("
        f"select rowid from {REQUESTS} semi join"
        f" (select id from {REQUESTS} group by id having count(*) > 1) as repeated using (id)"
        " qualify row_number() over (partition by id, time, duration_ns) > 1)"
    )
    return Requests(con, dict(transactions or {}))


def count_minutes(
    requests: Requests,
    slos: Iterable[Slo],
    *,
    since: datetime,
    until: datetime,
    maintenance: Mapping[str, Sequence[Interval]] | None = None,
) -> dict[Key, pl.DataFrame]:
    """Count the requests of every objective.

    Parameters
    ----------
    requests : of `gather`.
    since, until : the period, whole minutes, UTC; `until` is not part of it.
    maintenance : SLO name -> intervals that do not count; where some overlap, a request in them
        is left out once.

    Returns
    -------
    (SLO, objective) -> `SCHEMA`: weighted counts of requests; minutes without any have no row.

    Examples
    --------
    >>> count_minutes(requests, slos, since=march, until=april)  # doctest: +SKIP
    """
    grouped: dict[str, list[tuple[Slo, Objective]]] = {}
    for slo in slos:
        for objective in slo.objectives:
            grouped.setdefault(requests.table(objective), []).append((slo, objective))
    counted: dict[Key, pl.DataFrame] = {}
    for table, members in grouped.items():
        counted |= _count(requests.con, table, members, since, until, maintenance or {})
    return counted


def slice_quantiles(
    requests: Requests,
    objective: Objective,
    *,
    start: datetime,
    until: datetime,
    maintenance: Sequence[Interval] = (),
) -> pl.DataFrame:
    """Measure the duration's quantile in every time slice.

    Returns
    -------
    slice (0 begins at `start`), value in s, total: requests in it, maintenance left out.
    """
    asked = Question()
    total = objective.indicator.total
    size_ns = objective.slice_min * 60 * NS_PER_S
    begins = asked.bind(start)
    rows = (
        f"select (epoch_ns(time) - epoch_ns({begins}::timestamp)) // {size_ns} as slice,"
        f" duration_ns as value, weight from {requests.table(objective)}"
        f" where {asked.between(start, until)} and {_fits(asked, total)}"
        f" and not ({_during(asked, maintenance)})"
    )
    assert total.quantile is not None
    measured = sampling.quantiles(rows, by=["slice"], levels=[total.quantile])
    return query.frame(
        requests.con,
        f"with measured as ({measured}), counted as ("
        f"select slice, sum(weight) as total from ({rows}) group by slice)"
        " select slice, quantiles[1] / 1e9 as value, total"
        " from measured join counted using (slice) order by slice",
        asked.values,
    )


def worst(
    requests: Requests,
    slo: Slo,
    *,
    start: datetime,
    until: datetime,
    maintenance: Sequence[Interval] = (),
    count: int,
) -> pl.DataFrame:
    """List bad requests of an SLO: those that failed, then the slowest.

    Returns
    -------
    `WORST`, the worst `count` of each objective; `id` leads to the trace, see `trace_ids`. An
    objective with a quantile has no bad requests, only slices.
    """
    found = [pl.DataFrame(schema=WORST)]
    for objective in slo.objectives:
        selection = objective.indicator.total
        if selection.quantile is not None:
            continue
        asked = Question()
        failed = "coalesce(status_code, 'unset') = 'error'"
        rows = query.frame(
            requests.con,
            f"select {asked.bind(objective.name)} as objective, time::timestamp as time,"
            " service_name, name as operation, duration_ns / 1e9 as duration_s,"
            f" coalesce(status_code, 'unset') as status_code, id from {requests.table(objective)}"
            f" where {asked.between(start, until)} and {_fits(asked, selection)}"
            f" and not {_good(asked, objective)} and not ({_during(asked, maintenance)})"
            f" order by {failed} desc, duration_ns desc, id limit {asked.bind(count)}",
            asked.values,
        )
        found.append(rows.cast(pl.Schema(WORST)))
    return pl.concat(found)


def trace_ids(con: Connection, bad: pl.DataFrame) -> pl.DataFrame:
    """Exchange the `id` of requests for their `trace_id`."""
    if bad.is_empty():
        return bad.drop("id").with_columns(trace_id=pl.lit(None, pl.String))
    asked = Question()
    first, last = bad["time"].min(), bad["time"].max()
    assert isinstance(first, datetime) and isinstance(last, datetime)
    # The lake's times are finer than a microsecond.
    finest = timedelta(microseconds=1)
    span = asked.between(first - finest, last + finest)
    known = query.frame(
        con,
        f"select distinct {SPAN_KEY} as id, trace_id from spans where {span}"
        f" and {SPAN_KEY} in (select unnest({asked.bind(bad['id'].to_list())}))",
        asked.values,
    )
    return bad.join(known, on="id", how="left", maintain_order="left").drop("id")


def _count(
    con: Connection,
    table: str,
    members: Sequence[tuple[Slo, Objective]],
    since: datetime,
    until: datetime,
    maintenance: Mapping[str, Sequence[Interval]],
) -> dict[Key, pl.DataFrame]:
    asked = Question()
    columns: list[str] = []
    for number, (slo, objective) in enumerate(members):
        total = _fits(asked, objective.indicator.total)
        bad = f"not {_good(asked, objective)}"
        out = _during(asked, maintenance.get(slo.name, ()))
        for name, condition in (
            ("total", f"not ({out})"),
            ("bad", f"not ({out}) and {bad}"),
            ("excluded_total", f"({out})"),
            ("excluded_bad", f"({out}) and {bad}"),
        ):
            columns.append(f"sum(weight) filter (where {total} and {condition}) as {name}_{number}")
    frame = query.frame(
        con,
        f"select epoch_ns(time) // {60 * NS_PER_S} * 60 as minute_s, {', '.join(columns)}"
        f" from {table} where {asked.between(since, until)} group by minute_s order by minute_s",
        asked.values,
    )
    minute = pl.from_epoch("minute_s", time_unit="s").cast(pl.Datetime("us")).alias("minute")
    return {
        (slo.name, objective.name): frame.select(
            minute, *(pl.col(f"{name}_{number}").fill_null(0.0).alias(name) for name in COUNTS)
        ).filter(pl.col("total") + pl.col("excluded_total") > 0)
        for number, (slo, objective) in enumerate(members)
    }


def _good(asked: Question, objective: Objective) -> str:
    """Give the SQL of a good request among those of the objective."""
    indicator = objective.indicator
    if indicator.good is not None:
        return _fits(asked, indicator.good)
    if indicator.bad is not None:
        return f"not {_fits(asked, indicator.bad)}"
    if objective.op is None:
        return "true"
    return f"(duration_ns {OPERATORS[objective.op]} {asked.bind(_ns(objective.value))})"


def _fits(asked: Question, selection: Selection) -> str:
    conditions: list[str] = []
    if selection.service is not None:
        conditions.append(f"service_name = {asked.bind(selection.service)}")
    if selection.operations:
        conditions.append(f"name in (select unnest({asked.bind(list(selection.operations))}))")
    if selection.status is not None:
        sign = "=" if selection.status == "error" else "<>"
        conditions.append(f"coalesce(status_code, 'unset') {sign} 'error'")
    if selection.max_duration_s is not None:
        conditions.append(f"duration_ns <= {asked.bind(_ns(selection.max_duration_s))}")
    conditions += [
        f"coalesce({column} = {asked.bind(value)}, false)" for column, value in selection.where
    ]
    return f"({' and '.join(conditions) or 'true'})"


def _during(asked: Question, intervals: Sequence[Interval]) -> str:
    return " or ".join(asked.between(start, end) for start, end in intervals) or "false"


def _columns(objective: Objective) -> Iterable[str]:
    indicator = objective.indicator
    for selection in (indicator.total, indicator.good, indicator.bad):
        if selection is not None:
            yield from (column for column, _ in selection.where)


def _ns(seconds: float | None) -> int:
    assert seconds is not None
    return round(seconds * NS_PER_S)
