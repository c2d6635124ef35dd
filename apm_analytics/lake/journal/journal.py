"""A journal in front of the lake: what it holds is on the disk before it is acknowledged.

In:  entries, each the bytes of one request and what kind it is.
Out: segments `<lake>/journal/<writer>/<id>.segment`, read back after a crash.

A segment becomes parts under its `document` name, so that replaying it twice adds nothing
(docs/decisions on the journal). Every writer locks a folder of its own; the lock ends with
the process, whatever ends it, and the next writer takes the folder over.
"""

import fcntl
import mmap
import os
import struct
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zlib_ng import zlib_ng

from apm_analytics.foundation.errors import ApmError
from apm_analytics.lake.journal.blockfile import BLOCK, PIECE_BYTES, BlockFile

FOLDER = "journal"
LOCK = "lock"
SUFFIX = ".segment"
# A checksum failed in the middle: set aside for a person, never replayed by itself.
DAMAGED = ".damaged"
# Entries of one write follow each other; a head of zeros ends them, and the next ones begin at a
# block. In segments of OLD_MAGIC, which are still read, all entries followed each other.
MAGIC, OLD_MAGIC = b"APMJRNL2", b"APMJRNL1"
_HEAD = struct.Struct("<IIB")  # bytes of the payload, CRC-32 of kind and payload, bytes of the kind


@dataclass(frozen=True)
class Entry:
    """One acknowledged request; `kind` is at most 255 bytes of ASCII."""

    kind: str
    payload: bytes


