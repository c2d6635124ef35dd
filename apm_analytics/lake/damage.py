"""Find parts that are missing or damaged, so that each costs only its own rows.

In:  a lake.
Out: the parts that can be read, and those left out, with a warning that says what is missing.

A part that is missing or has another size is found when parts are listed. A part whose content has
changed is found when a reader refuses it, because every page has a checksum; it is then compared
with its hash, and marked in the manifest. A Parquet file that another program wrote in place of a
part is not damaged: the quality check reports its columns.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from apm_analytics.foundation.errors import ApmError
from apm_analytics.lake import manifest
from apm_analytics.lake.manifest import Part, open_manifest
from apm_analytics.lake.parquet.files import CREATED_BY

MISSING, DAMAGED = "missing", "damaged"
# What reading a damaged part raises: DuckDB's Thrift parser raises its base class, and messages
# with bytes of the file that are no text raise RuntimeError.
ERRORS = (duckdb.Error, OSError, pa.ArrowException, RuntimeError)
# Parts may be replaced again and again while they are listed.
ATTEMPTS = 10
_FILE = re.compile(r"[\"']([^\"']+\.parquet)[\"']")
_ESCAPED = re.compile(r"\[([*?\[])\]")
_Result = TypeVar("_Result")
# Marks of this process: the lake may be read-only.
_marked: dict[Path, int] = {}


class PartsLeftOut(UserWarning):
    """Rows of the lake are missing from what is read."""


class Damaged(ApmError):
    """Parts that must be read are damaged."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__(f"{_paths(parts)}: missing or damaged; `apm lake repair` sets it aside")
        self.parts = list(parts)


@dataclass(frozen=True)
class LeftOut:
    """A part that cannot be read; `reason` is `MISSING` or `DAMAGED`."""

    part: Part
    reason: str


@dataclass(frozen=True)
class Listing:
    """The live parts of a lake: those that can be read, and the others."""

    parts: list[Part]
    left_out: list[LeftOut]


def listing(lake: Path) -> Listing:
    """List the live parts; looks at the size of each file and not into it.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    """
    live: list[Part] = []
    for _ in range(ATTEMPTS):
        before = live
        with open_manifest(lake) as con:
            live, marks = manifest.live_parts(con), manifest.damage_marks(con)
        reasons = [_reason(lake / part.path, part, marks.get(part.path)) for part in live]
        # A missing file may belong to a part that was just replaced and erased.
        if MISSING not in reasons or live == before:
            break
    pairs = list(zip(live, reasons, strict=True))
    return Listing(
        [part for part, reason in pairs if reason is None],
        [LeftOut(part, reason) for part, reason in pairs if reason is not None],
    )


def find(lake: Path, parts: Iterable[Part]) -> list[Part]:
    """Return the parts that are missing or do not match their hash, and mark the latter."""
    found = [part for part in parts if not _is_intact(lake / part.path, part)]
    if found:
        marks = {
            part.path: (lake / part.path).stat().st_mtime_ns
            for part in found
            if (lake / part.path).exists()
        }
        _marked.update({(lake / path).resolve(): mtime_ns for path, mtime_ns in marks.items()})
        with suppress(ApmError), open_manifest(lake, create=True) as con:
            manifest.mark_damaged(con, marks)
    return found


def explains(lake: Path, error: Exception) -> bool:
    """Return whether a reader failed because of parts that a new `listing` leaves out."""
    with open_manifest(lake) as con:
        live = {part.path: part for part in manifest.live_parts(con)}
    named = _FILE.findall(str(error))
    if not named:
        # Errors of DuckDB's Thrift parser name no file; those in a statement have their own class.
        nameless = type(error) in (duckdb.Error, RuntimeError)
        return nameless and bool(find(lake, live.values()))
    # Paths are escaped, see `query.literally`.
    named += [_ESCAPED.sub(r"\1", name) for name in named]
    inside = [path for name in named if (path := _relative(lake, Path(name)))]
    replaced = any(path not in live for path in inside)
    return replaced or bool(find(lake, [live[path] for path in inside]))


