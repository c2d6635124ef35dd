"""Measure a lake for the quality check: DuckDB counts over all rows and returns a few numbers.

In:  a connection to the lake, the user's own measures.
Out: measures by table; `<measure>_note` says which column, when, or which names.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from apm_analytics.foundation.errors import ApmError, BadParameter
from apm_analytics.foundation.settings import QualityParams
from apm_analytics.lake import Connection, SqlError, query
from apm_analytics.lake.schema import COMPUTED, METRIC_TABLES, TABLES
from apm_analytics.quality.rules import METRICS, UserMeasure

# A span that lasts a day is a clock that jumped or an end that was never recorded.
MAX_DURATION_S = 86_400.0
# Traces this near to the first or last span may have been cut by the recording.
EDGE_S = 60.0
# Two clocks that NTP synchronises may differ by this much.
CLOCK_TOLERANCE_S = 0.001
# The ids of this many spans are compared at once, which takes about 300 MB.
SLICE_SPANS = 2_500_000
NULLS = "null_"  # prefix of columns that hold the share of nulls of one column
Measures = dict[str, Any]
_MISSING_ROWS = f"""
select
  table_name,
  sum(row_count)::bigint,
  string_agg(strftime(first_time, '%Y-%m-%d %H:%M') || ' to '
    || strftime(last_time, '%Y-%m-%d %H:%M') || ' UTC: ' || reason, '; ' order by first_time)
