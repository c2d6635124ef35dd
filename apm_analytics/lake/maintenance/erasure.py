"""Remove a person's records from the lake.

In:  a lake and the id that the person has in `user.id`.
Out: parts without these records, and a receipt that does not name the person.

A record is the person's if it carries the id: in the column, in one of its maps (also under an
older name), in an event or a link. A metric point covers many people, so only its exemplars that
carry the id are removed. Spans of the same trace that do not carry the id stay. In all other
records the id is masked where it is a whole word in a body, a URL or another attribute; a short id
is not masked, because it may mean something else.
"""

import base64
import hashlib
import hmac
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from apm_analytics import __version__
from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadParameter
from apm_analytics.lake import damage, manifest, quarantine, query
from apm_analytics.lake.journal import journal
from apm_analytics.lake.maintenance import compaction, masking
from apm_analytics.lake.maintenance.masking import Mask
from apm_analytics.lake.manifest import Part, open_manifest, transaction
from apm_analytics.lake.parts import ROWS_A_GROUP, Facts, PartWriter
from apm_analytics.lake.schema import OLD_NAMES, TABLES, TEXT_MAP

USER = "user.id"
KEYS = (USER, *(old for old, new in OLD_NAMES.items() if new == USER))
RECEIPTS = "receipts"
KEY_FILE = "key"
DEAD_LETTERS = "dead_letter"
JOURNAL = "journal"
# A receiver writes a request to a part within a second and removes its segment a second later.
WAIT_S = 15.0
LOOK_AGAIN_S = 0.1
AT_ONCE = 64  # parts per query

Progress = Callable[[int], object]


def erase(
    lake: Path, user: str, *, now_s: float | None = None, progress: Progress | None = None
) -> Path:
    """Remove every record of a person; a second run removes nothing, and its receipt says so.

    Replaced files are deleted at once. A query that listed them but has not opened them fails with
    an error that says to connect again; hot views reload. If it is killed, the same call finishes
    the job.

    Parameters
    ----------
    user : the value of `user.id`.
    now_s : the current time, in seconds since 1970; by default this machine's clock.
    progress : called with the bytes of each searched group of parts.

    Returns
    -------
    The file of the receipt: records removed and records masked per table, parts rewritten, time,
    version, and the id as a keyed hash whose key is in `receipts/key`. `mentions_masked` is false
    if the id is too short to be masked. `journal_segments_left` above 0 means that requests with
    the id wait in the journal and no receiver runs; start one, then repeat the call.
    `parts_not_searched` lists the parts that are missing or damaged, also in quarantine.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    BadParameter
        An empty id, or one that is not Unicode.
    """
    if not user.strip() or any("\ud800" <= letter <= "\udfff" for letter in user):
        raise BadParameter(f"got the id {user!r}, need the user.id of one person")
    now_s = time.time() if now_s is None else now_s
    with open_manifest(lake):
        pass
    with compaction.maintenance(lake):
        done = _Erasing(lake, user, now_s, progress)
        until = time.monotonic() + WAIT_S
        done.all_parts()
        # Wait for requests that a running receiver has accepted and not written to parts yet.
        received = _is_received(lake, user)
        while received and time.monotonic() < until:
            time.sleep(LOOK_AGAIN_S)
            done.all_parts()
            received = bool(_segments(lake, ".segment", user))
        _set_strays_aside(lake, now_s)
        done.quarantined()
        with open_manifest(lake, create=True) as con, transaction(con):
            con.execute("insert into erasures (erased_at_s) values (?)", (now_s,))
        manifest.back_up(lake)
        # Under the lock, so that no letter is being taken into the lake meanwhile.
        letters = _erase_letters(lake, user)
    damaged = _erase_damaged(lake, user)
    return _write_receipt(
        lake,
        user,
        {
            "erased_at": datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds"),
            "version": __version__,
            "records": dict(done.removed),
            "masked": dict(done.masked),
            "mentions_masked": masking.is_distinctive(user),
            "parts_rewritten": done.rewritten,
            "parts_not_searched": done.not_searched,
            "dead_letters": letters,
            "damaged_segments": damaged,
            "journal_segments_left": len(_segments(lake, ".segment", user)),
        },
    )


