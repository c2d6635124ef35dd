"""Measure KPIs on one grid of windows.

In:  a lake through `lake.query`, the KPIs of specs/kpis.yaml.
Out: one value per window (and segment), or the reason why a KPI could not be measured.

Counts and rates are corrected for sampling. A window without any telemetry is null, not zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import polars as pl

from apm_analytics.business import kpi_files
from apm_analytics.business.specs import (
    ApdexSource,
    FileSource,
    Kpi,
    LogSource,
    MetricSource,
    ShareSource,
    SpanSource,
    SqlSource,
)
from apm_analytics.foundation.errors import BadInput, BadParameter, NotFound
from apm_analytics.foundation.time import naive
from apm_analytics.lake import Connection, Relation, SqlError, query
from apm_analytics.signals import operations, sampling

WHOLE = ""  # the segment of the total
UNKNOWN = "unknown"
# Column with the id of what is counted; null in a span without one.
_THINGS = {"sessions": "session_id", "users": "user_id"}
_REDUCED = {"sum": "sum(amount)", "mean": "avg(amount)", "last": "arg_max(amount, moment)"}
_REDUCED["increase"] = _REDUCED["sum"]
NO_WINDOWS = pl.DataFrame(schema={"time": pl.Datetime("us")})


@dataclass(frozen=True)
class Measured:
    """All KPIs that could be measured, on one grid; the others with their reason."""

    values: pl.DataFrame  # time, one column per KPI
    kpis: dict[str, Kpi]
    missing: dict[str, str] = field(default_factory=dict)


def measure_all(
    con: Connection,
    kpis: Mapping[str, Kpi],
    *,
    window_s: int,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Measured:
    """Measure every KPI that the lake (or its file) contains.

    Parameters
    ----------
    con : from `lake.query.connect`.
    window_s : length of a window, in seconds.
    since, until : the period, UTC, cut to whole windows; by default that of the lake's spans.

    Raises
    ------
    BadParameter
        A spec does not fit the lake's tables.

    Examples
    --------
    >>> measure_all(con, kpi_specs.load(Path("specs")), window_s=3600)  # doctest: +SKIP
    """
    try:
        values = grid(con, window_s=window_s, since=since, until=until)
    except NotFound as error:
        return Measured(NO_WINDOWS, {}, dict.fromkeys(kpis, str(error)))
    known: dict[str, Kpi] = {}
    missing: dict[str, str] = {}
    for name, kpi in kpis.items():
        try:
            measured = measure(con, kpi, window_s=window_s, since=since, until=until)
        except (NotFound, BadInput) as error:
            missing[name] = str(error)
            continue
        values = values.with_columns(measured["value"].alias(name))
        known[name] = kpi
    return Measured(values, known, missing)


def measure(
    con: Connection,
    kpi: Kpi,
    *,
    window_s: int,
    since: datetime | None = None,
    until: datetime | None = None,
    split: bool = False,
) -> pl.DataFrame:
    """Measure one KPI.

    Parameters
    ----------
    split : return one series per segment; records without a segment are `unknown`.

    Returns
    -------
    `time` (start of the window, UTC), `segment` when split, `value` (null where unknown), for every
    window of the grid.

    Raises
    ------
    NotFound
        The lake (or the file) has no data of this KPI.
    BadInput
        A file cannot be read.
    BadParameter
        A spec does not fit the lake's tables, or has no segment to split by.
    """
    times = grid(con, window_s=window_s, since=since, until=until)
    if split and getattr(kpi.source, "segment", None) is None and kpi.source.kind != "sql":
        raise BadParameter(f"KPI {kpi.name} has no `segment` in its source; add one to kpis.yaml")
    try:
        values = query.attempt(con, lambda: _values(con, kpi, window_s, times))
    except SqlError as error:
        raise BadParameter(
            f'KPI {kpi.name} does not fit the lake: {error}; see `apm query "describe spans"`'
        ) from error
    if values.is_empty():
        raise NotFound(
            f"KPI {kpi.name}: the lake has nothing for {_described(kpi)} in this period; "
            "correct its source in kpis.yaml, or import its data"
        )
    if not split:
        values = values.filter(pl.col("segment") == WHOLE)
        return times.join(values.drop("segment"), on="time", how="left").sort("time")
    values = values.filter(pl.col("segment") != WHOLE)
    every = times.join(values.select("segment").unique(), how="cross")
    split_values = every.join(values, on=["time", "segment"], how="left")
    if kpi.additive:
        # Where the total is known, a missing segment means zero.
        whole = split_values.group_by("time").agg(pl.col("value").is_not_null().any().alias("any"))
        split_values = split_values.join(whole, on="time").with_columns(
            pl.when("any").then(pl.col("value").fill_null(0.0)).otherwise(pl.col("value"))
        )
    return split_values.select("time", "segment", "value").sort("segment", "time")


def summary(measured: Measured) -> pl.DataFrame:
    """Return one row per KPI: its total (if additive) and mean, or the reason why it has none."""
    rows: list[dict[str, object]] = []
    for name, kpi in measured.kpis.items():
        values = measured.values[name]
        rows.append(
            {
                "kpi": name,
                "unit": kpi.unit,
                "total": values.sum() if kpi.additive else None,
                "mean": values.mean(),
                "missing_windows": values.null_count(),
                "reason": "",
            }
        )
    rows += [{"kpi": name, "reason": reason} for name, reason in measured.missing.items()]
    schema = {"kpi": pl.String, "unit": pl.String, "total": pl.Float64, "mean": pl.Float64}
    return pl.DataFrame(rows, schema={**schema, "missing_windows": pl.Int64, "reason": pl.String})


def grid(
    con: Connection,
    *,
    window_s: int,
    since: datetime | None = None,
    until: datetime | None = None,
) -> pl.DataFrame:
    """Return the starts of all whole windows, by default of the lake's spans.

    Raises
    ------
    NotFound
        No whole window fits into the period.
    """
    [(first, last)] = query.frame(
        con, "select min(time)::timestamp as first, max(time)::timestamp as last from spans"
    ).rows()
    first, last = naive(since) or first, naive(until) or last
    if first is None or last is None:
        raise NotFound("the lake holds no spans, so there is no period to measure; import some")
    step = timedelta(seconds=window_s)
    epoch = datetime(2000, 1, 3)  # as DuckDB's time_bucket
    start = epoch + -((epoch - first) // step) * step
    count = (last - start) // step
    if count < 1:
        raise NotFound(
            f"no whole window of {window_s} s between {first} and {last}; use shorter windows "
            "(params.yaml business) or import a longer recording"
        )
    times = pl.datetime_range(
        start, start + step * (count - 1), interval=step, time_unit="us", eager=True
    )
    return pl.DataFrame({"time": times})


def _values(con: Connection, kpi: Kpi, window_s: int, times: pl.DataFrame) -> pl.DataFrame:
    """Return time, segment and value; the total has the segment `WHOLE`."""
    source = kpi.source
    if isinstance(source, FileSource):
        rows = con.from_arrow(kpi_files.read(source).to_arrow())
    elif isinstance(source, SqlSource):
        result = con.sql(source.query)
        split = "segment" if "segment" in result.columns else f"'{UNKNOWN}'"
        rows = result.project(
            f"time::timestamp as moment, value::double as amount, {split} as segment"
        )
    elif isinstance(source, MetricSource):
        rows = _points(con, source)
    elif isinstance(source, LogSource):
        rows = _events(con, source)
    else:
        return _of_spans(con, source, window_s, times)
    counts = isinstance(source, LogSource) and source.aggregate == "count"
    value = "count(*)" if counts else _REDUCED[source.aggregate]
    return _windows(rows, f"({value})::double", window_s, times)


def _points(con: Connection, source: MetricSource) -> Relation:
    points = con.sql("select * from metric_points where name = $name", params={"name": source.name})
    # A point describes the time before it: a point at 10:00 belongs to the window that ends then.
    moment = "time::timestamp - interval 1 microsecond as moment"
    segment = _segment(source.segment)
    if source.where:
        points = points.filter(source.where)
    if source.aggregate != "increase":
        return points.project(f"{moment}, value as amount, {segment} as segment")
    return points.project(
        f"""{moment}, {segment} as segment, value, lag(value) over (
            partition by service_name, service_instance_id, host_name, attributes order by time
        ) as before"""
    ).project(
        # After a restart a counter starts again at 0.
        "moment, segment, case when value >= before then value - before"
        " when before is not null then value end as amount"
    )


def _events(con: Connection, source: LogSource) -> Relation:
    events = con.sql("select * from logs where event_name = $event", params={"event": source.event})
    if source.where:
        events = events.filter(source.where)
    amount = "1.0" if source.attribute is None else f"attributes_num[{_quoted(source.attribute)}]"
    return events.project(
        f"time::timestamp as moment, {amount} as amount, {_segment(source.segment)} as segment"
    )


def _of_spans(
    con: Connection,
    source: SpanSource | ShareSource | ApdexSource,
    window_s: int,
    times: pl.DataFrame,
) -> pl.DataFrame:
    spans = con.table("spans")
    chosen = spans.filter(source.where) if source.where else spans
    weight = "sample_weight"
    if isinstance(source, ApdexSource):
        limit_ns = int(source.threshold_s * 1e9)
        value = (
            f"sum({weight} * case when status_code = 'error' then 0.0"
            f" when duration_ns <= {limit_ns} then 1.0"
            f" when duration_ns <= {4 * limit_ns} then 0.5 else 0.0 end) / sum({weight})"
        )
    elif isinstance(source, ShareSource):
        value = f"sum({weight}) filter ({source.of}) / sum({weight})"
    elif source.aggregate == "error_ratio":
        value = f"coalesce(sum({weight}) filter (status_code = 'error'), 0) / sum({weight})"
    else:
        value = f"sum({weight})"
    rows = chosen.project(f"*, time::timestamp as moment, {_segment(source.segment)} as segment")
    thing = _THINGS.get(getattr(source, "per", getattr(source, "aggregate", "")))
    if thing is None:
        frame = _windows(rows, f"({value})::double", window_s, times)
    else:
        frame = _things(rows, source, thing, window_s, times)
    if not isinstance(source, SpanSource) or source.aggregate == "error_ratio":
        return frame
    seen = spans.project(f"time::timestamp as moment, '{UNKNOWN}' as segment")
    return _with_zeros(frame, _windows(seen, "1.0", window_s, times))


def _things(
    rows: Relation,
    source: SpanSource | ShareSource | ApdexSource,
    thing: str,
    window_s: int,
    times: pl.DataFrame,
) -> pl.DataFrame:
    """Count users or sessions per window, or the share of them that fulfils a condition."""
    if not rows.aggregate("coalesce(max(sample_weight), 1) > 1").fetchall()[0][0]:
        value = f"count(distinct {thing})"
        if isinstance(source, ShareSource):
            value = f"count(distinct {thing}) filter ({source.of}) / {value}"
        return _windows(rows, f"({value})::double", window_s, times)
    kept = _within(rows, times, window_s).project(f"*, {_bucket(window_s)} as window_start")
    of = source.of if isinstance(source, ShareSource) else "true"
    counts = sampling.distinct(kept, thing, by=["window_start", "segment"], of=of)
    value = "part / whole" if isinstance(source, ShareSource) else "whole"
    return _frame(counts.project(f"window_start as time, segment, ({value})::double as value"))


def _windows(
    rows: Relation,
    value: str,
    window_s: int,
    times: pl.DataFrame,
) -> pl.DataFrame:
    """Aggregate rows to windows, by segment and in total."""
    bucket = _bucket(window_s)
    reduced = _within(rows, times, window_s).aggregate(
        f"{bucket} as time, segment, {value} as value",
        f"grouping sets (({bucket}, segment), ({bucket}))",
    )
    return _frame(reduced)


def _bucket(window_s: int) -> str:
    return f"time_bucket(to_seconds({window_s}), moment)"


def _within(rows: Relation, times: pl.DataFrame, window_s: int) -> Relation:
    first = times["time"][0]
    last = times["time"][-1] + timedelta(seconds=window_s)
    return rows.filter(f"moment >= timestamp '{first}' and moment < timestamp '{last}'")


def _frame(reduced: Relation) -> pl.DataFrame:
    return pl.DataFrame(reduced.to_arrow_table()).with_columns(
        pl.col("time").cast(pl.Datetime("us")), pl.col("segment").fill_null(WHOLE)
    )


def _with_zeros(frame: pl.DataFrame, reporting: pl.DataFrame) -> pl.DataFrame:
    """Add zeros in windows in which the lake has other telemetry."""
    if frame.is_empty():
        return frame
    zero = reporting.filter(pl.col("segment") == WHOLE).select("time")
    missing = zero.join(frame.filter(pl.col("segment") == WHOLE), on="time", how="anti")
    zeros = missing.with_columns(segment=pl.lit(WHOLE), value=pl.lit(0.0))
    return pl.concat([frame, zeros.select(frame.columns)])


def _segment(name: str | None) -> str:
    """Return the SQL of a segment as text that is neither null nor `WHOLE`."""
    if name is None:
        return f"'{UNKNOWN}'"
    return f"coalesce(nullif({operations.attribute_sql(name)}::varchar, ''), '{UNKNOWN}')"


def _described(kpi: Kpi) -> str:
    source = kpi.source
    if isinstance(source, MetricSource):
        return f"the metric {source.name}"
    if isinstance(source, LogSource):
        return f"the event {source.event}"
    if isinstance(source, FileSource):
        return f"the file {source.path}"
    if isinstance(source, SqlSource):
        return "its query"
    return f"spans where {source.where}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
