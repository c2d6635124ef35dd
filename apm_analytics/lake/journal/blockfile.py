"""A file of synced groups, each of whole blocks, that goes past the page cache.

In:  buffers, group by group.
Out: a file in which every group begins at a block; behind a group, zeros fill its last block.

Whoever reads such a file only after a crash has no use for a copy of it in memory. Making one costs
the system a page for every 4 KB; so the disk fetches the bytes from one piece of memory that is
filled again and again. Where a file system cannot do that, they go through the page cache.
"""

import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# A disk takes whole blocks from memory that is aligned alike: of 512 or of 4,096 bytes.
BLOCK = 4096
# So much is copied and written at a time: it stays in the processor's cache.
PIECE_BYTES = 1024 * 1024
MIN_RESERVE_BYTES = 1024 * 1024
MAX_RESERVE_BYTES = 32 * 1024 * 1024


class BlockFile:
    """A new file; one thread at a time uses it.

    Parameters
    ----------
    room : `PIECE_BYTES` of anonymous memory, which several files may share.

    Raises
    ------
    OSError
        The disk refused; also every method.
    """

    def __init__(self, path: Path, room: mmap.mmap) -> None:
        self.path = path
        self.end = 0  # of what is on the disk
        self._room = memoryview(room)
        self._reserved = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try_direct(self._file)

    def append(self, group: Sequence[bytes]) -> None:
        """Write a group and wait until the disk has it; after an error, `take_back`."""
        self._reserve(sum(map(len, group)) + BLOCK)
        at, filled = self.end, 0
        for content in group:
            rest: bytes | memoryview = content
            while len(rest) > PIECE_BYTES - filled:
                rest, size = memoryview(rest), PIECE_BYTES - filled
                self._room[filled:] = rest[:size]
                self._write(at, PIECE_BYTES)
                at, filled, rest = at + PIECE_BYTES, 0, rest[size:]
            self._room[filled : filled + len(rest)] = rest
            filled += len(rest)
        empty = -filled % BLOCK
        self._room[filled : filled + empty] = bytes(empty)
        self._write(at, filled + empty)
        os.fdatasync(self._file)
        self.end = at + filled + empty

    def take_back(self) -> None:
        """Cut off what a failed `append` left."""
        self._reserved = 0
        os.ftruncate(self._file, self.end)
        os.fdatasync(self._file)

    def close(self) -> None:
        """Give back what was reserved and not used."""
        with suppress(OSError):  # readers skip it
            os.ftruncate(self._file, self.end)
        os.close(self._file)

    def _reserve(self, size: int) -> None:
        """Take room for what comes: written into reserved blocks, bytes cost a fifth of the CPU."""
        if self.end + size <= self._reserved:
            return
        more = max(size, min(2 * self._reserved, MAX_RESERVE_BYTES), MIN_RESERVE_BYTES)
        with suppress(OSError):  # no such room: the write itself says whether it fits
            os.posix_fallocate(self._file, self.end, more)
            self._reserved = self.end + more

    def _write(self, at: int, size: int) -> None:
        """Write the first bytes of the room: one write seldom stops early, but it may."""
        written = 0
        while written < size:
            try:
                written += os.pwrite(self._file, self._room[written:size], at + written)
            except OSError as error:
                # Larger blocks than ours, or a write that stopped within one.
                if error.errno != errno.EINVAL or not _give_up_direct(self._file):
                    raise


def try_direct(file: int) -> bool:
    """Let an open file go past the page cache; tell whether its file system can."""
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError:
        return False
    return True


def _give_up_direct(file: int) -> bool:
    """Let a file go through the page cache; tell whether it went past it before."""
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    fcntl.fcntl(file, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return bool(flags & os.O_DIRECT)