def _parts(lake: Path) -> dict[Part, bool]:
    """Return all parts whose files exist, and whether each is live."""
    with open_manifest(lake) as con:
        live = manifest.live_parts(con)
        return dict.fromkeys(manifest.replaced_parts(con), False) | dict.fromkeys(live, True)


class _Erasing:
    """The search through all parts, and its counts."""

    def __init__(self, lake: Path, user: str, now_s: float, progress: Progress | None) -> None:
        self.removed: Counter[str] = Counter({table: 0 for table in TABLES})
        self.masked: Counter[str] = Counter({table: 0 for table in TABLES})
        self.rewritten = 0
        self.not_searched: list[str] = []
        self._lake, self._user, self._now_s = lake, user, now_s
        self._progress = progress
        self._searched: set[str] = set()

    def all_parts(self) -> None:
        """Search all parts, including those that arrive meanwhile."""
        while parts := {
            part: live
            for part, live in _parts(self._lake).items()
            if part.path not in self._searched
        }:
            for part in [part for part, live in parts.items() if not live]:
                if not (self._lake / part.path).exists():
                    # A killed process removed the file and did not update the manifest.
                    compaction.remove_files(self._lake, [part])
                    del parts[part]
            for table in TABLES:
                of_table = [part for part in parts if part.table == table]
                for at in range(0, len(of_table), AT_ONCE):
                    some = of_table[at : at + AT_ONCE]
                    self._searched.update(part.path for part in some)
                    damaged = damage.find(self._lake, some)
                    self._leave_out([part for part in damaged if parts[part]])
                    # Their rows are in other parts.
                    compaction.remove_files(
                        self._lake, [part for part in damaged if not parts[part]]
                    )
                    sound = [part for part in some if part not in damaged]
                    for part in _suspects(self._lake, sound, self._user):
                        self._erase_from(part, parts[part])
                    if self._progress is not None:
                        self._progress(sum(part.bytes for part in some))

    def quarantined(self) -> None:
        """Search the files in quarantine."""
        for file in quarantine.files(self._lake, *quarantine.REASONS):
            origin = quarantine.origin(self._lake, file).relative_to(self._lake)
            root = file.parents[len(origin.parts) - 1]
            try:
                if file.suffix == ".parquet" and origin.parts[0] in TABLES:
                    self._erase_from_file(root, file)
                elif _is_word(self._user, file.read_bytes()):
                    self.not_searched.append(str(file.relative_to(self._lake)))
            except damage.ERRORS:
                self.not_searched.append(str(file.relative_to(self._lake)))

    def _erase_from_file(self, root: Path, file: Path) -> None:
        """Rewrite a part in quarantine without the person's rows."""
        metadata = pq.read_metadata(file)
        path = file.relative_to(root)
        part = Part(str(path), path.parts[0], metadata.num_rows, 0, 0, 0, "")
        removed, masked = _count(root, part, self._user)
        if not removed and not masked:
            return
        day, hour = (name.partition("=")[2] for name in path.parts[1:3])
        start = datetime.fromisoformat(f"{day}T{hour}:00:00+00:00")
        start_ns = int(start.timestamp()) * 10**9
        with PartWriter(root, part.table, file.stem, start_ns, part.rows) as writer:
            for rows in _rows_without(root, part, self._user):
                writer.write(rows)
            if writer.rows:
                temporary, _ = writer.finish(Facts.of(metadata.metadata) or Facts(file.stem))
                os.replace(temporary, file)
            else:
                writer.discard()
                file.unlink()
        self.removed[part.table] += removed
        self.masked[part.table] += masked

    def _leave_out(self, parts: Sequence[Part]) -> None:
        self.not_searched += [part.path for part in parts if part.path not in self.not_searched]

    def _erase_from(self, part: Part, live: bool) -> None:
        removed, masked = _count(self._lake, part, self._user)
        if not removed and not masked:
            return
        if live:
            made = _without(self._lake, part, self._user, self._now_s)
            self._searched.update([made.path] if made else [])
            self.removed[part.table] += removed
            self.masked[part.table] += masked
            self.rewritten += 1
        compaction.remove_files(self._lake, [part])