@contextmanager
def blamed(lake: Path, parts: Sequence[Part]) -> Iterator[None]:
    """Raise `Damaged` if the block fails because of a damaged part."""
    try:
        yield
    except ERRORS as error:
        if found := find(lake, parts):
            raise Damaged(found) from error
        raise


def without_damaged(
    lake: Path,
    parts: Sequence[Part],
    work: Callable[[Sequence[Part]], _Result],
    left_out: list[Part],
) -> _Result | None:
    """Call `work` with the parts that can be read; append the others to `left_out`.

    Returns
    -------
    None if no part can be read.
    """
    while parts:
        try:
            with blamed(lake, parts):
                return work(parts)
        except Damaged as error:
            left_out += error.parts
            parts = [part for part in parts if part not in error.parts]
    return None


def sha256(file: Path) -> str:
    """Return the hash of a file."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def warn(lake: Path, left_out: Sequence[LeftOut]) -> None:
    """Warn that rows are missing, if any are."""
    if not left_out:
        return
    tables = dict.fromkeys(each.part.table for each in left_out)
    said = "; ".join(
        f"{table}: {describe([each for each in left_out if each.part.table == table])}"
        for table in tables
    )
    warnings.warn(
        f"rows are missing from {lake}: {said}; {advice(left_out)}", PartsLeftOut, stacklevel=3
    )


def describe(left_out: Sequence[LeftOut]) -> str:
    """Describe the missing rows of one table: how many, of which hours, and why."""
    rows = sum(each.part.rows for each in left_out)
    first = min(each.part.first_time_ns for each in left_out)
    last = max(each.part.last_time_ns for each in left_out)
    counts = [
        f"{count:,} {'part is' if count == 1 else 'parts are'} {reason}"
        for reason in (MISSING, DAMAGED)
        if (count := sum(each.reason == reason for each in left_out))
    ]
    return f"{rows:,} rows from {_hour(first)} to {_hour(last, 1)} UTC ({', '.join(counts)})"


def advice(left_out: Sequence[LeftOut]) -> str:
    """Return what to do about parts that are left out."""
    reasons = {each.reason for each in left_out}
    if reasons == {MISSING}:
        return (
            "put the files back from a backup, or accept the loss with `apm lake repair`, which "
            "drops them from the manifest"
        )
    return (
        "replace the files from a backup, or accept the loss with `apm lake repair`, which moves "
        "them to quarantine"
    )


def _reason(file: Path, part: Part, marked_ns: int | None) -> str | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return MISSING
    if _marked and marked_ns is None:
        marked_ns = _marked.get(file.resolve())
    # A file that was put back has another time.
    if found.st_mtime_ns == marked_ns:
        return DAMAGED
    return DAMAGED if found.st_size != part.bytes and not _is_foreign(file) else None


def _is_intact(file: Path, part: Part) -> bool:
    try:
        return sha256(file) == part.sha256 or _is_foreign(file)
    except OSError:
        return False


def _is_foreign(file: Path) -> bool:
    try:
        return bool(pq.read_metadata(file).created_by != CREATED_BY)
    except (OSError, pa.ArrowException):
        return False


def _relative(lake: Path, file: Path) -> str | None:
    """Return the path of a file below the lake; None for a file elsewhere."""
    lake = lake.resolve()
    return str(file.relative_to(lake)) if file.is_relative_to(lake) else None


def _hour(time_ns: int, more: int = 0) -> str:
    hour_s = (time_ns // (3_600 * 10**9) + more) * 3_600
    return f"{datetime.fromtimestamp(hour_s, UTC):%Y-%m-%d %H:%M}"


def _paths(parts: Sequence[Part]) -> str:
    return ", ".join(part.path for part in parts)
