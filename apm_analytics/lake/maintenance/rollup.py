"""Roll metric points up to one per minute, so that later queries stay correct.

In:  raw points of one metric table.
Out: one point per minute in the same table; for gauges also their distribution, as exponential
     histograms of kind `gauge` (docs/decisions on retention).

| points | kept per minute |
|---|---|
| gauges, sums that go up and down | the last point; for gauges also a histogram |
| cumulative sums, histograms | the last point of each start, and the last before a reset |
| delta sums, histograms | their sum: buckets of equal bounds, exponential ones at one scale |
| summaries, points without a value | the last |
| a delta minute whose sums do not fit into 64 bits | all points, unchanged |
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apm_analytics.lake import query
from apm_analytics.lake.schema import TABLES

SECONDS = 60
# Metadata key of rolled-up points.
MARK = "apm.rollup.seconds"
# Buckets of gauges are 1.1 % wide; 160 is OpenTelemetry's default maximum number of buckets. Values
# of one sign that are more than a factor of 5.6 (2^(160/64)) apart need a smaller scale, which the
# point states: each step down doubles the factor's logarithm and the width of the buckets.
GAUGE_SCALE = 6
MAX_BUCKETS = 160
# Counts are stored as signed integers of 64 bits.
MOST = 2**63 - 1
EXPONENTIAL = "exp_histogram_points"
# Columns that do not identify a series.
_VALUES = {
    "time",
    "start_time",
    "flags",
    "value",
    "value_int",
    "count",
    "sum",
    "min",
    "max",
    "explicit_bounds",
    "bucket_counts",
    "scale",
    "zero_count",
    "zero_threshold",
    "positive_offset",
    "positive_bucket_counts",
    "negative_offset",
    "negative_bucket_counts",
    "quantiles",
    "quantile_values",
    "exemplars",
}
# Columns that only the last point of a minute keeps.
_KEPT_OF_LAST = {"quantiles", "quantile_values", "exemplars"}

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


def roll_up(
    files: Sequence[Path], table: str, *, chosen: str = "true"
) -> tuple[pa.Table, pa.Table, list[tuple[str, str]]]:
    """Roll up the points of some parts.

    Parameters
    ----------
    chosen : SQL condition of the rows to roll up.

    Returns
    -------
    One point per minute of the same table, and exponential histograms of its gauges (no rows for
    other tables), both in order of time; and the (service, metric) of points whose sums do not fit
    into 64 bits, which stay as they were.
    """
    points, merged = _points(files, table, chosen)
    if table == "histogram_points":
        merged = _with_explicit_buckets(points, merged)
    elif table == EXPONENTIAL:
        merged = _with_exponential_buckets(points, merged)
    gauges = (
        _gauges(points, merged) if table == "metric_points" else TABLES[EXPONENTIAL].empty_table()
    )
    large = merged.filter(pc.field("large"))
    names = zip(large["service_name"].to_pylist(), large["name"].to_pylist(), strict=True)
    return _finished(merged, table), gauges, sorted({(one or "", two) for one, two in names})


def _points(files: Sequence[Path], table: str, chosen: str) -> tuple[pa.Table, pa.Table]:
    """Read points with the number of their `cell`: one series in one minute.

    Returns
    -------
    All points with only the columns that are summed, and the points that stay, mostly the last of
    each cell, with all columns; all columns of all points would take ten times the memory.
    """
    schema = TABLES[table]
    names = set(schema.names)
    series = ", ".join(name for name in schema.names if name not in _VALUES)
    value = "value" if "value" in names else "count"
    key = "series, odd, minute, bounds, if(rising, start_time, null)"
    odd = "coalesce(flags, 0) & 1 = 1"
    if "value" in names:
        odd += " or value is null or not isfinite(value)"
    rising = "monotonic" if "monotonic" in names else "true"
    summed = [name for name in ("value", "count", "sum", "zero_count") if name in names]
    whole = [name for name in ("value_int", "count", "zero_count") if name in names]
    buckets = [name for name in schema.names if name.endswith("bucket_counts")]
    added = [f"coalesce({name}, 0)::hugeint" for name in whole] + [
        f"coalesce(list_sum({name}), 0)::hugeint" for name in buckets
    ]
    # Sums of absolute values: no order of adding may leave the range.
    most = " + ".join(f"abs({one})" for one in added) or "0::hugeint"
    replaced = [f"if(delta, sum({name}) over cell, {name}) as {name}" for name in summed]
    if "value_int" in names:
        complete = (
            "if(count(value_int) over cell = count(*) over cell, sum(value_int) over cell, null)"
        )
        replaced.append(f"if(delta, {complete}, value_int) as value_int")
    if "min" in names:
        replaced += [
            f"if(delta, {name}({name}) over cell, {name}) as {name}" for name in ("min", "max")
        ]
    if "zero_threshold" in names:
        replaced.append(
            "if(delta, max(zero_threshold) over cell, zero_threshold) as zero_threshold"
        )
    replaced.append("if(delta, min(start_time) over cell, start_time) as start_time")
    bounds = "hash(explicit_bounds)" if "explicit_bounds" in names else "0"
    narrow = [name for name in schema.names if name in _VALUES - _KEPT_OF_LAST or name == "kind"]
    made = "cell, odd, delta, large"
    source = (
        "read_parquet($files, hive_partitioning = false, filename = true, file_row_number = true)"
    )
    given = {"files": [query.literally(file) for file in files]}
    with query.offline() as con:
        con.execute(
            f"""
            create temp table numbered as
            with points as (
              select
                {", ".join(narrow)},
                hash(filename) as file,
                file_row_number as place,
                hash({series}) as series,
                {odd} as odd,
                temporality is not distinct from 'delta' and not ({odd}) as adds,
                {most} as most,
                temporality is not distinct from 'cumulative'
                  and coalesce({rising}, false) as rising,
                time_bucket(interval {SECONDS} seconds, time::timestamp) as minute,
                {bounds} as bounds
              from {source}
              where {chosen}
            ), sized as (
              select
                *,
                adds and sum(most) over (partition by {key}) > {MOST} as large,
                adds and not large as delta
              from points
            )
            select
              * exclude (most) replace ({", ".join(replaced)}),
              large or row_number() over (cell order by time desc) = 1
                or (rising and lead({value}) over ordered < {value}) as last,
              dense_rank() over (order by {key}) - 1 as cell
            from sized
            window cell as (partition by {key}), ordered as (partition by series, odd order by time)
            """,
            given,
        )
        summands = con.sql(f"select {', '.join(narrow)}, {made} from numbered order by time")
        kept = con.sql(
            f"""
            select
              points.* exclude (filename, file_row_number)
                replace ({", ".join(f"numbered.{name} as {name}" for name in narrow)}),
              {made}
            from {source} as points
            join numbered
              on numbered.place = file_row_number and numbered.file = hash(points.filename)
            where numbered.last
            order by time
            """,
            params=given,
        )
        assert summands is not None and kept is not None  # a select returns rows
        return summands.to_arrow_table(), kept.to_arrow_table()


def _finished(rows: pa.Table, table: str) -> pa.Table:
    """Return the columns of the table's schema, with the mark of rolled-up points."""
    schema = TABLES[table]
    mark = pa.array([[(MARK, str(SECONDS))]] * rows.num_rows, schema.field("metric_metadata").type)
    place = rows.column_names.index("metric_metadata")
    rows = rows.set_column(place, "metric_metadata", _with_mark(rows["metric_metadata"], mark))
    return rows.select(schema.names).cast(schema)


