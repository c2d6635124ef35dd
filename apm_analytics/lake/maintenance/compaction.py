"""Merge small parts into large ones while readers and writers continue.

In:  a lake whose receiver writes two parts per second and table.
Out: the same rows in few parts, sorted by time; the files of replaced parts are removed later.

Parts of one table and day are merged when there are many of similar size, so a row is rewritten
only a few times, however long the lake grows (docs/decisions on compaction).
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import ApmError
from apm_analytics.lake import damage, manifest, parts
from apm_analytics.lake.maintenance import merging
from apm_analytics.lake.maintenance.merging import Columns
from apm_analytics.lake.manifest import GRACE_S, Part, open_manifest, transaction

LOCK = ".maintenance.lock"
# The new parts of a rewrite that is not committed yet.
REWRITING = ".rewriting"
# Parts of half this many rows are not merged further; of spans it is about 50 MB.
TARGET_ROWS = 1_000_000
# Late data of a day arrives within this time after its end.
LATE_S = 3_600.0
DAY_S = 86_400

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Rule:
    """Merge at least `parts` parts that have `factor` times the rows of the largest together.

    A row is rewritten at most log(TARGET_ROWS) to the base `factor` times.
    """

    parts: int
    factor: float


# A day that still grows waits for more parts; a past day should end with few.
OPEN_DAY = Rule(parts=16, factor=4.0)
CLOSED_DAY = Rule(parts=2, factor=2.0)


@dataclass
class Compaction:
    """The result of one run; `busy` if another process holds the lock and nothing was done.

    `left_out` lists the missing and damaged parts, which are not merged.
    """

    busy: bool = False
    merged: int = 0
    made: int = 0
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    removed_files: int = 0
    failed: list[str] = field(default_factory=list)
    left_out: list[Part] = field(default_factory=list)


def compact(
    lake: Path,
    *,
    now_s: float | None = None,
    grace_s: float = GRACE_S,
    progress: Progress | None = None,
) -> Compaction:
    """Merge small parts; cheap if there are none.

    If several processes call it, one works and the others return at once. If it is killed, no row
    is lost or duplicated, and a later run removes its leftovers.

    Parameters
    ----------
    now_s : the current time, in seconds since 1970; by default this machine's clock.
    grace_s : seconds that files of replaced parts stay, for readers that listed them before.
    progress : called with the number of rows of each finished merge.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    ApmError
        Writing failed; merges finished before stay.
    """
    now_s = time.time() if now_s is None else now_s
    done = Compaction()
    with open_manifest(lake):
        pass  # do not create a lock file where there is no lake
    try:
        with maintenance(lake, wait_s=0):
            found = damage.listing(lake)
            done.left_out += [each.part for each in found.left_out]
            for group in _groups(found.parts):
                _compact_group(lake, group, now_s, done, progress)
            if done.made or not (lake / manifest.BACKUP_NAME).exists():
                # Before files go: documents of merged parts are in the manifest alone.
                manifest.back_up(lake)
            done.removed_files = remove_replaced(lake, before_s=now_s - grace_s)
    except Timeout:
        done.busy = True
    return done


def due(lake: Path) -> bool:
    """Return whether `compact` would do something now.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    """
    now_s = time.time()
    with open_manifest(lake) as con:
        replaced = manifest.replaced_parts(con, now_s - GRACE_S)
    groups = _groups(damage.listing(lake).parts)
    return bool(replaced) or any(choose(group, _rule(group, now_s)) for group in groups)


@contextmanager
def maintenance(lake: Path, *, wait_s: float = -1) -> Iterator[None]:
    """Hold the lock for replacing parts of this lake; it is released if the process dies.

    Removes the new parts of a rewrite that was killed before its commit. Later the parts that it
    replaces may be gone, and `rebuild` would count its rows twice.

    Raises
    ------
    filelock.Timeout
        Another process held the lock for all of `wait_s`.
    """
    with locked(lake, wait_s=wait_s):
        rewriting = lake / REWRITING
        if rewriting.exists():
            with open_manifest(lake) as con:
                live, replaced = manifest.live_parts(con), manifest.replaced_parts(con)
            named = {part.path for part in live + replaced}
            for path in json.loads(rewriting.read_text()):
                if path not in named:
                    (lake / path).unlink(missing_ok=True)
            rewriting.unlink()
        yield


@contextmanager
def locked(lake: Path, *, wait_s: float = -1) -> Iterator[None]:
    """Hold the lock of `maintenance`, for a manifest that may be lost."""
    with FileLock(lake / LOCK, timeout=wait_s):
        yield


def rewrite(
    lake: Path,
    old: Sequence[Part],
    rows: Iterable[pa.Table | Columns],
    *,
    now_s: float,
    level: int,
    resolution_s: int = 0,
    origin: str | None = None,
    beside: Sequence[tuple[str, Callable[[], pa.Table], int]] = (),
) -> Part | None:
    """Replace old parts by one with `rows`, in one transaction.

    Parameters
    ----------
    old : parts of one table and day.
    rows : tables in order of time, or columns of them; without rows the old parts only go.
    origin : origin of the new part; by default its own hash.
    beside : further parts of the same transaction: table, function that returns its rows and is
        called after `rows` is exhausted, and resolution in seconds.

    Returns
    -------
    The new part; None without rows.

    Raises
    ------
    damage.Damaged
        Some of the old parts do not match their hash; nothing was changed.
    ApmError
        One of the old parts is no longer live; nothing was changed.
    """
    # A changed value must not get a new hash.
    if found := damage.find(lake, old):
        raise damage.Damaged(found)
    start_ns = min(part.first_time_ns for part in old)
    names = "\n".join(sorted(part.path for part in old))
    name = hashlib.blake2b(names.encode(), digest_size=16).hexdigest()
    expected = sum(part.rows for part in old)
    facts = parts.Facts(
        name,
        replaces=tuple(part.path for part in old),
        replaced_before=_replaced_before(lake, old),
        origin=origin or "",
        level=level,
        resolution_s=resolution_s,
    )
    written: list[parts.Written] = []
    try:
        with parts.PartWriter(lake, old[0].table, name, start_ns, expected) as writer:
            for some in rows:
                if isinstance(some, Columns):
                    writer.write_columns(*some)
                else:
                    writer.write(some)
            more = [
                (number, table_name, table, own_s)
                for number, (table_name, get, own_s) in enumerate(beside)
                if (table := get()).num_rows
            ]
            if writer.rows:
                written.append(writer.finish(replace(facts, last=not more)))
            else:
                writer.discard()
        for number, table_name, table, own_s in more:
            own = replace(facts, origin="", resolution_s=own_s)
            own = own.numbered(len(written), last=number == more[-1][0])
            written.extend(parts.write_parts(lake, table_name, table, f"{name}{number}", own))
        newest = max(part.snapshot for part in old)
        written = [(temporary, replace(part, snapshot=newest)) for temporary, part in written]
        new = [part.path for _, part in written]
        write_atomic(lake / REWRITING, json.dumps(new).encode())
        with open_manifest(lake, create=True) as con, transaction(con):
            if not manifest.replace_parts(con, old, [part for _, part in written], now_s):
                raise ApmError(
                    "another process replaced the parts meanwhile; run the same command again"
                )
            # Before the commit, so that a crash in between leaves a file that no manifest names.
            parts.put_in_place(lake, written)
        (lake / REWRITING).unlink()
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
    return next((part for _, part in written if part.table == old[0].table), None)


def _replaced_before(lake: Path, old: Sequence[Part]) -> tuple[str, ...]:
    """Return the parts that some parts replaced, as far as their files are still there."""
    with open_manifest(lake) as con:
        there = {part.path for part in manifest.replaced_parts(con)}
    if not there:
        return ()
    facts = [found for part in old if (found := parts.read_facts(lake / part.path))]
    return tuple(
        path for each in facts for path in each.replaces + each.replaced_before if path in there
    )


def remove_replaced(lake: Path, *, before_s: float) -> int:
    """Remove the files of parts that were replaced before a time; return their number."""
    with open_manifest(lake) as con:
        replaced = manifest.replaced_parts(con, before_s)
    if not replaced:
        return 0
    remove_files(lake, replaced)
    return len(replaced)


def remove_files(lake: Path, replaced: Sequence[Part]) -> None:
    """Remove the files of replaced parts, and the parts from the manifest."""
    for part in replaced:
        (lake / part.path).unlink(missing_ok=True)
    # Segments of the journal that still exist may be replayed.
    journal = {f"journal:{file.stem}" for file in (lake / "journal").rglob("*") if file.is_file()}
    with open_manifest(lake, create=True) as con:
        manifest.forget_replaced(con, replaced, journal=journal)


def _groups(live: Sequence[Part]) -> list[list[Part]]:
    """Group the parts below half the target by table, day and resolution."""
    groups: dict[tuple[str, int, int], list[Part]] = {}
    for part in live:
        if part.rows < TARGET_ROWS // 2:
            groups.setdefault((part.table, _day(part), part.resolution_s), []).append(part)
    return [group for group in groups.values() if len(group) > 1]


def choose(group: Sequence[Part], rule: Rule) -> list[Part]:
    """Choose which parts of one day to merge: the most that the rule and the target allow.

    Returns
    -------
    The smallest parts, older ones first among equals; empty if the rule is not met yet.
    """
    chosen: list[Part] = []
    best = rows = largest = 0
    for part in sorted(group, key=lambda part: (_size_class(part), part.first_time_ns)):
        rows += part.rows
        if rows > TARGET_ROWS:
            break
        chosen.append(part)
        largest = max(largest, part.rows)
        many = len(chosen) >= rule.parts and rows >= rule.factor * largest
        # The merged part is large enough to stay.
        final = rows >= TARGET_ROWS // 2 and rows >= CLOSED_DAY.factor * largest
        if many or final:
            best = len(chosen)
    return chosen[:best]


def _rule(group: Sequence[Part], now_s: float) -> Rule:
    closed = (_day(group[0]) + 1) * DAY_S + LATE_S < now_s
    return CLOSED_DAY if closed else OPEN_DAY


def _size_class(part: Part) -> int:
    """Return a class of similar sizes; parts of one class are merged in order of time."""
    return part.rows.bit_length() // 2


def _compact_group(
    lake: Path, group: list[Part], now_s: float, done: Compaction, progress: Progress | None
) -> None:
    rule = _rule(group, now_s)
    while chosen := choose(group, rule):
        rows = sum(part.rows for part in chosen)
        level = max(part.level for part in chosen) + 1
        try:
            made = rewrite(
                lake,
                chosen,
                merging.in_order_of_time(lake, chosen),
                now_s=now_s,
                level=level,
                origin=parts.sum_of_origins(chosen),
                resolution_s=chosen[0].resolution_s,
            )
        except damage.Damaged as error:
            done.left_out += error.parts
            group = [part for part in group if part not in error.parts]
            continue
        except (OSError, pa.ArrowException) as error:
            done.failed.append(
                f"{len(chosen)} parts of {chosen[0].table} could not be merged: {error}; "
                "`apm lake verify` lists the damaged ones"
            )
            return
        assert made is not None and made.rows == rows, f"{made} of {rows} rows"
        group = [part for part in group if part not in chosen]
        if made.rows < TARGET_ROWS // 2:
            group.append(made)
        done.merged += len(chosen)
        done.made += 1
        done.rows += rows
        done.bytes_before += sum(part.bytes for part in chosen)
        done.bytes_after += made.bytes
        if progress is not None:
            progress(rows)


def _day(part: Part) -> int:
    return part.first_time_ns // (parts.NS_PER_HOUR * 24)
