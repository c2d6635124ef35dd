"""A write-ahead journal: a request is on the disk before it is acknowledged.

In:  entries, each the bytes and the kind of one request.
Out: segments `<lake>/journal/<writer>/<id>.segment`, replayed after a crash.

A segment becomes parts under its `document` name, so that replaying it twice adds nothing
(docs/decisions/0010-journal-and-group-commit.md). Every writer locks its own folder. The lock ends
with the process, however it ends, and the next writer adopts the folder.
"""

import fcntl
import hashlib
import mmap
import os
import struct
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from zlib_ng import zlib_ng

from apm_analytics.foundation.errors import ApmError
from apm_analytics.lake.journal.blockfile import BLOCK, PIECE_BYTES, BlockFile

FOLDER = "journal"
LOCK = "lock"
SUFFIX = ".segment"
# A segment with a damaged entry, set aside for an operator once the others are in parts.
DAMAGED = ".damaged"
# The entries of one write are adjacent; zeros end them, and the next write starts at a block
# boundary.
MAGIC = b"APMJRNL3"
FORMER_MAGIC = b"APMJRNL2"
# Each entry starts with its segment's marker, so a damaged entry does not hide the next one.
MARKER_BYTES = 8
# Bytes of stamp and payload, CRC-32 of kind, stamp and payload, bytes of the kind; then CRC-32 of
# the above.
_SIZES = struct.Struct("<IIB")
_CHECK = struct.Struct("<I")
_HEAD_BYTES = MARKER_BYTES + _SIZES.size + _CHECK.size
_STAMPED = "|"  # in the kind of a stamped entry, before the number of bytes of its stamp


@dataclass(frozen=True)
class Entry:
    """One acknowledged request; `kind` is at most 255 bytes of ASCII without `|`.

    `stamp` is what its sender's token adds to it; the journal does not interpret it.
    """

    kind: str
    payload: bytes
    stamp: bytes = b""