def _with_mark(metadata: pa.ChunkedArray, mark: pa.Array) -> pa.Array:
    if metadata.null_count == len(metadata):
        return mark
    kept = [
        [*(pair for pair in (pairs or []) if pair[0] != MARK), (MARK, str(SECONDS))]
        for pairs in metadata.to_pylist()
    ]
    return pa.array(kept, mark.type)


def _with_explicit_buckets(points: pa.Table, merged: pa.Table) -> pa.Table:
    """Sum the buckets of delta histograms, bucket by bucket."""
    delta = points.filter(pc.field("delta"))
    group, place, count = _elements(delta, "bucket_counts")
    lengths = np.zeros(_cells(points), np.int64)
    np.maximum.at(lengths, group, place + 1)
    sums, starts = _placed(group, place, count, lengths)
    return _with_lists(merged, "bucket_counts", sums, starts, lengths)


def _with_exponential_buckets(points: pa.Table, merged: pa.Table) -> pa.Table:
    """Sum the buckets of delta exponential histograms at the largest scale that fits all."""
    delta = points.filter(pc.field("delta"))
    buckets = {}
    for sign in ("positive", "negative"):
        group, place, count = _elements(delta, f"{sign}_bucket_counts")
        row = np.repeat(np.arange(delta.num_rows), _lengths(delta, f"{sign}_bucket_counts"))
        offset = _ints(delta[f"{sign}_offset"])
        scale = _ints(delta["scale"])
        buckets[sign] = (group, place + offset[row], count, scale[row])
    return _with_merged(merged, _cells(points), buckets)


