"""Make the manifest again from the parts, or complete one that is older than they are.

In:  a lake whose manifest is missing, damaged or not the newest.
Out: a manifest that names each part whose rows are in no other part.

It starts from the manifest if every page is sound, else from its last backup, else from nothing.
Each part that it does not name says in its footer which commit it belongs to, which documents the
commit imported and which parts it replaced. A commit of several parts counts if all are there.
Parts whose rows are elsewhere go to quarantine; nothing is deleted.
"""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apm_analytics.foundation.atomic import sync_folder
from apm_analytics.foundation.errors import NotFound
from apm_analytics.lake import damage, manifest, quarantine, query
from apm_analytics.lake.maintenance import compaction
from apm_analytics.lake.manifest import LostManifest, Part, open_manifest, transaction
from apm_analytics.lake.parts import UNSEALED, Facts, read_facts
from apm_analytics.lake.schema import METRIC_TABLES, TABLES

Progress = Callable[[int], object]
_READ_BYTES = 1024 * 1024
_Aside = tuple[Path, str]  # a file, and why it goes to quarantine


@dataclass
class Rebuilt:
    """The result: what it started from, and paths relative to the lake.

    Parameters
    ----------
    base : `manifest`, `backup` or `parts`.
    taken_in : parts that the base did not name, with `rows` in total.
    set_aside : files that went to quarantine: their rows are in other parts, or they are damaged.
    missing : parts that the base names and that are not there.
    """

    base: str = "parts"
    rows: int = 0
    taken_in: list[str] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def rebuild(lake: Path, *, progress: Progress | None = None) -> Rebuilt:
    """Make the manifest again; a second run changes nothing.

    Receivers may run: they refuse requests while the manifest is lost, and continue afterwards. If
    it is killed, the same call finishes the job.

    Parameters
    ----------
    progress : called with the bytes of each part that was read.

    Raises
    ------
    NotFound
        There are neither parts nor a manifest at `lake`.
    """
    if not lake.is_dir() or not _has_lake(lake):
        raise NotFound(f"no lake at {lake}: neither parts nor a manifest; check the path")
    done = Rebuilt()
    with compaction.locked(lake):
        if _is_usable(lake):
            done.base = "manifest"
            with open_manifest(lake, create=True) as con, transaction(con):
                aside = _take_in(lake, con, done, progress)
        else:
            with _writers_stopped(lake / manifest.FILE_NAME):
                aside = _make(lake, done, progress)
        for file, reason in aside:
            done.set_aside.append(_path(lake, file))
            quarantine.move(lake, file, reason)
        manifest.back_up(lake)
    done.missing = [each.part.path for each in damage.listing(lake).left_out]
    return done


def _has_lake(lake: Path) -> bool:
    if (lake / manifest.BACKUP_NAME).exists():
        return True
    try:
        with open_manifest(lake):
            return True
    except NotFound:
        return False
    except LostManifest:
        return True


def _is_usable(lake: Path) -> bool:
    try:
        with open_manifest(lake) as con:
            manifest.check(con)
    except (LostManifest, NotFound):
        return False
    return True


@contextmanager
def _writers_stopped(file: Path) -> Iterator[None]:
    """Hold the write lock of a damaged manifest, if it can be locked; writers then find another."""
    con = None
    with suppress(sqlite3.Error):
        con = sqlite3.connect(f"file:{file}?mode=rw", uri=True, isolation_level=None)
        con.execute("begin immediate")
    try:
        yield
    finally:
        if con is not None:
            con.close()


def _make(lake: Path, done: Rebuilt, progress: Progress | None) -> list[_Aside]:
    """Write a new manifest beside the lost one, which then goes to quarantine."""
    temporary = lake / f".{manifest.FILE_NAME}.tmp"
    for suffix in ("", "-journal"):
        temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
    with closing(sqlite3.connect(temporary, isolation_level=None)) as con:
        if _copy_backup(lake, con):
            done.base = "backup"
        with transaction(con):
            manifest.create_tables(con)
            aside = _take_in(lake, con, done, progress)
            # Hot views compare the number, which must be another than that of the lost manifest.
            now = int(datetime.now(UTC).timestamp())
            con.execute("insert or ignore into erasures values (?, ?)", (now, now))
    with open(temporary, "rb") as written:
        os.fsync(written.fileno())
    for suffix in ("-wal", "-shm", ""):
        lost = lake / f"{manifest.FILE_NAME}{suffix}"
        if lost.exists():
            quarantine.move(lake, lost, quarantine.MANIFEST)
    os.rename(temporary, lake / manifest.FILE_NAME)
    sync_folder(lake)
    return aside


