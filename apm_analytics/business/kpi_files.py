"""Read a KPI from a CSV or Parquet file: times with their zone, one value per row.

In:  a `FileSource` of specs/kpis.yaml.
Out: a frame `moment` (UTC), `amount`, `segment`.
"""

from datetime import UTC, datetime

import polars as pl

from apm_analytics.business.specs import FileSource
from apm_analytics.foundation.errors import BadInput, NotFound
from apm_analytics.foundation.frames import read_parquet

MAX_NAMED = 3


def read(source: FileSource) -> pl.DataFrame:
    """Read the file of a KPI.

    Times without a zone are local times of `zone`. Local times that a clock change skips or
    repeats are refused.

    Raises
    ------
    NotFound
        No such file.
    BadInput
        Not CSV or Parquet, a missing column, a time or value that cannot be read, or a local time
        that does not exist or exists twice.
    """
    if not source.path.exists():
        raise NotFound(
            f"no file {source.path}; correct `path` in kpis.yaml (relative to its folder)"
        )
    try:
        if source.path.suffix.lower() in (".parquet", ".pq"):
            frame = read_parquet(source.path)
        else:
            frame = pl.read_csv(source.path, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"{source.path} cannot be read as CSV or Parquet: {error}") from error
    needed = [source.time, source.value, *([source.segment] if source.segment else [])]
    absent = [name for name in needed if name not in frame.columns]
    if absent:
        raise BadInput(f"{source.path} has no column {', '.join(absent)}; it has {frame.columns}")
    amount = frame[source.value].cast(pl.Float64, strict=False)
    _refuse(
        source,
        frame[source.value],
        frame[source.value].is_not_null() & amount.is_null(),
        "is not a number",
    )
    segment = frame[source.segment].cast(pl.String) if source.segment else pl.lit("unknown")
    return (
        frame.select(moment=_utc(source, frame[source.time]), segment=segment)
        .with_columns(amount=amount)
        .filter(pl.col("amount").is_not_null())
        .with_columns(pl.col("segment").fill_null("unknown"))
    )


def _utc(source: FileSource, times: pl.Series) -> pl.Series:
    if times.dtype == pl.String:
        parsed_times = [_moment(text) for text in times.to_list()]
        aware = [time.tzinfo is not None for time in parsed_times if time is not None]
        if any(aware) and not all(aware):
            raise BadInput(
                f"{source.path}: some times of {source.time} have a zone and some have none; "
                "write all of them the same way"
            )
        moments = [time.astimezone(UTC) if time and any(aware) else time for time in parsed_times]
        parsed = pl.Series(moments, dtype=pl.Datetime("us", "UTC" if any(aware) else None))
    else:
        parsed = times.cast(pl.Datetime("us", getattr(times.dtype, "time_zone", None)))
    _refuse(source, times, parsed.is_null(), "is not a time such as 2026-03-01T14:00:00Z")
    if parsed.dtype.time_zone is None:  # type: ignore[attr-defined]
        local = parsed.dt.replace_time_zone(source.zone, ambiguous="null", non_existent="null")
        problem = f"does not exist or exists twice in {source.zone}; write it with its offset"
        _refuse(source, times, local.is_null(), problem)
        parsed = local
    return parsed.dt.convert_time_zone("UTC").dt.replace_time_zone(None)


def _moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat((text or "").strip())
    except ValueError:
        return None


def _refuse(source: FileSource, values: pl.Series, wrong: pl.Series, problem: str) -> None:
    if wrong.any():
        lines = (wrong.arg_true() + 2).head(MAX_NAMED).to_list()
        shown = values.filter(wrong).head(MAX_NAMED).to_list()
        raise BadInput(
            f"{source.path}, row {', '.join(map(str, lines))}: {shown} "
            f"{problem}; {int(wrong.sum())} such rows"
        )