@dataclass(frozen=True)
class Segment:
    """One file of the journal; `document` is its name in the manifest."""

    path: Path

    @property
    def document(self) -> str:
        return f"journal:{self.path.stem}"

    def remove(self) -> None:
        """Remove the file, once its rows are in parts."""
        self.path.unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Rename the file so that it is never replayed; return the new path."""
        return self.path.rename(self.path.with_suffix(DAMAGED))


@dataclass(frozen=True)
class Content:
    """The content of a segment: every entry that matches its checksum, and its first byte.

    `torn_bytes` is the size of a last write of which some blocks never reached the disk, so it was
    never acknowledged. `damaged` is the number of places where the disk changed what was written.
    """

    entries: list[Entry]
    torn_bytes: int = 0
    damaged: int = 0
    places: list[int] = field(default_factory=list)


class Journal:
    """The journal of one writer; used by one thread at a time.

    Examples
    --------
    >>> journal = Journal(Path("data/lake"))  # doctest: +SKIP
    >>> journal.append([Entry("traces", payload)])  # doctest: +SKIP
    >>> segments = journal.rotate()  # doctest: +SKIP
    """

    def __init__(self, lake: Path) -> None:
        """Create and lock a folder for this writer.

        Raises
        ------
        ApmError
            The disk failed.
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
        assert lock is not None  # the name is random
        self._owned: dict[Path, int] = {self.folder: lock}

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries and wait until they are on the disk; on an error none of them is kept.

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
            self._file.append([start, *_pieces(entries, _marker(self._file.path)), bytes(1)])
        except OSError as error:
            self._take_back()
            raise _refused(self.folder, error) from error

    def rotate(self) -> list[Segment]:
        """Close and return the segments written since the last call."""
        self._finish()
        closed, self._closed = self._closed, []
        return closed

    def adopt(self) -> list[Segment]:
        """Adopt and return the segments of writers that have ended, oldest first."""
        left: list[Path] = []
        for folder in self.folder.parent.glob("*/"):
            if folder in self._owned:
                continue
            try:
                lock = _locked(folder)
            except FileNotFoundError:  # its new owner has just removed it
                continue
            if lock is not None:
                self._owned[folder] = lock
                left.extend(folder.glob(f"*{SUFFIX}"))
        return [Segment(path) for path in sorted(left, key=lambda path: path.stat().st_mtime_ns)]

    def tidy(self) -> None:
        """Remove adopted folders that are empty."""
        for folder in [*self._owned]:
            if folder != self.folder:
                self._give_up(folder)

    def close(self) -> None:
        """Close the journal; the next writer adopts a folder that is not empty."""
        self._finish()
        self.tidy()
        self._give_up(self.folder)
        for lock in self._owned.values():
            os.close(lock)
        self._owned.clear()

    def abandon(self) -> None:
        """Close a journal whose folder was removed."""
        if self._file is not None:
            self._file.close()
            self._file = None
        for lock in self._owned.values():
            os.close(lock)
        self._owned.clear()

    def _begin(self) -> BlockFile:
        file = BlockFile(self.folder / f"{uuid.uuid4().hex}{SUFFIX}", self._room)
        try:
            # The directory entry must be on the disk as well as the file.
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            file.close()
            with suppress(OSError):  # an empty file does no harm
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
        """Truncate a failed write; if that fails too, continue in a new segment."""
        if self._file is None:
            return
        try:
            self._file.take_back()
        except OSError:
            # Acknowledged entries are safe; the failed ones may reappear in a replay.
            self._finish()

    def _give_up(self, folder: Path) -> None:
        if any(path.name != LOCK for path in folder.iterdir()):
            return
        # Unlinked while held: a process that opened it meanwhile finds it locked and continues.
        (folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        os.close(self._owned.pop(folder))


def read(segment: Segment) -> Content:
    """Read a segment; each entry is checked by itself.

    Raises
    ------
    ApmError
        The file cannot be read.
    """
    try:
        content = segment.path.read_bytes()
    except OSError as error:
        raise _refused(segment.path, error) from error
    if content.startswith(FORMER_MAGIC):
        return _read_former(content)
    marker = _marker(segment.path)
    entries: list[Entry] = []
    places: list[int] = []
    damaged = 0
    at = read_to = len(MAGIC)
    while (at := content.find(marker, at)) >= 0:
        ends = _ends(content, at)
        if ends is None or (entry := _entry(content, *ends)) is None:
            at = ends[2] if ends and ends[2] <= len(content) else at + MARKER_BYTES
            continue
        damaged += _is_written(content, read_to, at)
        entries.append(entry)
        places.append(at)
        read_to = at = ends[2]
    torn_bytes = 0
    if _is_written(content, read_to, len(content)):
        if _is_torn(content, read_to, marker):
            torn_bytes = len(content[read_to:].strip(b"\0"))
        else:
            damaged += 1
    return Content(entries, torn_bytes, damaged, places)


def _read_former(content: bytes) -> Content:
    """Read a segment of the format before markers, up to the first damage."""
    entries: list[Entry] = []
    places: list[int] = []
    at, begins = len(FORMER_MAGIC), True
    while at + _SIZES.size <= len(content):
        size, _, kind_size = _SIZES.unpack_from(content, at)
        kind_end = at + _SIZES.size + kind_size
        end = kind_end + size
        if kind_size == 0:  # the write ends, the next one starts in the next block
            if begins:
                break
            at, begins = -(-end // BLOCK) * BLOCK, True
            continue
        entry = _entry(content, at + _SIZES.size, kind_end, end, sizes=at)
        if entry is None:
            is_torn = end > len(content) or not content[_last_block(kind_end, end) :].strip(b"\0")
            torn_bytes = len(content[at:].rstrip(b"\0"))
            return Content(entries, *((torn_bytes, 0) if is_torn else (0, 1)), places)
        entries.append(entry)
        places.append(at)
        at, begins = end, False
    return Content(entries, len(content[at:].rstrip(b"\0")), 0, places)


def _ends(content: bytes, at: int) -> tuple[int, int, int] | None:
    """Return where the head, the kind and the entry at a marker end; None if damaged."""
    sizes_end = at + MARKER_BYTES + _SIZES.size
    head_end = at + _HEAD_BYTES
    if head_end > len(content):
        return None
    if _CHECK.unpack_from(content, sizes_end) != (zlib_ng.crc32(content[at:sizes_end]),):
        return None
    size, _, kind_size = _SIZES.unpack_from(content, at + MARKER_BYTES)
    return head_end, head_end + kind_size, head_end + kind_size + size


def _entry(
    content: bytes, head_end: int, kind_end: int, end: int, sizes: int | None = None
) -> Entry | None:
    """Return the entry of a head; None if it is incomplete or does not match its checksum."""
    kind, payload = content[head_end:kind_end], content[kind_end:end]
    at = head_end - _CHECK.size - _SIZES.size if sizes is None else sizes
    _, checksum, _ = _SIZES.unpack_from(content, at)
    if end > len(content) or zlib_ng.crc32(payload, zlib_ng.crc32(kind)) != checksum:
        return None
    return _unpacked(kind.decode("ascii"), payload)


def _unpacked(kind: str, content: bytes) -> Entry:
    kind, _, stamp_size = kind.partition(_STAMPED)
    size = int(stamp_size or 0)
    return Entry(kind, content[size:], content[:size])


def _is_written(content: bytes, start: int, end: int) -> bool:
    """Return whether a range holds more than the zeros of unused blocks, and a byte of them."""
    return len(content[start:end].strip(b"\0")) > MARKER_BYTES


def _is_torn(content: bytes, start: int, marker: bytes) -> bool:
    """Return whether what follows the last valid entry is a write that a crash cut short.

    Such a write lacks its end or a whole block: blocks that were reserved read as zeros.
    """
    end = len(content.rstrip(b"\0"))
    written = content[start:end].lstrip(b"\0")
    if len(written) < _HEAD_BYTES:
        return True
    for block in range(-(-start // BLOCK) * BLOCK, end - BLOCK + 1, BLOCK):
        if not content[block : block + BLOCK].strip(b"\0"):
            return True
    at = content.find(marker, start)
    ends = _ends(content, at) if at >= 0 else None
    if ends is None:
        return False
    rest = content[_last_block(ends[0], ends[2]) :]
    return ends[2] > len(content) or not rest.strip(b"\0")


def _last_block(start: int, end: int) -> int:
    """Return where the last block of a range begins, or the range if that is later."""
    return max(start, (end - 1) // BLOCK * BLOCK)


def _marker(path: Path) -> bytes:
    """Return the bytes that start each entry of a segment; its name is random, so they are too."""
    return hashlib.blake2b(path.stem.encode(), digest_size=MARKER_BYTES).digest()


def _pieces(entries: Sequence[Entry], marker: bytes) -> list[bytes]:
    pieces: list[bytes] = []
    for entry in entries:
        stamp = entry.stamp
        name = f"{entry.kind}{_STAMPED}{len(stamp)}" if stamp else entry.kind
        kind = name.encode("ascii")
        checksum = zlib_ng.crc32(entry.payload, zlib_ng.crc32(kind + stamp))
        head = marker + _SIZES.pack(len(stamp) + len(entry.payload), checksum, len(kind))
        pieces += (head + _CHECK.pack(zlib_ng.crc32(head)) + kind + stamp, entry.payload)
    return pieces


def is_locked(folder: Path) -> bool:
    """Return whether a running receiver owns this folder."""
    if not (folder / LOCK).exists():
        return False
    lock = _locked(folder)
    if lock is not None:
        os.close(lock)
    return lock is None


def _locked(folder: Path) -> int | None:
    """Lock a folder; return None if its writer is alive."""
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
        "free space or repair the disk; senders retry by themselves"
    )