def _copy_backup(lake: Path, con: sqlite3.Connection) -> bool:
    """Fill an empty manifest from the last backup; return whether it is usable."""
    file = lake / manifest.BACKUP_NAME
    if not file.exists():
        return False
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as backup:
            manifest.check(backup)
            backup.backup(con)
    except sqlite3.DatabaseError:
        return False
    return True


@dataclass(frozen=True)
class _File:
    """A part that the base does not name; `file` is where it lies now."""

    file: Path
    part: Part
    facts: Facts


def _take_in(
    lake: Path, con: sqlite3.Connection, done: Rebuilt, progress: Progress | None
) -> list[_Aside]:
    """Complete a manifest by the parts that it does not name, in the caller's transaction.

    Returns
    -------
    The files to move to quarantine once the transaction is committed.
    """
    live = {part.path: part for part in manifest.live_parts(con)}
    known = set(live) | {part.path for part in manifest.replaced_parts(con)}
    _put_back(lake, live, quarantined=done.base != "parts")
    unknown: dict[str, _File] = {}
    aside: list[_Aside] = []
    for file in _candidates(lake, quarantined=done.base != "parts"):
        path = _path(lake, file)
        if path in known or path in unknown:
            continue
        if progress is not None:
            progress(file.stat().st_size)
        looked_at = _look(lake, file)
        if looked_at is not None:
            unknown[path] = looked_at
        elif lake / path == file:
            aside.append((file, quarantine.DAMAGED))
    refused, replaced = _judge(lake, con, live, unknown)
    _retire(con, [part for path, part in live.items() if path in replaced])
    commits: dict[str, list[_File]] = {}
    in_order = sorted(unknown.values(), key=lambda file: file.file.stat().st_mtime_ns)
    for looked_at in in_order:
        if looked_at.part.path not in refused:
            commits.setdefault(looked_at.facts.commit, []).append(looked_at)
    taken: list[Part] = []
    for commit, files in commits.items():
        chosen = [file for file in files if file.part.path not in replaced]
        # The documents of replaced parts are imported, too.
        documents = [document for file in files for document in file.facts.documents]
        whole = _is_whole(commit, unknown, live, replaced)
        if chosen or documents:
            _commit(lake, con, files[0], chosen, documents if whole else [])
        taken += [file.part for file in chosen]
    done.taken_in = sorted(part.path for part in taken)
    done.rows = sum(part.rows for part in taken)
    _add_units(lake, con, taken)
    return aside + [
        (file.file, quarantine.REPLACED)
        for path, file in unknown.items()
        if path in refused or path in replaced
    ]


def _candidates(lake: Path, *, quarantined: bool) -> Iterator[Path]:
    """Yield the files that may be parts; those in quarantine only beside known documents."""
    for table in TABLES:
        yield from sorted((lake / table).glob("date=*/hour=*/*.parquet"))
    if quarantined:
        for file in quarantine.files(lake, quarantine.UNKNOWN):
            if file.suffix == ".parquet" and _path(lake, file).partition("/")[0] in TABLES:
                yield file


def _path(lake: Path, file: Path) -> str:
    """Return the path of a part relative to the lake, also of one in quarantine."""
    inside = file.is_relative_to(lake / quarantine.FOLDER)
    return str((quarantine.origin(lake, file) if inside else file).relative_to(lake))


def _put_back(lake: Path, live: dict[str, Part], *, quarantined: bool) -> None:
    """Move live parts back that are in quarantine as unknown."""
    if not quarantined:
        return
    for file in quarantine.files(lake, quarantine.UNKNOWN):
        part = live.get(_path(lake, file))
        gone = part is not None and not (lake / part.path).exists()
        if part is not None and gone and damage.sha256(file) == part.sha256:
            _restore(lake, file, part.path)


def _restore(lake: Path, file: Path, path: str) -> None:
    into = lake / path
    into.parent.mkdir(parents=True, exist_ok=True)
    os.rename(file, into)
    sync_folder(into.parent)


def _look(lake: Path, file: Path) -> _File | None:
    """Read what a part says about itself; return None if it is damaged or no part."""
    path = _path(lake, file)
    table = path.partition("/")[0]
    try:
        with pq.ParquetFile(file) as opened:
            metadata = opened.metadata
            if set(opened.schema_arrow.names) - set(TABLES[table].names):
                return None
            times = opened.read(["time"])["time"].cast(pa.int64())
            facts = Facts.of(metadata.metadata) or Facts(f"{path} of an earlier version")
            sha256, sealed = _sha256(file, metadata.serialized_size, facts.sha256)
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
        return None
    if facts.sha256 not in (UNSEALED, sealed) or not metadata.num_rows:
        return None
    part = Part(
        path=path,
        table=table,
        rows=metadata.num_rows,
        bytes=file.stat().st_size,
        first_time_ns=pc.min(times).as_py(),
        last_time_ns=pc.max(times).as_py(),
        sha256=sha256,
        origin=facts.origin or sha256,
        level=facts.level,
        resolution_s=facts.resolution_s,
    )
    return _File(file, part, facts)


