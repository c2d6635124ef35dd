"""Take records out of the dead letters that have become right since.

In:  the dead letters of a lake: records rejected for their time, their unit or a limit that has
     changed, documents that a newer version can decode.
Out: their rows in the lake; letters that are still rejected stay.

Every letter is a document of the lake: after a kill, the same call finishes the job, and no row is
there twice.
"""

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import orjson
import polars as pl

from apm_analytics.ingest.decode.records import Limits
from apm_analytics.ingest.decode.sink import Decoded
from apm_analytics.ingest.files import dead_letters
from apm_analytics.ingest.files.batch import decode
from apm_analytics.ingest.files.dead_letters import Letter
from apm_analytics.ingest.files.framing import Document
from apm_analytics.lake import snapshots
from apm_analytics.lake.journal import journal
from apm_analytics.lake.maintenance import compaction
from apm_analytics.lake.manifest import open_manifest

# Letters that are decoded and committed together: large enough for good parts.
BATCH_BYTES = 8 * 1024 * 1024
SOURCE = "apm lake dead-letters retry"
_JOURNAL, _LETTER = "journal-", "letter-"
_NUMBERS = re.compile(r"\d+(?:[-:., ]+\d+)*")


@dataclass
class Retried:
    """Letters taken, letters left, and the rows of those taken by table.

    Of those left, `waiting` are of requests that a receiver has not committed yet.
    """

    taken: int = 0
    left: int = 0
    waiting: int = 0
    rows: Counter[str] = field(default_factory=Counter)


class _Chosen(NamedTuple):
    name: str  # of the file of the letter
    identity: str
    document: Document
    imported: bool  # a document of an import, which the lake knows by the name of the file


def reasons(lake: Path) -> pl.DataFrame:
    """Return one row per reason and signal with the number of letters, most frequent first.

    Columns: reason (numbers are replaced by N), signal (null for broken documents), letters,
    first_written and last_written (UTC).

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    """
    with open_manifest(lake):
        pass
    found: dict[tuple[str, str | None], list[float]] = {}
    for name in dead_letters.names(lake):
        written_s = (lake / dead_letters.FOLDER / f"{name}.jsonl").stat().st_mtime
        for _, letter in dead_letters.read(lake, name):
            key = _NUMBERS.sub("N", letter["reason"]), letter.get("signal")
            found.setdefault(key, []).append(written_s)
    rows = [
        (reason, signal, len(times), _utc(min(times)), _utc(max(times)))
        for (reason, signal), times in found.items()
    ]
    columns = ("reason", "signal", "letters", "first_written", "last_written")
    kinds = (pl.String(), pl.String(), pl.Int64(), pl.Datetime("us"), pl.Datetime("us"))
    frame = pl.DataFrame(rows, dict(zip(columns, kinds, strict=True)), orient="row")
    return frame.sort("letters", "reason", descending=[True, False])


