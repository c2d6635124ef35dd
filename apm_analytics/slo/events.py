"""Count the good and bad requests of every indicator, exactly, per minute.

In:  a lake's entry spans, or tables of transactions; the indicators of SLOs.
Out: one frame of minutes per objective with weighted counts, maintenance counted separately.

A request counts with its sampling weight, and only once if its span arrived several times. It
belongs to the minute in which it began.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import polars as pl

from apm_analytics.lake import Connection, query
from apm_analytics.signals import operations, sampling
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
# Name of the table in memory; tables of transactions have the same columns.
REQUESTS = "slo_requests"
FIELDS = ("time", "service_name", "name", "duration_ns", "status_code")
# A short key of a span. Among a billion spans two may collide, but not in time and duration too.
SPAN_KEY = "hash(trace_id, span_id)"
NS_PER_S = 1_000_000_000


@dataclass
class Bindings:
    """The parameters of a SQL statement: placeholder name -> value."""

    values: dict[str, object] = field(default_factory=dict)

    def bind(self, value: object) -> str:
        """Add a value and return its placeholder."""
        name = f"v{len(self.values)}"
        self.values[name] = value
        return f"${name}"

    def between(self, start: datetime, until: datetime) -> str:
        """Return the SQL condition that `time` is in [start, until)."""
        return (
            f"(time >= {self.bind(start)}::timestamp::timestamp_ns"
            f" and time < {self.bind(until)}::timestamp::timestamp_ns)"
        )


@dataclass(frozen=True)
class Requests:
    """The requests of some SLOs in memory: one table of entry spans, one per transaction."""

    con: Connection
    transactions: Mapping[str, str] = field(default_factory=dict)  # name -> table

    def table(self, objective: Objective) -> str:
        """Return the name of the table with the requests of an objective."""
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
    """Read the requests that the SLOs count from the lake, in one pass, each span once.

    Parameters
    ----------
    con : from `lake.query.connect`.
    since, until : the period, UTC; `until` is exclusive.
    transactions : transaction -> table of its instances, see `transactions.instances.gather`.

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
    bindings = Bindings()
    query.execute(
        con,
        f"create or replace temp table {REQUESTS} as"
        f" select {', '.join([*FIELDS, *narrowed])}, {SPAN_KEY} as id, sample_weight as weight"
        f" from entry_spans where {bindings.between(since, until)}"
        f" and service_name in (select unnest({bindings.bind(services)}))",
        bindings.values,
    )
    operations.drop_repeated(con, REQUESTS)
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
    requests : from `gather`.
    since, until : the period, whole minutes, UTC; `until` is exclusive.
    maintenance : SLO name -> intervals that do not count; they may overlap.

    Returns
    -------
    (SLO, objective) -> `SCHEMA`: weighted counts; minutes without requests have no row.

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
    """Measure the quantile of the duration in every time slice.

    Returns
    -------
    slice (0 begins at `start`), value (s), total (requests), without maintenance.
    """
    bindings = Bindings()
    total = objective.indicator.total
    size_ns = objective.slice_min * 60 * NS_PER_S
    begins = bindings.bind(start)
    rows = (
        f"select (epoch_ns(time) - epoch_ns({begins}::timestamp)) // {size_ns} as slice,"
        f" duration_ns as value, weight from {requests.table(objective)}"
        f" where {bindings.between(start, until)} and {_fits(bindings, total)}"
        f" and not ({_during(bindings, maintenance)})"
    )
    assert total.quantile is not None
    measured = sampling.quantiles(rows, by=["slice"], levels=[total.quantile])
    return query.frame(
        requests.con,
        f"with measured as ({measured}), counted as ("
        f"select slice, sum(weight) as total from ({rows}) group by slice)"
        " select slice, quantiles[1] / 1e9 as value, total"
        " from measured join counted using (slice) order by slice",
        bindings.values,
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
    """List the worst bad requests of an SLO: failed ones first, then the slowest.

    Returns
    -------
    `WORST`, at most `count` rows per objective; `trace_ids` resolves `id`. An objective with a
    quantile has no bad requests, only bad slices.
    """
    frames = [pl.DataFrame(schema=WORST)]
    for objective in slo.objectives:
        selection = objective.indicator.total
        if selection.quantile is not None:
            continue
        bindings = Bindings()
        failed = "coalesce(status_code, 'unset') = 'error'"
        rows = query.frame(
            requests.con,
            f"select {bindings.bind(objective.name)} as objective, time::timestamp as time,"
            " service_name, name as operation, duration_ns / 1e9 as duration_s,"
            f" coalesce(status_code, 'unset') as status_code, id from {requests.table(objective)}"
            f" where {bindings.between(start, until)} and {_fits(bindings, selection)}"
            f" and not {_good(bindings, objective)} and not ({_during(bindings, maintenance)})"
            f" order by {failed} desc, duration_ns desc, id limit {bindings.bind(count)}",
            bindings.values,
        )
        frames.append(rows.cast(pl.Schema(WORST)))
    return pl.concat(frames)


def trace_ids(con: Connection, bad: pl.DataFrame) -> pl.DataFrame:
    """Replace the `id` of requests by their `trace_id`."""
    if bad.is_empty():
        return bad.drop("id").with_columns(trace_id=pl.lit(None, pl.String))
    bindings = Bindings()
    first, last = bad["time"].min(), bad["time"].max()
    assert isinstance(first, datetime) and isinstance(last, datetime)
    # The lake stores nanoseconds.
    margin = timedelta(microseconds=1)
    span = bindings.between(first - margin, last + margin)
    known = query.frame(
        con,
        f"select distinct {SPAN_KEY} as id, trace_id from spans where {span}"
        f" and {SPAN_KEY} in (select unnest({bindings.bind(bad['id'].to_list())}))",
        bindings.values,
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
    bindings = Bindings()
    columns: list[str] = []
    for number, (slo, objective) in enumerate(members):
        total = _fits(bindings, objective.indicator.total)
        bad = f"not {_good(bindings, objective)}"
        out = _during(bindings, maintenance.get(slo.name, ()))
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
        f" from {table} where {bindings.between(since, until)} group by minute_s order by minute_s",
        bindings.values,
    )
    minute = pl.from_epoch("minute_s", time_unit="s").cast(pl.Datetime("us")).alias("minute")
    return {
        (slo.name, objective.name): frame.select(
            minute, *(pl.col(f"{name}_{number}").fill_null(0.0).alias(name) for name in COUNTS)
        ).filter(pl.col("total") + pl.col("excluded_total") > 0)
        for number, (slo, objective) in enumerate(members)
    }


def _good(bindings: Bindings, objective: Objective) -> str:
    """Return the SQL condition of a good request among those of the objective."""
    indicator = objective.indicator
    if indicator.good is not None:
        return _fits(bindings, indicator.good)
    if indicator.bad is not None:
        return f"not {_fits(bindings, indicator.bad)}"
    if objective.op is None:
        return "true"
    return f"(duration_ns {OPERATORS[objective.op]} {bindings.bind(_ns(objective.value))})"


def _fits(bindings: Bindings, selection: Selection) -> str:
    conditions: list[str] = []
    if selection.service is not None:
        conditions.append(f"service_name = {bindings.bind(selection.service)}")
    if selection.operations:
        conditions.append(f"name in (select unnest({bindings.bind(list(selection.operations))}))")
    if selection.status is not None:
        sign = "=" if selection.status == "error" else "<>"
        conditions.append(f"coalesce(status_code, 'unset') {sign} 'error'")
    if selection.max_duration_s is not None:
        conditions.append(f"duration_ns <= {bindings.bind(_ns(selection.max_duration_s))}")
    conditions += [
        f"coalesce({column} = {bindings.bind(value)}, false)" for column, value in selection.where
    ]
    return f"({' and '.join(conditions) or 'true'})"


def _during(bindings: Bindings, intervals: Sequence[Interval]) -> str:
    return " or ".join(bindings.between(start, end) for start, end in intervals) or "false"


def _columns(objective: Objective) -> Iterable[str]:
    indicator = objective.indicator
    for selection in (indicator.total, indicator.good, indicator.bad):
        if selection is not None:
            yield from (column for column, _ in selection.where)


def _ns(seconds: float | None) -> int:
    assert seconds is not None
    return round(seconds * NS_PER_S)