def _with_merged(
    merged: pa.Table, cells: int, buckets: dict[str, tuple[Ints, Ints, Ints, Ints]]
) -> pa.Table:
    """Set scale, offsets and buckets of the summed rows; other rows stay unchanged."""
    scale = np.full(cells, np.iinfo(np.int64).max)
    for group, _, _, own in buckets.values():
        np.minimum.at(scale, group, own)
    indexes = {
        sign: (group, index >> (own - scale[group]), count)
        for sign, (group, index, count, own) in buckets.items()
    }
    shift = np.zeros(cells, np.int64)
    for group, index, _ in indexes.values():
        low, high = _range(group, index, cells)
        while np.any(wide := (high >> shift) - (low >> shift) >= MAX_BUCKETS):
            shift[wide] += 1
    cell, sums = _ints(merged["cell"]), merged["delta"].to_numpy(zero_copy_only=False)
    known = sums & (scale[cell] < np.iinfo(np.int64).max)
    merged = _set(merged, "scale", np.where(known, (scale - shift)[cell], _ints(merged["scale"])))
    for sign, (group, index, count) in indexes.items():
        low, high = _range(group, index >> shift[group], cells)
        lengths = np.where(high >= low, high - low + 1, 0)
        low = np.where(lengths > 0, low, 0)
        total, starts = _placed(group, (index >> shift[group]) - low[group], count, lengths)
        offset = np.where(sums, low[cell], _ints(merged[f"{sign}_offset"]))
        merged = _set(merged, f"{sign}_offset", offset)
        merged = _with_lists(merged, f"{sign}_bucket_counts", total, starts, lengths)
    return merged


def _gauges(points: pa.Table, merged: pa.Table) -> pa.Table:
    """Return one exponential histogram per gauge series and minute."""
    chosen = (pc.field("kind") == "gauge") & ~pc.field("odd")
    gauges = points.filter(chosen)
    if not gauges.num_rows:
        return TABLES[EXPONENTIAL].empty_table()
    values = gauges["value"].to_numpy()
    cells = _cells(points)
    cell = _ints(gauges["cell"])
    buckets = {}
    for sign, some in (("positive", values > 0), ("negative", values < 0)):
        index = np.ceil(np.log2(np.abs(values[some])) * 2.0**GAUGE_SCALE).astype(np.int64) - 1
        ones = np.ones(index.size, np.int64)
        buckets[sign] = (cell[some], index, ones, np.full(index.size, GAUGE_SCALE))
    least, most = np.full(cells, np.inf), np.full(cells, -np.inf)
    np.minimum.at(least, cell, values)
    np.maximum.at(most, cell, values)
    last = merged.filter(chosen)
    at = _ints(last["cell"])
    rows = last.num_rows
    made: dict[str, Any] = {
        "count": np.bincount(cell, minlength=cells)[at],
        "sum": np.bincount(cell, weights=values, minlength=cells)[at],
        "min": least[at],
        "max": most[at],
        "scale": np.full(rows, GAUGE_SCALE),
        "zero_count": np.bincount(cell[values == 0], minlength=cells)[at],
        "zero_threshold": np.zeros(rows),
        "delta": np.ones(rows, np.bool_),
        "exemplars": pa.nulls(rows, TABLES[EXPONENTIAL].field("exemplars").type),
    }
    for sign in ("positive", "negative"):
        made[f"{sign}_offset"] = np.zeros(rows, np.int64)
        made[f"{sign}_bucket_counts"] = pa.array([[]] * rows, pa.list_(pa.int64()))
    for name, column in made.items():
        last = _set(last, name, column)
    return _finished(_with_merged(last, cells, buckets), EXPONENTIAL)


def _with_lists(merged: pa.Table, name: str, total: Ints, starts: Ints, lengths: Ints) -> pa.Table:
    """Set the list column of the summed rows to the summed buckets."""
    cell, sums = _ints(merged["cell"]), merged["delta"].to_numpy(zero_copy_only=False)
    lists = [
        total[starts[c] : starts[c] + lengths[c]].tolist() if is_sum else kept
        for c, is_sum, kept in zip(
            cell.tolist(), sums.tolist(), merged[name].to_pylist(), strict=True
        )
    ]
    return _set(merged, name, pa.array(lists, pa.list_(pa.int64())))


def _elements(rows: pa.Table, name: str) -> tuple[Ints, Ints, Ints]:
    """Return cell, position in its list and value of each element of a list column."""
    lengths = _lengths(rows, name)
    starts = np.cumsum(lengths) - lengths
    place = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    return np.repeat(_ints(rows["cell"]), lengths), place, _ints(pc.list_flatten(rows[name]))


def _lengths(rows: pa.Table, name: str) -> Ints:
    return _ints(pc.list_value_length(rows[name]))


def _placed(group: Ints, place: Ints, count: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """Sum counts by cell and position; return the sums, and the first position of each cell."""
    starts = np.cumsum(lengths) - lengths
    total = np.zeros(int(lengths.sum()), np.int64)
    np.add.at(total, starts[group] + place, count)
    return total, starts


def _range(group: Ints, index: Ints, cells: int) -> tuple[Ints, Ints]:
    low, high = np.full(cells, 2**40), np.full(cells, -(2**40))
    np.minimum.at(low, group, index)
    np.maximum.at(high, group, index)
    return low, high


def _cells(points: pa.Table) -> int:
    return int(pc.max(points["cell"]).as_py() or 0) + 1


def _ints(values: Any) -> Ints:
    return np.asarray(pc.fill_null(values, 0).cast(pa.int64()), np.int64)


def _set(rows: pa.Table, name: str, values: Any) -> pa.Table:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    if name in rows.column_names:
        return rows.set_column(rows.column_names.index(name), name, column)
    return rows.append_column(name, column)