def _suspects(lake: Path, some: Sequence[Part], user: str) -> list[Part]:
    """Return those parts of one table that may contain the id."""
    if not some:
        return []
    table = some[0].table
    may, parameters = f"({_is_the_persons(table)}) or ({_exemplar_of(table)})", {"user": user}
    if masking.is_distinctive(user):
        mask = Mask.of(table, user)
        may = f"{may} or {mask.may_mention()}"
        # DuckDB refuses parameters that the statement does not use.
        parameters |= {name: form for name, form in mask.forms.items() if f"${name}" in may}
    by_file = {str((lake / part.path).resolve()): part for part in some}
    files = [query.literally(lake / part.path) for part in some]
    with query.offline() as con:
        suspects = con.execute(
            "select distinct filename"
            " from read_parquet($files, hive_partitioning = false, filename = true)"
            f" where {may}",
            {**parameters, "files": files},
        ).fetchall()
    return [by_file[name] for (name,) in suspects]


def _count(lake: Path, part: Part, user: str) -> tuple[int, int]:
    """Count the rows of a part that carry the id, and the other rows that mention it."""
    carries = f"({_is_the_persons(part.table)}) or ({_exemplar_of(part.table)})"
    mentions, parameters = "false", {"file": query.literally(lake / part.path), "user": user}
    if masking.is_distinctive(user):
        mask = Mask.of(part.table, user)
        mentions, parameters = mask.mentions(), {**parameters, **mask.pattern, **mask.forms}
    with query.offline() as con:
        ((removed, masked),) = con.execute(
            f"select count(*) filter ({carries}),"
            f" count(*) filter (not ({carries}) and ({mentions}))"
            " from read_parquet($file, hive_partitioning = false)",
            parameters,
        ).fetchall()
    return int(removed), int(masked)


def _without(lake: Path, part: Part, user: str, now_s: float) -> Part | None:
    """Replace a part by one without the person's rows."""
    return compaction.rewrite(
        lake,
        [part],
        _rows_without(lake, part, user),
        now_s=now_s,
        level=part.level,
        resolution_s=part.resolution_s,
    )


def _rows_without(lake: Path, part: Part, user: str) -> Iterator[pa.Table]:
    """Yield the rows of others, with the id masked."""
    with query.offline() as con:
        parameters = {"file": query.literally(lake / part.path), "user": user}
        columns = "*"
        if masking.is_distinctive(user):
            mask = Mask.of(part.table, user)
            columns = ", ".join(mask.columns.get(name, name) for name in TABLES[part.table].names)
            parameters |= mask.pattern
        selected = con.sql(
            f"select {columns} from (select {_columns(part.table)}"
            " from read_parquet($file, hive_partitioning = false)"
            f" where not coalesce({_is_the_persons(part.table)}, false))",
            params=parameters,
        )
        assert selected is not None  # a select returns rows
        for batch in selected.to_arrow_reader(ROWS_A_GROUP):
            named = pa.Table.from_batches([batch]).rename_columns(TABLES[part.table].names)
            yield named.cast(TABLES[part.table])


def _is_the_persons(table: str) -> str:
    """Return SQL for "a row of this table carries the id $user"."""
    cases = []
    for field in TABLES[table]:
        if field.name == "user_id":
            cases.append("user_id = $user")
        elif field.type == TEXT_MAP:
            cases.append(_in_map(field.name))
        elif field.name == "attributes_num":
            cases += [f"attributes_num['{key}'] = try_cast($user as double)" for key in KEYS]
        elif field.name in ("events", "links"):
            cases.append(
                f"len(list_filter({field.name}, lambda one: {_in_map('one.attributes')})) > 0"
            )
    return " or ".join(f"coalesce({case}, false)" for case in cases)


def _exemplar_of(table: str) -> str:
    if "exemplars" not in TABLES[table].names:
        return "false"
    return f"len(list_filter(exemplars, lambda one: {_in_map('one.attributes')})) > 0"


def _columns(table: str) -> str:
    """Return a table's columns in SQL, without the person's exemplars."""
    return ", ".join(
        f"list_filter(exemplars, lambda one: not {_in_map('one.attributes')}) as exemplars"
        if name == "exemplars"
        else name
        for name in TABLES[table].names
    )