@dataclass(frozen=True)
class Segment:
    """One file of the journal; `document` is what the manifest knows it by."""

    path: Path

    @property
    def document(self) -> str:
        return f"journal:{self.path.stem}"

    def remove(self) -> None:
        """Remove the file; its rows are parts now."""
        self.path.unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Rename the file so that no replay takes it again."""
        return self.path.rename(self.path.with_suffix(DAMAGED))


@dataclass(frozen=True)
class Content:
    """What a segment holds: entries up to the first that is not whole.

    `torn_bytes` is the tail of a write that a crash cut short: never acknowledged. `damaged`
    says that a whole entry does not fit its checksum: the disk changed it.
    """

    entries: list[Entry]
    torn_bytes: int = 0
    damaged: bool = False


class Journal:
    """The journal of one writer; one thread at a time calls it.

    Examples
    --------
    >>> journal = Journal(Path("data/lake"))  # doctest: +SKIP
    >>> journal.append([Entry("traces", payload)])  # doctest: +SKIP
    >>> segments = journal.rotate()  # doctest: +SKIP
    """

    def __init__(self, lake: Path) -> None:
        """Make and lock a folder for this writer.

        Raises
        ------
        ApmError
            The disk refused.
        """
        self.folder = lake / FOLDER / uuid.uuid4().hex
        self._room = mmap.mmap(-1, PIECE_BYTES)
        self._file: BlockFile | None = None
        self._closed: list[Segment] = []
        try:
            self.folder.mkdir(parents=True)
            lock = _locked(self.folder)
        except OSError as error:
            raise _refused(self.folder, error) from error
        assert lock is not None  # nobody else knows the name
        self._owned: dict[Path, int] = {self.folder: lock}

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries and wait until the disk has them; on an error none of them counts.

        Raises
        ------
        ApmError
            The disk is full, read-only or broken. The journal stays usable: the next call tries
            again.
        """
        try:
            if self._file is None:
                self._file = self._begin()
            start = b"" if self._file.end else MAGIC
            self._file.append([start, *_pieces(entries), bytes(_HEAD.size)])
        except OSError as error:
            self._take_back()
            raise _refused(self.folder, error) from error

    def rotate(self) -> list[Segment]:
        """Close what was written since the last call and give it."""
        self._finish()
        closed, self._closed = self._closed, []
        return closed

    def adopt(self) -> list[Segment]:
        """Take over what writers that are gone have left, oldest first."""
        left: list[Path] = []
        for folder in self.folder.parent.glob("*/"):
            if folder in self._owned:
                continue
            try:
                lock = _locked(folder)
            except FileNotFoundError:  # its new owner has just finished with it
                continue
            if lock is not None:
                self._owned[folder] = lock
                left.extend(folder.glob(f"*{SUFFIX}"))
        return [Segment(path) for path in sorted(left, key=lambda path: path.stat().st_mtime_ns)]

    def tidy(self) -> None:
        """Remove adopted folders that are empty now."""
        for folder in [*self._owned]:
            if folder != self.folder:
                self._give_up(folder)

    def close(self) -> None:
        """Close the journal; a folder that still holds something waits for the next writer."""
        self._finish()
        self.tidy()
        self._give_up(self.folder)
        for lock in self._owned.values():
            os.close(lock)
        self._owned.clear()

    def _begin(self) -> BlockFile:
        file = BlockFile(self.folder / f"{uuid.uuid4().hex}{SUFFIX}", self._room)
        try:
            # The name is on the disk too, not only what the file holds.
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            file.close()
            with suppress(OSError):  # an empty one is no harm
                file.path.unlink()
            raise
        return file

    def _finish(self) -> None:
        if self._file is None:
            return
        self._file.close()
        segment = Segment(self._file.path)
        if self._file.end:
            self._closed.append(segment)
        else:
            segment.remove()
        self._file = None

    def _take_back(self) -> None:
        """Cut off what a failed write left; where that fails too, go on in a new segment."""
        if self._file is None:
            return
        try:
            self._file.take_back()
        except OSError:
            # What was acknowledged before is safe; what failed may come back in a replay.
            self._finish()

    def _give_up(self, folder: Path) -> None:
        if any(path.name != LOCK for path in folder.iterdir()):
            return
        # Unlinked while it is held: whoever opened it meanwhile finds it taken and goes on.
        (folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        os.close(self._owned.pop(folder))


def read(segment: Segment) -> Content:
    """Read a segment back, as far as it is whole.

    Raises
    ------
    ApmError
        The file cannot be read.
    """
    try:
        content = segment.path.read_bytes()
    except OSError as error:
        raise _refused(segment.path, error) from error
    magic = content[: len(MAGIC)]
    if magic not in (MAGIC, OLD_MAGIC):
        written = len(content.rstrip(b"\0"))
        return Content([], written, damaged=written > len(MAGIC))
    entries: list[Entry] = []
    at, begins = len(MAGIC), True
    while at + _HEAD.size <= len(content):
        size, checksum, kind_size = _HEAD.unpack_from(content, at)
        start = at + _HEAD.size + kind_size
        end = start + size
        if kind_size == 0:
            # Where nothing was written the file reads as zeros.
            if begins or magic == OLD_MAGIC:
                break
            at, begins = -(-end // BLOCK) * BLOCK, True
            continue
        if end > len(content):
            break
        kind = content[at + _HEAD.size : start]
        payload = content[start:end]
        if zlib_ng.crc32(payload, zlib_ng.crc32(kind)) != checksum:
            if _cut_short(content, start, end):
                break
            return Content(entries, len(content) - at, damaged=True)
        entries.append(Entry(kind.decode("ascii"), payload))
        at, begins = end, False
    # Reserved and never written, or lost in a power failure: zeros.
    return Content(entries, len(content[at:].rstrip(b"\0")))


def _cut_short(content: bytes, start: int, end: int) -> bool:
    """Tell whether the write of a payload ended early: its last block was never written."""
    last = (end - 1) // BLOCK * BLOCK
    return not content[max(start, last) :].strip(b"\0")


def _pieces(entries: Sequence[Entry]) -> list[bytes]:
    pieces: list[bytes] = []
    for entry in entries:
        kind = entry.kind.encode("ascii")
        checksum = zlib_ng.crc32(entry.payload, zlib_ng.crc32(kind))
        pieces += (_HEAD.pack(len(entry.payload), checksum, len(kind)) + kind, entry.payload)
    return pieces


def is_locked(folder: Path) -> bool:
    """Tell whether a running receiver owns this folder."""
    if not (folder / LOCK).exists():
        return False
    lock = _locked(folder)
    if lock is not None:
        os.close(lock)
    return lock is None


def _locked(folder: Path) -> int | None:
    """Lock a folder; None when its writer is alive."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _refused(path: Path, error: OSError) -> ApmError:
    return ApmError(
        f"could not use the journal {path}: {error}; nothing was acknowledged; "
        "free space or mend the disk, sending goes on by itself"
    )
