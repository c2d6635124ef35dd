"""Keep telemetry as long as was asked for: old records go, old metric points get coarser.

In:  a lake, how long each signal is kept, the time that this is relative to.
Out: parts without what is too old; metric points older than a day rolled up to one a minute.

A part goes once all of it is too old; it never spans midnight, so records stay for up to a day
longer than asked for. A service may have figures of its own for all of it.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from apm_analytics.foundation.settings import RetentionSettings
from apm_analytics.lake import manifest, query
from apm_analytics.lake.maintenance import compaction, rollup
from apm_analytics.lake.manifest import Part, open_manifest, transaction
from apm_analytics.lake.parts import NS_PER_HOUR, ROWS_A_GROUP
from apm_analytics.lake.schema import METRIC_TABLES, TABLES

NS_PER_DAY = 24 * NS_PER_HOUR
SIGNALS = {"spans": "traces_days", "logs": "logs_days"} | dict.fromkeys(
    METRIC_TABLES, "metrics_days"
)
# Points that are rolled up together, in memory.
ROWS_AT_ONCE = 250_000
ALL, NONE = "true", "false"  # of the rows, in SQL

Progress = Callable[[int], object]


@dataclass
class Retained:
    """What one run did, or would do: rows that went by table, points before and after."""

    removed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))
    points_before: int = 0
    points_after: int = 0


def retain(
    lake: Path,
    periods: RetentionSettings,
    *,
    now_s: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Retained:
    """Remove what is older than its period, then roll up old metric points.

    Everything is relative to `now_s`, not to the newest record: a recording of the past that is
    older than the periods is emptied. The files go after a grace, as those of compaction do.

    Parameters
    ----------
    now_s : the time, in seconds since 1970; of this machine when left out.
    dry_run : change nothing; `points_after` is then not known and 0.
    progress : called with the rows of each part that is done.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    ApmError
        The disk refused; what was done so far stays done.

    Examples
    --------
    >>> retain(Path("data/lake"), settings.retention(Path()), dry_run=True)  # doctest: +SKIP
    """
    now_s = time.time() if now_s is None else now_s
    now_ns = int(now_s * 1e9)
    done = Retained()
    with open_manifest(lake):
        pass
    with compaction.maintenance(lake):
        for part in _live(lake):
            done.removed[part.table] += _expire(lake, part, periods, now_s, dry_run)
            if progress is not None:
                progress(part.rows)
        for some, chosen in _old_points(_live(lake), periods, now_ns):
            rows = _rows(lake, some, chosen)
            if rows and not dry_run:
                done.points_after += _roll_up(lake, some, chosen, now_s)
            done.points_before += rows
            if progress is not None:
                progress(rows)
        if not dry_run:
            compaction.remove_replaced(lake, before_s=now_s - manifest.GRACE_S)
    return done


@dataclass(frozen=True)
class Outlook:
    """What retention will do to the rows of one table.

    Parameters
    ----------
    too_old : rows that the next run removes.
    too_fine : metric points that the next run rolls up.
    next_s, next_rows : when later runs remove something first, in seconds since 1970, and how many
        rows within that hour; None and 0 where there is nothing.
    """

    table: str
    too_old: int = 0
    too_fine: int = 0
    next_s: float | None = None
    next_rows: int = 0


def outlook(
    lake: Path, periods: RetentionSettings, *, now_s: float | None = None, since: int = 0
) -> list[Outlook]:
    """Tell what `retain` would do now, and when it will have something to remove.

    Parameters
    ----------
    now_s : the time, in seconds since 1970; of this machine when left out.
    since : look only at what came after this snapshot.

    Returns
    -------
    One entry for each table that holds rows. Where services have figures of their own, `next_s`
    is the first time that any of them goes.

    Raises
    ------
    NotFound
        There is no lake at `lake`.

    Examples
    --------
    >>> outlook(Path("data/lake"), settings.retention(Path()))[0].too_old  # doctest: +SKIP
    0
    """
    now_s = time.time() if now_s is None else now_s
    live = [part for part in _live(lake) if part.snapshot > since]
    fine: dict[str, int] = {}
    for some, chosen in _old_points(live, periods, int(now_s * 1e9)):
        fine[some[0].table] = fine.get(some[0].table, 0) + _rows(lake, some, chosen)
    found = []
    held = {part.table for part in live}
    for table in (name for name in TABLES if name in held):
        days = _least_days(periods, SIGNALS[table])
        old = 0
        due: list[tuple[float, int]] = []
        for part in live:
            if part.table == table:
                gone = _expire(lake, part, periods, now_s, dry_run=True)
                old += gone
                due_s = part.last_time_ns / 1e9 + days * 86_400
                if gone < part.rows:
                    due.append((max(due_s, now_s), part.rows - gone))
        next_s = min((at for at, _ in due if at > now_s), default=None)
        within = [rows for at, rows in due if next_s and now_s < at < next_s + 3_600]
        # Points that are too old are not rolled up first.
        rolled = max(fine.get(table, 0) - old, 0)
        found.append(Outlook(table, old, rolled, next_s, sum(within)))
    return found


def _least_days(periods: RetentionSettings, signal: str) -> float:
    own = [getattr(one, signal) for one in periods.services.values()]
    return float(min([getattr(periods, signal), *(days for days in own if days is not None)]))


def _live(lake: Path) -> list[Part]:
    with open_manifest(lake) as con:
        return manifest.live_parts(con)


def _expire(lake: Path, part: Part, periods: RetentionSettings, now_s: float, dry_run: bool) -> int:
    """Remove the rows of a part that are too old, and give their number."""
    signal = SIGNALS[part.table]
    age_days = (now_s - part.last_time_ns / 1e9) / 86_400
    own = {
        service: days
        for service, one in periods.services.items()
        if (days := getattr(one, signal)) is not None
    }
    too_old = age_days > getattr(periods, signal)
    odd = sorted(service for service, days in own.items() if (age_days > days) != too_old)
    if not too_old and not odd:
        return 0
    with query.offline() as con:
        stays = (
            f"(coalesce(service_name, '') in (select unnest($odd)) {'' if too_old else 'is false'})"
        )
        file = {"file": str(lake / part.path), "odd": odd or [""]}
        source = f"from read_parquet($file, hive_partitioning = false) where {stays}"
        counted = con.execute(f"select count(*) {source}", file).fetchall() if odd else [(0,)]
        kept = int(counted[0][0])
        if kept == part.rows:
            return 0
        if dry_run:
            return part.rows - kept
        if kept == 0:
            with open_manifest(lake, create=True) as manifest_, transaction(manifest_):
                manifest.replace_parts(manifest_, [part], [], now_s)
            return part.rows
        reader = con.sql(f"select * {source}", params=file)
        assert reader is not None  # a select gives rows
        batches = reader.to_arrow_reader(ROWS_A_GROUP)
        rows = (pa.Table.from_batches([one]).cast(TABLES[part.table]) for one in batches)
        compaction.rewrite(
            lake,
            [part],
            rows,
            now_s=now_s,
            level=part.level + 1,
            resolution_s=part.resolution_s,
        )
    return part.rows - kept


def _old_points(
    live: Iterable[Part], periods: RetentionSettings, now_ns: int
) -> Iterator[tuple[list[Part], str]]:
    """Give parts of raw points, some of one table and day together, and the SQL of the old rows."""
    groups: dict[tuple[str, int, str], list[Part]] = {}
    for part in live:
        if part.table in METRIC_TABLES and part.resolution_s < rollup.SECONDS:
            chosen = _chosen(periods, (now_ns - part.last_time_ns) / NS_PER_HOUR)
            key = (part.table, part.first_time_ns // NS_PER_DAY, chosen)
            groups.setdefault(key, []).append(part)
    for (_, _, chosen), group in groups.items():
        if chosen == NONE:
            continue
        some: list[Part] = []
        for part in group:
            if some and sum(one.rows for one in some) + part.rows > ROWS_AT_ONCE:
                yield some, chosen
                some = []
            some.append(part)
        yield some, chosen


def _chosen(periods: RetentionSettings, age_hours: float) -> str:
    """Say in SQL of which services points of this age lose their resolution."""
    old = age_hours > periods.high_resolution_hours
    odd = sorted(
        service
        for service, own in periods.services.items()
        if own.high_resolution_hours is not None and (age_hours > own.high_resolution_hours) != old
    )
    if not odd:
        return ALL if old else NONE
    listed = ", ".join("'" + service.replace("'", "''") + "'" for service in odd)
    return f"coalesce(service_name, '') {'not in' if old else 'in'} ({listed})"


def _rows(lake: Path, some: Sequence[Part], chosen: str) -> int:
    if chosen == ALL:
        return sum(part.rows for part in some)
    return int(_select(lake, some, "count(*) as rows", chosen)["rows"][0].as_py())


def _roll_up(lake: Path, some: Sequence[Part], chosen: str, now_s: float) -> int:
    """Let rolled-up points stand for the chosen ones; the others stay as they are."""
    table = some[0].table
    files = [lake / part.path for part in some]
    made = 0
    gauges = [TABLES[rollup.EXPONENTIAL].empty_table()]

    def points() -> Iterator[pa.Table]:
        nonlocal made
        for range_ in _minutes(lake, some, chosen):
            rolled, own = rollup.roll_up(files, table, chosen=f"({chosen}) and {range_}")
            gauges.append(own)
            made += rolled.num_rows
            yield rolled

    def others() -> pa.Table:
        if chosen == ALL:
            return TABLES[table].empty_table()
        return _select(lake, some, "*", f"not ({chosen})").cast(TABLES[table])

    compaction.rewrite(
        lake,
        some,
        points(),
        now_s=now_s,
        level=max(part.level for part in some) + 1,
        resolution_s=rollup.SECONDS,
        beside=[
            (rollup.EXPONENTIAL, lambda: pa.concat_tables(gauges), rollup.SECONDS),
            (table, others, 0),
        ],
    )
    return made


def _minutes(lake: Path, some: Sequence[Part], chosen: str) -> list[str]:
    """Give the SQL of stretches of whole minutes of about as many rows as fit in memory."""
    at_ns = "epoch_ns(time)"
    minute_ns = rollup.SECONDS * 10**9
    found = _select(
        lake, some, f"{at_ns} // {minute_ns} as minute, count(*) as n", chosen, "minute"
    )
    conditions: list[str] = []
    first = rows = 0
    counted = sorted(zip(*(found[name].to_pylist() for name in ("minute", "n")), strict=True))
    for number, (minute, count) in enumerate(counted):
        if not rows:
            first = minute
        rows += count
        following = counted[number + 1][1] if number + 1 < len(counted) else ROWS_AT_ONCE
        if rows + following > ROWS_AT_ONCE:
            until_ns = (minute + 1) * minute_ns
            conditions.append(f"{at_ns} >= {first * minute_ns} and {at_ns} < {until_ns}")
            rows = 0
    return conditions


def _select(
    lake: Path, some: Sequence[Part], what: str, where: str, by: str | None = None
) -> pa.Table:
    with query.offline() as con:
        found = con.sql(
            f"select {what} from read_parquet($files, hive_partitioning = false) where {where}"
            + (f" group by {by}" if by else ""),
            params={"files": [str(lake / part.path) for part in some]},
        )
        assert found is not None  # a select gives rows
        return found.to_arrow_table()