def _sha256(file: Path, footer_bytes: int, seal: str) -> tuple[str, str]:
    """Return the hash of a file, and the hash that its footer should state as `seal`."""
    digest = hashlib.sha256()
    # The footer is followed by its size and the magic bytes.
    left = file.stat().st_size - footer_bytes - 8
    with open(file, "rb") as content:
        while left > 0 and (data := content.read(min(_READ_BYTES, left))):
            digest.update(data)
            left -= len(data)
        sealed = digest.copy()
        rest = content.read()
    digest.update(rest)
    sealed.update(rest[:footer_bytes].replace(seal.encode(), UNSEALED.encode(), 1))
    return digest.hexdigest(), sealed.hexdigest()


def _judge(
    lake: Path, con: sqlite3.Connection, live: dict[str, Part], unknown: dict[str, _File]
) -> tuple[set[str], set[str]]:
    """Return the unknown parts that were never committed, and the parts that others replaced."""
    replaced: set[str] = set()
    refused: set[str] = set()
    for part in live.values():
        facts = read_facts(lake / part.path)
        replaced.update(facts.replaces + facts.replaced_before if facts else ())
    rewritten = [file for file in unknown.values() if file.facts.replaces]
    named = replaced.union(*(file.facts.replaces for file in rewritten))
    for file in unknown.values():
        whole = _is_whole(file.facts.commit, unknown, live, named)
        there = all(
            source in unknown or (source in live and (lake / source).exists())
            for source in file.facts.replaces
        )
        if not file.facts.replaces:
            if _is_elsewhere(lake, con, file, unknown, whole=whole):
                refused.add(file.part.path)
        elif there and not whole:
            # The rest of its rows are in the sources alone.
            refused.add(file.part.path)
        else:
            replaced.update(file.facts.replaces + file.facts.replaced_before)
    return refused, replaced


def _is_elsewhere(
    lake: Path, con: sqlite3.Connection, file: _File, unknown: dict[str, _File], *, whole: bool
) -> bool:
    """Return whether the rows of an import are in other parts, or will be."""
    documents = [
        document
        for other in unknown.values()
        if other.facts.commit == file.facts.commit
        for document in other.facts.documents
    ]
    if manifest.known_documents(con, documents):
        return True
    waiting = {f"journal:{segment.stem}" for segment in (lake / "journal").rglob("*.segment")}
    # A segment that is replayed has the documents `<its own>#<place>`.
    return not whole and any(document.partition("#")[0] in waiting for document in documents)


def _is_whole(
    commit: str, unknown: dict[str, _File], live: dict[str, Part], named: set[str]
) -> bool:
    """Return whether all parts of a commit are there, or were there and are replaced."""
    files = [file.facts for file in unknown.values() if file.facts.commit == commit]
    last = [facts.number for facts in files if facts.last]
    if not last:
        return False
    others = [path for path in {*named, *live} if path not in unknown]
    # The name of a part starts with that of its commit.
    counted = sum(Path(path).stem.startswith(commit) for path in others)
    return len({facts.number for facts in files}) + counted > last[0]


def _retire(con: sqlite3.Connection, old: list[Part]) -> None:
    """Replace parts that the base names by those that are taken in."""
    manifest.replace_parts(con, old, [], datetime.now(UTC).timestamp())


def _commit(
    lake: Path, con: sqlite3.Connection, first: _File, chosen: list[_File], documents: list[str]
) -> None:
    """Record parts of one commit as a snapshot of the time when they were written."""
    written_s = first.file.stat().st_mtime
    for file in chosen:
        if file.file != lake / file.part.path:
            _restore(lake, file.file, file.part.path)
    at = datetime.fromtimestamp(written_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    source = first.facts.source or "apm lake rebuild"
    snapshot = manifest.add_snapshot(con, [file.part for file in chosen], documents, source)
    con.execute("update snapshots set committed_at = ? where id = ?", (at, snapshot))


def _add_units(lake: Path, con: sqlite3.Connection, parts: list[Part]) -> None:
    """Register the first unit of each metric in the parts."""
    for table in METRIC_TABLES:
        files = [str(lake / part.path) for part in parts if part.table == table]
        if files:
            with query.offline() as reader:
                rows = reader.execute(
                    "select coalesce(service_name, ''), name, arg_min(coalesce(unit, ''), time)"
                    " from read_parquet($files, hive_partitioning = false) group by all",
                    {"files": files},
                ).fetchall()
            con.executemany("insert or ignore into metric_units values (?, ?, ?)", rows)
