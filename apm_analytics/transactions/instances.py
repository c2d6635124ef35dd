"""Measure business transactions: number, outcome, duration, segment.

In:  a lake's spans, the transactions of `transactions.specs`.
Out: one table of instances per transaction in the connection, and frames over them.

An instance is completed, failed, in flight or abandoned. A failed step does not lead to the next
step, but a later attempt may. Within a trace the duration lasts from the start of the first step
to the end of the last; across a session it is the sum of the steps, without the user's pauses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from apm_analytics.lake import Connection, query
from apm_analytics.signals import operations, sampling
from apm_analytics.traces import critical_path
from apm_analytics.transactions.hours import Hours
from apm_analytics.transactions.specs import Transaction

NS_PER_S = 1_000_000_000
QUANTILES = (0.5, 0.95, 0.99)
# How many of the slowest instances are examined for the slowest step.
EXAMINED = 200


@dataclass(frozen=True)
class Instances:
    """The instances of transactions, in one table per transaction of a connection."""

    con: Connection
    transactions: tuple[Transaction, ...]
    tables: Mapping[str, str]  # transaction -> table of all instances
    counted: Mapping[str, str]  # transaction -> view of the instances its SLA judges
    since: datetime
    until: datetime


def gather(
    con: Connection,
    transactions: Sequence[Transaction],
    hours: Mapping[str, Hours],
    *,
    since: datetime,
    until: datetime,
    timeout_s: float,
) -> Instances:
    """Collect the instances that began in [since, until).

    Parameters
    ----------
    con : from `lake.query.connect`.
    hours : calendar -> its hours.
    until : also the moment of observation: an instance that has not ended by then is in flight.
    timeout_s : an instance without a span for longer is abandoned; a transaction may override it.

    Returns
    -------
    Temporary tables of `con`, which the next call replaces. Columns: time, service_name, name,
    duration_ns, elapsed_ns, status_code, id, weight, state, reached (steps), trace_id, user_id,
    organization_id, session_id, segment, in_hours, attained.
    """
    tables: dict[str, str] = {}
    counted: dict[str, str] = {}
    for number, transaction in enumerate(transactions):
        table = f"transaction_{number}"
        timeout_ns = int((transaction.timeout_s or timeout_s) * NS_PER_S)
        fill = _roots if len(transaction.steps) == 1 else _sequences
        fill(con, transaction, f"{table}_found", since, until, timeout_ns)
        calendar = transaction.sla.calendar
        open_hours = hours[calendar].intervals(since, until) if calendar else [(since, until)]
        con.execute(
            f"create or replace temp table {table}_hours as"
            " select unnest($starts::timestamp[])::timestamp_ns as opens,"
            " unnest($ends::timestamp[])::timestamp_ns as closes",
            {
                "starts": [opens for opens, _ in open_hours],
                "ends": [closes for _, closes in open_hours],
            },
        )
        con.execute(
            f"create or replace temp table {table} as select found.*,"
            " coalesce(found.time < hours.closes, false) as in_hours,"
            " state = 'completed' and duration_ns <= $threshold_ns as attained"
            f" from {table}_found as found asof left join {table}_hours as hours"
            " on found.time >= hours.opens",
            {"threshold_ns": round(transaction.sla.threshold_s * NS_PER_S)},
        )
        con.execute(f"drop table {table}_found")
        con.execute(
            f"create or replace temp view {table}_counted as"
            f" select * from {table} where in_hours and state in ({judged_states(transaction)})"
        )
        tables[transaction.name], counted[transaction.name] = table, f"{table}_counted"
    return Instances(con, tuple(transactions), tables, counted, since, until)


def summary(gathered: Instances, *, by: str | None = None) -> pl.DataFrame:
    """Summarise every transaction, as a whole or by `segment` or `organization_id`.

    Returns
    -------
    transaction, title, owner, (`by`,) instances, completed, failed, in_flight,
    abandoned, success_ratio (of those that ended), latency_p50_s, _p95_s, _p99_s, judged (counted
    by the SLA), attained, attainment, objective, threshold_s, verdict, value, currency.
    Without judged instances attainment is null and the verdict is "insufficient".
    """
    part, group = "'all' as part", ""
    if by:
        part, group = f"coalesce({by}, 'unknown') as part", "group by part"
    frames = []
    for one in gathered.transactions:
        quantiles = ", ".join(
            f"quantiles[{place}] / 1e9 as latency_p{level * 100:.0f}_s"
            for place, level in enumerate(QUANTILES, 1)
        )
        durations = sampling.quantiles(
            f"select {part}, duration_ns as value, weight from {gathered.tables[one.name]}"
            " where state = 'completed'",
            by=["part"],
            levels=QUANTILES,
        )
        states = ", ".join(
            f"coalesce(sum(weight) filter (where state = '{state}'), 0) as {state}"
            for state in ("completed", "failed", "in_flight", "abandoned")
        )
        judged = f"in_hours and state in ({judged_states(one)})"
        rows = query.frame(
            gathered.con,
            f"with counted as (select {part}, coalesce(sum(weight), 0) as instances, {states},"
            f" coalesce(sum(weight) filter (where {judged}), 0) as judged,"
            f" coalesce(sum(weight) filter (where {judged} and attained), 0) as attained"
            f" from {gathered.tables[one.name]} {group}), durations as ({durations})"
            f" select part, instances, completed, failed, in_flight, abandoned, {quantiles},"
            " judged, attained from counted left join durations using (part)"
            " order by instances desc, part",
        )
        value = one.value
        frames.append(
            rows.select(
                transaction=pl.lit(one.name),
                title=pl.lit(one.title),
                owner=pl.lit(one.owner),
                **({by: pl.col("part")} if by else {}),
                **{name: pl.col(name) for name in rows.columns if name != "part"},
            ).with_columns(
                success_ratio=_ratio(
                    pl.col("completed"), pl.col("completed", "failed", "abandoned")
                ),
                attainment=_ratio(pl.col("attained"), pl.col("judged")),
                objective=pl.lit(one.sla.objective),
                threshold_s=pl.lit(one.sla.threshold_s),
                value=pl.col("completed") * (value.amount if value else None),
                currency=pl.lit(value.currency if value else None, pl.String),
            )
        )
    verdict = (
        pl.when(pl.col("attainment").is_null())
        .then(pl.lit("insufficient"))
        .when(pl.col("attainment") >= pl.col("objective"))
        .then(pl.lit("met"))
        .otherwise(pl.lit("missed"))
    )
    return pl.concat(frames, how="vertical_relaxed").with_columns(verdict=verdict)


def funnel(gathered: Instances, name: str) -> pl.DataFrame:
    """Count how many instances of a sequence reached each step: step, reached, share."""
    one = next(one for one in gathered.transactions if one.name == name)
    counts = query.frame(
        gathered.con,
        f"select reached, sum(weight) as instances from {gathered.tables[name]} group by reached",
    )
    steps = range(1, len(one.steps) + 1)
    came = [float(counts.filter(pl.col("reached") >= step)["instances"].sum()) for step in steps]
    began = float(counts["instances"].sum())
    return pl.DataFrame(
        {
            "step": [step.title for step in one.steps],
            "reached": came,
            "share": [count / began if began else None for count in came],
        },
        schema_overrides={"share": pl.Float64},
    )


def violations(gathered: Instances, name: str, *, count: int = 20) -> pl.DataFrame:
    """List the instances that violate the SLA, longest first, each with its trace.

    Returns
    -------
    time, state, duration_s, elapsed_s, reached, organization_id, segment, trace_id.
    """
    return query.frame(
        gathered.con,
        "select time::timestamp as time, state, duration_ns / 1e9 as duration_s,"
        " elapsed_ns / 1e9 as elapsed_s, reached, organization_id, segment, trace_id"
        f" from {gathered.counted[name]} where not attained"
        " order by duration_ns desc, trace_id limit $count",
        {"count": count},
    )


def slowest_steps(gathered: Instances, name: str, *, examined: int = EXAMINED) -> pl.DataFrame:
    """Rank the steps of the slowest instances by their time on the critical path.

    Returns
    -------
    `critical_path.STEPS` over the traces of the `examined` slowest completed instances.
    """
    ids = query.frame(
        gathered.con,
        f"select distinct trace_id from (select trace_id from {gathered.tables[name]}"
        " where state = 'completed' and trace_id is not null"
        " order by duration_ns desc, trace_id limit $count)",
        {"count": examined},
    )["trace_id"].to_list()
    return critical_path.slowest_steps(critical_path.spans(gathered.con, trace_ids=ids))


def judged_states(one: Transaction) -> str:
    """Return the SQL list of states that the SLA judges.

    An abandoned trace waited in vain and counts; an abandoned session is the user's decision and
    does not.
    """
    return "'completed', 'failed'" + ("" if one.across == "session" else ", 'abandoned'")


def _ratio(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    total = pl.sum_horizontal(whole)
    return pl.when(total > 0).then(part / total)


def _roots(
    con: Connection,
    one: Transaction,
    table: str,
    since: datetime,
    until: datetime,
    timeout_ns: int,
) -> None:
    """Fill a table with entry spans of the operation, and traces whose root has not arrived."""
    (step,) = one.steps
    given = {
        "service": step.service,
        "operations": list(step.operations),
        "since": since,
        "until": until,
    }
    query.execute(
        con,
        f"create or replace temp table {table} as"
        " select time, service_name, name, duration_ns, duration_ns as elapsed_ns, status_code,"
        " hash(trace_id, span_id) as id, sample_weight as weight,"
        " case when coalesce(status_code, 'unset') = 'error' then 'failed' else 'completed' end"
        " as state, case when coalesce(status_code, 'unset') = 'error' then 0 else 1 end as"
        " reached, trace_id, user_id, organization_id, session_id,"
        f" {operations.attribute_sql(one.segment)} as segment"
        " from entry_spans where service_name = $service"
        " and name in (select unnest($operations))"
        " and time >= $since::timestamp::timestamp_ns and time < $until::timestamp::timestamp_ns",
        given,
    )
    operations.drop_repeated(con, table)
    query.execute(
        con,
        f"insert into {table} by name {query.text('unfinished_transactions')}",
        {**given, "timeout_ns": timeout_ns},
    )


def _sequences(
    con: Connection,
    one: Transaction,
    table: str,
    since: datetime,
    until: datetime,
    timeout_ns: int,
) -> None:
    """Fill a table with attempts: parts of a trace or session up to the end or a timeout."""
    pairs = [
        (number, step.service, operation)
        for number, step in enumerate(one.steps, 1)
        for operation in step.operations
    ]
    count = len(one.steps)
    key = "trace_id" if one.across == "trace" else "session_id"
    chain = [
        "step_1 as (select key, attempt, min(starts) as at_1 from attempts"
        " where step = 1 and not failed group by key, attempt)"
    ]
    chain += [
        f"step_{k} as (select key, attempt, min(starts) as at_{k} from attempts"
        f" join step_{k - 1} using (key, attempt) where step = {k} and not failed"
        f" and starts >= at_{k - 1} group by key, attempt)"
        for k in range(2, count + 1)
    ]
    reached = " union all ".join(
        f"select key, attempt, {k} as step, at_{k} as starts from step_{k}"
        for k in range(1, count + 1)
    )
    duration = "busy" if one.across == "session" else "ends - starts"
    query.execute(
        con,
        f"create or replace temp table {table} as with steps as ("
        "select unnest($numbers) as step, unnest($services) as service_name,"
        " unnest($operations) as name), events as materialized ("
        # A span that arrived twice counts once.
        f"select distinct on (trace_id, span_id) {key} as key, steps.step, epoch_ns(time) as"
        " starts, epoch_ns(time) + duration_ns as ends,"
        " coalesce(status_code, 'unset') = 'error' as failed, trace_id, span_id, sample_weight,"
        f" user_id, organization_id, session_id, {operations.attribute_sql(one.segment)} as segment"
        " from entry_spans join steps using (service_name, name)"
        " where time >= $since::timestamp::timestamp_ns"
        f" and time < $until::timestamp::timestamp_ns and {key} is not null),"
        " cut as (select *, lag(starts) over ordered as before, lag(step) over ordered as"
        " step_before, lag(failed) over ordered as failed_before"
        " from events window ordered as (partition by key order by starts, step)),"
        " attempts as materialized (select *, sum(case when before is null or starts - before >"
        f" $timeout_ns or (step_before = {count} and not failed_before) then 1 else 0 end)"
        " over (partition by key order by starts, step rows unbounded preceding) as attempt"
        f" from cut), {', '.join(chain)}, reached as ({reached}),"
        " came as (select key, attempt, max(attempts.step) as reached,"
        " sum(ends - attempts.starts) as busy, max(ends) as done_at"
        " from reached join attempts using (key, attempt, step, starts)"
        " group by key, attempt),"
        " tries as (select key, attempt, min(starts) filter (where step = 1) as starts,"
        " max(ends) as last_seen, coalesce(max(step) filter (where failed), 0) as failed_step,"
        " arg_max(trace_id, ends - starts) as trace_id,"
        " arg_min(hash(trace_id, span_id), starts) filter (where step = 1) as id,"
        " arg_min(sample_weight, starts) as weight, max(user_id) as user_id,"
        " max(organization_id) as organization_id, max(session_id) as session_id,"
        " max(segment) as segment from attempts group by key, attempt"
        " having min(starts) filter (where step = 1) is not null),"
        f" ended as (select *, case when reached = {count} then 'completed'"
        " when failed_step > coalesce(reached, 0) then 'failed'"
        " when last_seen + $timeout_ns > epoch_ns($until::timestamp) then 'in_flight'"
        " else 'abandoned' end as state,"
        f" case when reached = {count} then done_at else last_seen end as ends"
        " from tries left join came using (key, attempt))"
        " select make_timestamp_ns(starts) as time, $service as service_name, $name as name,"
        f" coalesce({duration}, ends - starts)::bigint as duration_ns,"
        " (ends - starts)::bigint as elapsed_ns,"
        " case when state = 'completed' then 'ok' else 'error' end as status_code, id, weight,"
        " state, coalesce(reached, 0) as reached, trace_id, user_id, organization_id, session_id,"
        " segment from ended",
        {
            "numbers": [number for number, _, _ in pairs],
            "services": [service for _, service, _ in pairs],
            "operations": [operation for _, _, operation in pairs],
            "service": one.steps[0].service,
            "name": one.name,
            "since": since,
            "until": until,
            "timeout_ns": timeout_ns,
        },
    )