from {query.MISSING_PARTS}
group by table_name
"""


def measure(
    con: Connection,
    params: QualityParams,
    *,
    now: datetime | None,
    history_days: float | None,
    user_measures: Sequence[tuple[UserMeasure, str]] = (),
) -> dict[str, Measures]:
    """Measure every table that has rows, and `metrics` for all metric tables together.

    A table whose columns do not fit has only `schema`: the number of such columns. `user_measures`
    are those of specs/quality.yaml, each with its file and line.
    """
    measured: dict[str, Measures] = {"spans": {"rows": 0}}
    since: datetime | None = None
    for table in TABLES:
        try:
            if not _has_rows(con, table):
                continue
            odd = _odd_columns(con, table)
            measured[table] = {"schema": len(odd), "schema_note": _listed(odd)}
            if odd:
                continue
            if table == "spans" and history_days is not None:
                since = _newest(con) - timedelta(days=history_days)
            measured[table] |= _measure_table(con, table, since, params) | {"missing_rows": 0}
        except (SqlError, BadParameter) as error:
            # DESCRIBE reads the first part alone; a later one may differ or be damaged.
            measured[table] = {"schema": 1, "schema_note": str(error).splitlines()[0]}
    # Last: what is damaged is known once all of it was read.
    for table, rows, note in query.frame(con, _MISSING_ROWS).rows():
        measured.setdefault(table, {}).update(missing_rows=rows, missing_rows_note=note)
    if "last_time" in measured["spans"]:
        measured["spans"] |= _age(measured["spans"]["last_time"], now if params.check_age else None)
    metrics = [table for table in METRIC_TABLES if table in measured]
    if metrics and not any(measured[table].get("schema") for table in metrics):
        measured[METRICS] = _row(con, "metric_units", since=since)
    for extra, at in user_measures:
        if extra.table in measured and not measured[extra.table].get("schema"):
            measured[extra.table][extra.name] = _user_measure(con, extra, at, since)
    return measured


def _user_measure(
    con: Connection, extra: UserMeasure, at: str, since: datetime | None
) -> float | None:
    parameters: dict[str, object] = {"since": since} if "$since" in extra.sql else {}
    try:
        [(value,)] = query.frame(con, extra.sql, parameters).rows()
        return None if value is None else float(value)
    except (SqlError, ApmError, ValueError, TypeError) as error:
        raise BadParameter(
            f"{at}: {extra.name} needs a SELECT with one row and one number: {error}"
        ) from error


def _has_rows(con: Connection, table: str) -> bool:
    return not query.frame(con, f"select 1 from {table} limit 1").is_empty()


def _newest(con: Connection) -> datetime:
    newest = query.frame(con, "select max(time)::timestamp from spans").item()
    assert isinstance(newest, datetime)
    return newest


def _odd_columns(con: Connection, table: str) -> dict[str, str]:
    """Return what is wrong with which column, against `lake.schema`."""
    with query.offline() as empty:
        empty.register(table, TABLES[table].empty_table())
        needed = _types(empty, table)
    present = _types(con, table)
    odd = {
        column: f"is {present.get(column, 'missing')}, needs {kind}"
        for column, kind in needed.items()
        if present.get(column) != kind
    }
    known = {*needed, *COMPUTED.get(table, ())}
    return odd | {column: "is unknown" for column in present if column not in known}


def _types(con: Connection, table: str) -> dict[str, str]:
    return {row[0]: row[1] for row in query.frame(con, f"describe {table}").rows()}


def _measure_table(
    con: Connection, table: str, since: datetime | None, params: QualityParams
) -> Measures:
    if table != "spans":
        return _with_nulls(_row(con, f"{table}_quality", since=since))
    measures = _row(con, "spans_quality", since=since, max_duration_s=MAX_DURATION_S)
    gaps = _row(con, "span_gaps", since=since, min_gap_s=params.warn_gap_s)
    if gaps["gap_count"]:
        more = f", one of {gaps['gap_count']}" if gaps["gap_count"] > 1 else ""
        measures["gap_s_note"] = f"after {gaps['gap_began']:%Y-%m-%d %H:%M} UTC{more}"
    measures["gap_s"] = gaps["gap_s"]
    return _with_nulls(measures) | _compare_ids(con, measures, since)


def _age(newest: datetime, now: datetime | None) -> Measures:
    if now is None:
        return {"age_s": None, "age_s_note": "a recording of the past, or check_age is off"}
    return {"age_s": (now.astimezone(UTC).replace(tzinfo=None) - newest).total_seconds()}


def _compare_ids(con: Connection, spans: Measures, since: datetime | None) -> Measures:
    """Count duplicates, orphans and skewed children, one slice of the traces at a time."""
    edge = timedelta(seconds=EDGE_S)
    slices = spans["rows"] // SLICE_SPANS + 1
    counts: dict[str, int] = {}
    for number in range(slices):
        row = _row(
            con,
            "span_ids",
            since=since,
            begun=spans["first_time"] + edge,
            ending=spans["last_time"] - edge,
            tolerance_s=CLOCK_TOLERANCE_S,
            slices=slices,
            slice=number,
        )
        counts = {name: counts.get(name, 0) + count for name, count in row.items()}
    return {
        "duplicate_ratio": _share(counts["span_count"] - counts["id_count"], counts["span_count"]),
        "orphan_ratio": _share(counts["orphan_count"], counts["whole_count"]),
        "skew_ratio": _share(counts["skewed_count"], counts["child_count"]),
    }


def _with_nulls(measures: Measures) -> Measures:
    """Add the share of nulls of the worst column, with its name."""
    nulls = {
        name.removeprefix(NULLS): share
        for name, share in measures.items()
        if name.startswith(NULLS) and share is not None
    }
    worst = max(nulls, key=nulls.__getitem__, default="")
    note = worst if nulls and nulls[worst] > 0 else ""
    return measures | {"null_ratio": nulls.get(worst), "null_ratio_note": note}


def _row(con: Connection, name: str, **parameters: object) -> Measures:
    return query.named(con, name, **parameters).row(0, named=True)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _listed(odd: Mapping[str, str]) -> str:
    named = [f"{column} {fault}" for column, fault in odd.items()]
    return "; ".join(named[:3]) + (f"; {len(named) - 3} more" if len(named) > 3 else "")
