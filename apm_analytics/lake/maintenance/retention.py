"""Remove records that are older than their retention, and roll up old metric points.

In:  a lake, the retention of each signal, the time that it is relative to.
Out: parts without expired records; old metric points rolled up to one per minute.

A part is removed once all of it has expired. It never spans midnight, so records stay for up to a
day longer than their retention. Every period can be set per service.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa

from apm_analytics.foundation.settings import RetentionSettings
from apm_analytics.lake import damage, manifest, quarantine, query
from apm_analytics.lake.maintenance import compaction, rollup
from apm_analytics.lake.manifest import Part, open_manifest, transaction
from apm_analytics.lake.parts import NS_PER_HOUR, ROWS_A_GROUP
from apm_analytics.lake.schema import METRIC_TABLES, TABLES

NS_PER_DAY = 24 * NS_PER_HOUR
SIGNALS = {"spans": "traces_days", "logs": "logs_days"} | dict.fromkeys(
    METRIC_TABLES, "metrics_days"
)
# Points that are rolled up together in memory.
ROWS_AT_ONCE = 250_000
ALL, NONE = "true", "false"  # of the rows, in SQL

Progress = Callable[[int], object]


@dataclass
class Retained:
    """The result of one run or dry run: removed rows per table, points before and after.

    `left_out` lists the missing and damaged parts, which stay as they are until all of their rows
    have expired. `set_aside` names the series (service, metric) with a minute whose sums do not fit
    into 64 bits; its points of that minute stay as they were.
    """

    removed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))
    points_before: int = 0
    points_after: int = 0
    left_out: list[Part] = field(default_factory=list)
    set_aside: list[tuple[str, str]] = field(default_factory=list)


def retain(
    lake: Path,
    periods: RetentionSettings,
    *,
    now_s: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Retained:
    """Remove records that are older than their retention, then roll up old metric points.

    Ages are relative to `now_s`, not to the newest record, so a recording that is older than its
    retention is emptied. Files of replaced parts are removed after `manifest.GRACE_S`.

    Parameters
    ----------
    now_s : the current time, in seconds since 1970; by default this machine's clock.
    dry_run : change nothing; `points_after` is then unknown and 0.
    progress : called with the rows of each finished part.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    ApmError
        Writing failed; what was done before stays.
    """
    now_s = time.time() if now_s is None else now_s
    now_ns = int(now_s * 1e9)
    done = Retained()
    with open_manifest(lake):
        pass
    with compaction.maintenance(lake):
        for part in _live(lake):
            expired = damage.without_damaged(
                lake,
                [part],
                partial(_expire, lake, periods=periods, now_s=now_s, dry_run=dry_run),
                done.left_out,
            )
            done.removed[part.table] += expired or 0
            if progress is not None:
                progress(part.rows)
        readable = [part for part in damage.listing(lake).parts if part not in done.left_out]
        for some, chosen in _old_points(readable, periods, now_ns):
            rolled = damage.without_damaged(
                lake,
                some,
                partial(
                    _roll_up,
                    lake,
                    chosen=chosen,
                    now_s=now_s,
                    set_aside=done.set_aside,
                    dry_run=dry_run,
                ),
                done.left_out,
            )
            before, after = rolled or (0, 0)
            done.points_before += before
            done.points_after += after
            if progress is not None:
                progress(before)
        if not dry_run:
            manifest.back_up(lake)
            compaction.remove_replaced(lake, before_s=now_s - manifest.GRACE_S)
            quarantine.expire(lake, now_s=now_s)
    done.left_out += [
        each.part for each in damage.listing(lake).left_out if each.part not in done.left_out
    ]
    return done


@dataclass(frozen=True)
class Outlook:
    """What retention will do to the rows of one table.

    Parameters
    ----------
    too_old : rows that the next run removes.
    too_fine : metric points that the next run rolls up.
    next_s, next_rows : the first time after that at which a run removes rows, in seconds since
        1970, and the rows that expire within that hour; None and 0 without such rows.
    """

    table: str
    too_old: int = 0
    too_fine: int = 0
    next_s: float | None = None
    next_rows: int = 0


def outlook(
    lake: Path, periods: RetentionSettings, *, now_s: float | None = None, since: int = 0
) -> list[Outlook]:
    """Return what `retain` would do now, and when it will remove rows next.

    Parameters
    ----------
    now_s : the current time, in seconds since 1970; by default this machine's clock.
    since : consider only parts that were added after this snapshot.

    Returns
    -------
    One entry per table with rows. If services have their own retention, `next_s` follows the
    shortest.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    """
    now_s = time.time() if now_s is None else now_s
    live = [part for part in damage.listing(lake).parts if part.snapshot > since]
    fine: dict[str, int] = {}
    damaged: list[Part] = []
    for some, chosen in _old_points(live, periods, int(now_s * 1e9)):
        rows = damage.without_damaged(lake, some, partial(_rows, lake, chosen=chosen), damaged)
        fine[some[0].table] = fine.get(some[0].table, 0) + (rows or 0)
    outlooks = []
    held = {part.table for part in live}
    for table in (name for name in TABLES if name in held):
        days = _least_days(periods, SIGNALS[table])
        old = 0
        due: list[tuple[float, int]] = []
        for part in live:
            if part.table == table:
                gone = damage.without_damaged(
                    lake,
                    [part],
                    partial(_expire, lake, periods=periods, now_s=now_s, dry_run=True),
                    damaged,
                )
                if gone is None:
                    continue
                old += gone
                due_s = part.last_time_ns / 1e9 + days * 86_400
                if gone < part.rows:
                    due.append((max(due_s, now_s), part.rows - gone))
        next_s = min((at for at, _ in due if at > now_s), default=None)
        within = [rows for at, rows in due if next_s and now_s < at < next_s + 3_600]
        # Expired points are removed, not rolled up.
        rolled = max(fine.get(table, 0) - old, 0)
        outlooks.append(Outlook(table, old, rolled, next_s, sum(within)))
    return outlooks


def _least_days(periods: RetentionSettings, signal: str) -> float:
    of_services = [getattr(service, signal) for service in periods.services.values()]
    days = [getattr(periods, signal), *of_services]
    return float(min(value for value in days if value is not None))


def _live(lake: Path) -> list[Part]:
    with open_manifest(lake) as con:
        return manifest.live_parts(con)


def _expire(
    lake: Path, some: Sequence[Part], periods: RetentionSettings, now_s: float, dry_run: bool
) -> int:
    """Remove the expired rows of one part; return their number."""
    (part,) = some
    signal = SIGNALS[part.table]
    age_days = (now_s - part.last_time_ns / 1e9) / 86_400
    days_of_service = {
        service: days
        for service, retention in periods.services.items()
        if (days := getattr(retention, signal)) is not None
    }
    too_old = age_days > getattr(periods, signal)
    odd = sorted(
        service for service, days in days_of_service.items() if (age_days > days) != too_old
    )
    if not too_old and not odd:
        return 0
    with query.offline() as con:
        stays = (
            f"(coalesce(service_name, '') in (select unnest($odd)) {'' if too_old else 'is false'})"
        )
        file = {"file": query.literally(lake / part.path), "odd": odd or [""]}
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
        assert reader is not None  # a select returns rows
        batches = reader.to_arrow_reader(ROWS_A_GROUP)
        rows = (pa.Table.from_batches([batch]).cast(TABLES[part.table]) for batch in batches)
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
    """Yield groups of parts of raw points, each of one table and day, and SQL of the old rows."""
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
            if some and sum(other.rows for other in some) + part.rows > ROWS_AT_ONCE:
                yield some, chosen
                some = []
            some.append(part)
        yield some, chosen


def _chosen(periods: RetentionSettings, age_hours: float) -> str:
    """Return SQL of the services whose points of this age are rolled up."""
    old = age_hours > periods.high_resolution_hours
    odd = sorted(
        service
        for service, retention in periods.services.items()
        if (hours := retention.high_resolution_hours) is not None and (age_hours > hours) != old
    )
    if not odd:
        return ALL if old else NONE
    listed = ", ".join("'" + service.replace("'", "''") + "'" for service in odd)
    return f"coalesce(service_name, '') {'not in' if old else 'in'} ({listed})"


def _rows(lake: Path, some: Sequence[Part], chosen: str) -> int:
    if chosen == ALL:
        return sum(part.rows for part in some)
    return int(_select(lake, some, "count(*) as rows", chosen)["rows"][0].as_py())


def _roll_up(
    lake: Path,
    some: Sequence[Part],
    chosen: str,
    now_s: float,
    set_aside: list[tuple[str, str]],
    dry_run: bool,
) -> tuple[int, int]:
    """Replace the chosen points by rolled-up ones; return the number of points before and after."""
    before = _rows(lake, some, chosen)
    if dry_run or not before:
        return before, 0
    table = some[0].table
    files = [lake / part.path for part in some]
    made = 0
    too_large: set[tuple[str, str]] = set()
    gauges = [TABLES[rollup.EXPONENTIAL].empty_table()]

    def points() -> Iterator[pa.Table]:
        nonlocal made
        for range_ in _minutes(lake, some, chosen):
            rolled, histograms, large = rollup.roll_up(
                files, table, chosen=f"({chosen}) and {range_}"
            )
            gauges.append(histograms)
            too_large.update(large)
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
    set_aside += sorted(too_large - set(set_aside))
    return before, made


def _minutes(lake: Path, some: Sequence[Part], chosen: str) -> list[str]:
    """Return SQL of ranges of whole minutes of about `ROWS_AT_ONCE` rows each."""
    at_ns = "epoch_ns(time)"
    minute_ns = rollup.SECONDS * 10**9
    counts = _select(
        lake, some, f"{at_ns} // {minute_ns} as minute, count(*) as n", chosen, "minute"
    )
    conditions: list[str] = []
    first = rows = 0
    counted = sorted(zip(*(counts[name].to_pylist() for name in ("minute", "n")), strict=True))
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
            params={"files": [query.literally(lake / part.path) for part in some]},
        )
        assert found is not None  # a select gives rows
        return found.to_arrow_table()
