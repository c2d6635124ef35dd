"""Keep telemetry as long as was asked for: old records go, old metric points get coarser.

In:  a lake, how long each signal is kept, the time that this is relative to.
Out: parts without what is too old; metric points older than a day rolled up to one a minute.

A part goes once all of it is too old; it never spans midnight, so records stay for up to a day
longer than asked for.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from apm_analytics.lake import compaction, manifest, query, rollup
from apm_analytics.lake.manifest import Part, open_manifest, transaction
from apm_analytics.lake.parts import NS_PER_HOUR, ROWS_A_GROUP
from apm_analytics.lake.schema import METRIC_TABLES, TABLES
from apm_analytics.settings import RetentionSettings

NS_PER_DAY = 24 * NS_PER_HOUR
SIGNALS = {"spans": "traces_days", "logs": "logs_days"} | dict.fromkeys(
    METRIC_TABLES, "metrics_days"
)
# Points that are rolled up together, in memory.
ROWS_AT_ONCE = 250_000

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
        limit_ns = now_ns - int(periods.high_resolution_hours * NS_PER_HOUR)
        for some in _old_points(_live(lake), limit_ns):
            rows = sum(part.rows for part in some)
            if not dry_run:
                done.points_after += _roll_up(lake, some, now_s)
            done.points_before += rows
            if progress is not None:
                progress(rows)
        if not dry_run:
            compaction.remove_replaced(lake, before_s=now_s - manifest.GRACE_S)
    return done


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


def _old_points(live: Iterable[Part], limit_ns: int) -> Iterator[list[Part]]:
    """Give parts of raw metric points older than a time, some of one table and day together."""
    groups: dict[tuple[str, int], list[Part]] = {}
    for part in live:
        raw = part.table in METRIC_TABLES and part.resolution_s < rollup.SECONDS
        if raw and part.last_time_ns < limit_ns:
            groups.setdefault((part.table, part.first_time_ns // NS_PER_DAY), []).append(part)
    for group in groups.values():
        some: list[Part] = []
        for part in group:
            if some and sum(one.rows for one in some) + part.rows > ROWS_AT_ONCE:
                yield some
                some = []
            some.append(part)
        yield some


def _roll_up(lake: Path, some: Sequence[Part], now_s: float) -> int:
    points, gauges = rollup.roll_up([lake / part.path for part in some], some[0].table)
    compaction.rewrite(
        lake,
        some,
        [points],
        now_s=now_s,
        level=max(part.level for part in some) + 1,
        resolution_s=rollup.SECONDS,
        beside=(rollup.EXPONENTIAL, lambda: gauges),
    )
    return int(points.num_rows)