def _in_map(map_: str) -> str:
    return "(" + " or ".join(f"coalesce({map_}['{key}'] = $user, false)" for key in KEYS) + ")"


def _erase_letters(lake: Path, user: str) -> int:
    """Remove the dead letters that mention the id; return their number."""
    removed = 0
    for file in sorted((lake / DEAD_LETTERS).glob("*.jsonl")):
        lines = file.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if not _letter_mentions(line, user)]
        removed += len(lines) - len(kept)
        if not kept:
            file.unlink(missing_ok=True)
        elif len(kept) < len(lines):
            write_atomic(file, b"".join(kept))
    return removed


def _letter_mentions(line: bytes, user: str) -> bool:
    try:
        letter = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _is_word(user, line)
    text = letter.get("document", "").encode()
    content = base64.b64decode(letter.get("document_base64", ""))
    if masking.is_distinctive(user) and _is_word(user, line):
        return True
    return _is_word(user, text) or _is_word(user, content) or _carries(letter, user)


def _carries(value: Any, user: str) -> bool:
    """Return whether an attribute in an OTLP JSON record has the id."""
    if isinstance(value, list):
        return any(_carries(item, user) for item in value)
    if not isinstance(value, dict):
        return False
    if value.get("key") in KEYS and isinstance(value.get("value"), dict):
        return any(str(item) == user for item in value["value"].values())
    return any(_carries(item, user) for item in value.values())


def _erase_damaged(lake: Path, user: str) -> int:
    """Remove damaged journal segments that mention the id; they are never replayed."""
    segments = _segments(lake, ".damaged", user)
    for file in segments:
        file.unlink(missing_ok=True)
    return len(segments)


def _segments(lake: Path, suffix: str, user: str) -> list[Path]:
    segments = []
    for file in (lake / JOURNAL).rglob(f"*{suffix}"):
        # The receiver may remove a segment at any time.
        with suppress(FileNotFoundError):
            if _is_word(user, file.read_bytes()):
                segments.append(file)
    return segments


def _is_received(lake: Path, user: str) -> bool:
    """Return whether a running receiver holds requests that mention the id."""
    return any(journal.is_locked(file.parent) for file in _segments(lake, ".segment", user))


def _set_strays_aside(lake: Path, now_s: float) -> None:
    """Move files that no snapshot names to quarantine; remove those of killed processes."""
    with open_manifest(lake, create=True) as con, transaction(con):
        manifest.check(con)
        # During this transaction no other process is between its renames and its commit.
        named = {part.path for part in manifest.live_parts(con) + manifest.replaced_parts(con)}
        for table in TABLES:
            for file in [path for path in (lake / table).rglob("*") if path.is_file()]:
                if quarantine.is_temporary(file) or str(file.relative_to(lake)) in named:
                    continue
                quarantine.move(lake, file, quarantine.UNKNOWN, now_s=now_s)
    for root in (lake, *(lake / quarantine.FOLDER).glob("*/*")):
        for table in TABLES:
            for file in (root / table).glob("date=*/hour=*/.*.tmp"):
                if not _is_alive(int(file.name.split(".")[-2])):
                    file.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_word(user: str, content: bytes) -> bool:
    text = user.encode()
    # In protobuf the length precedes the text, and may look like a letter.
    if len(text) < 128 and bytes([len(text)]) + text in content:
        return True
    pattern = rb"(?<![0-9A-Za-z_])" + re.escape(text) + rb"(?![0-9A-Za-z_])"
    return re.search(pattern, content) is not None


def _write_receipt(lake: Path, user: str, content: dict[str, object]) -> Path:
    folder = lake / RECEIPTS
    folder.mkdir(exist_ok=True)
    key_file = folder / KEY_FILE
    with suppress(FileExistsError):
        handle = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as out:
            out.write(os.urandom(32))
            out.flush()
            os.fsync(out.fileno())
    digest = hmac.new(key_file.read_bytes(), user.encode(), hashlib.sha256).hexdigest()
    receipt = {"user_id_hmac_sha256": digest, **content}
    written = orjson.dumps(receipt, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    at = re.sub(r"[-:]|[+].*", "", str(content["erased_at"]))
    file = folder / f"erasure-{at}-{digest[:8]}.json"
    write_atomic(file, written)
    return file