def retry(
    lake: Path,
    *,
    reason: str = "",
    earliest: datetime | None = None,
    dry_run: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Retried:
    """Take all dead letters that are accepted now.

    Parameters
    ----------
    reason : only letters whose reason contains this.
    earliest : records before it are not accepted, 2000-01-01 UTC by default.
    dry_run : only count; rows are those that would be added.
    progress : called with the number of letters of each batch.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    ApmError
        The disk refused, or another process takes the same letters; repeat the call.
    """
    limits = Limits.around_now(earliest)
    with open_manifest(lake):
        pass
    # Not while a person's records are erased: a letter that was read before would come back.
    with compaction.maintenance(lake):
        run = _Run(lake, limits, reason, dry_run, progress)
        return run.all_of(dead_letters.names(lake))


def retry_documents(lake: Path, names: Iterable[str], limits: Limits, *, reason: str) -> Retried:
    """Take the letters of some documents that are accepted now; see `retry`."""
    return _Run(lake, limits, reason, dry_run=False, progress=None).all_of(list(names))


class _Run:
    def __init__(
        self,
        lake: Path,
        limits: Limits,
        reason: str,
        dry_run: bool,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._lake = lake
        self._limits = limits
        self._reason = reason
        self._dry_run = dry_run
        self._progress = progress
        self._done = Retried()
        self._gone: dict[str, set[str]] = {}

    def all_of(self, names: Sequence[str]) -> Retried:
        pending = _pending(self._lake, names)
        batch: list[_Chosen] = []
        size = 0
        for name in names:
            for identity, letter in dead_letters.read(self._lake, name):
                self._done.left += 1
                document = None if name in pending else _document(letter)
                if name in pending:
                    self._done.waiting += 1
                if document is None or self._reason not in letter["reason"]:
                    continue
                imported = "record" not in letter and "file" in letter
                batch.append(_Chosen(name, identity, document, imported))
                size += len(document.content)
                if size >= BATCH_BYTES:
                    self._take(batch)
                    batch, size = [], 0
            self._tidy(but_not={one.name for one in batch})
        self._take(batch)
        self._tidy(but_not=set())
        return self._done

    def _take(self, batch: list[_Chosen]) -> None:
        known = snapshots.known_documents(
            self._lake, list({each for one in batch for each in (one.name, one.identity)})
        )
        # Letters of a killed run, and documents that were imported again since, are in the lake.
        old = [
            one for one in batch if one.identity in known or (one.imported and one.name in known)
        ]
        identities = {one.identity for one in old}
        fresh = [one for one in batch if one.identity not in identities]
        taken, decoded = self._commit(fresh)
        self._done.taken += len(taken)
        self._done.left -= len(taken) + len(old)
        self._done.rows.update({table: rows.num_rows for table, rows in decoded.tables.items()})
        for one in [*old, *taken]:
            self._gone.setdefault(one.name, set()).add(one.identity)
        if self._progress:
            self._progress(len(batch))

    def _commit(self, batch: Sequence[_Chosen]) -> tuple[list[_Chosen], Decoded]:
        """Decode letters and commit those that are accepted; return them and what was decoded."""
        decoded, broken = decode([one.document for one in batch], self._lake, self._limits)
        rejected: dict[int, list[Letter]] = {}
        for record in decoded.rejected:
            rejected.setdefault(record.document, []).append(dead_letters.of_record(record))
        left = broken.keys() | {n for n in rejected if not self._has_rows(batch[n])}
        taken = {number: one for number, one in enumerate(batch) if number not in left}
        if taken and not self._dry_run:
            for number, one in taken.items():
                # Some records of a request may still be rejected. They wait for the commit.
                own = rejected.get(number, [])
                dead_letters.write(self._lake, one.identity.replace(":", "-"), own)
            documents = {one.identity for one in taken.values()}
            documents |= {one.name for one in taken.values() if one.imported}
            snapshots.append(self._lake, decoded.tables, documents=sorted(documents), source=SOURCE)
        return list(taken.values()), decoded

    def _has_rows(self, one: _Chosen) -> bool:
        return bool(decode([one.document], self._lake, self._limits)[0].tables)

    def _tidy(self, but_not: set[str]) -> None:
        """Remove the letters that are in the lake now, of files that are read to their end."""
        for name in self._gone.keys() - but_not:
            gone = self._gone.pop(name)
            if not self._dry_run:
                dead_letters.remove(self._lake, name, gone)


def _document(letter: Letter) -> Document | None:
    """Return a letter as a document; None if only its beginning was kept."""
    stamp = tuple(letter.get("stamp", {}).items())
    place = letter.get("line", 0), letter.get("byte_offset", 0)
    if "record" in letter:
        return Document("json", orjson.dumps(letter["record"]), *place, stamp)
    if "cut_from_bytes" in letter:
        return None
    if "document" in letter:
        return Document("json", letter["document"].encode(), *place, stamp)
    content = base64.b64decode(letter["document_base64"])
    is_json = letter.get("signal", "").endswith("+json") or content.lstrip()[:1] in (b"{", b"[")
    return Document("json" if is_json else "protobuf", content, *place, stamp)


def _pending(lake: Path, names: Sequence[str]) -> set[str]:
    """Return the files whose letters come from what is not committed yet and may be read again."""
    documents = {
        name: name.replace("-", ":", 1) for name in names if name.startswith((_JOURNAL, _LETTER))
    }
    known = snapshots.known_documents(lake, list(documents.values()))
    # After the look-up: a segment that is gone by now was committed.
    segments = {path.stem for path in (lake / journal.FOLDER).glob("*/*")}
    return {
        name
        for name, document in documents.items()
        if document not in known
        and (name.startswith(_LETTER) or name.removeprefix(_JOURNAL).partition("#")[0] in segments)
    }


def _utc(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s, UTC).replace(tzinfo=None)
