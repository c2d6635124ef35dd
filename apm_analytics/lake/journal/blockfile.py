"""Write groups of bytes to a file, synced and in whole blocks, bypassing the page cache.

In:  buffers, group by group.
Out: a file in which every group starts at a block boundary; zeros fill its last block.

The file is read only after a crash, so a copy in the page cache would be useless, and would cost a
page per 4 KB. The disk reads the bytes from one reused buffer instead. File systems without
O_DIRECT are written through the page cache.
"""

import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Direct writes need aligned memory and whole blocks, of 512 or 4,096 bytes.
BLOCK = 4096
# Bytes copied and written at a time: they stay in the CPU cache.
PIECE_BYTES = 1024 * 1024
MIN_RESERVE_BYTES = 1024 * 1024
MAX_RESERVE_BYTES = 32 * 1024 * 1024


class BlockFile:
    """A new file; used by one thread at a time.

    Parameters
    ----------
    room : a buffer of `PIECE_BYTES` of anonymous memory, which several files may share.

    Raises
    ------
    OSError
        The disk failed; also raised by every method.
    """

    def __init__(self, path: Path, room: mmap.mmap) -> None:
        self.path = path
        self.end = 0  # of the bytes on the disk
        self._room = memoryview(room)
        self._reserved = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try_direct(self._file)

    def append(self, group: Sequence[bytes]) -> None:
        """Write a group and wait until it is on the disk; after an error call `take_back`."""
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
        if os.fstat(self._file).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "the file was removed", str(self.path))
        self.end = at + filled + empty

    def take_back(self) -> None:
        """Truncate what a failed `append` left."""
        self._reserved = 0
        os.ftruncate(self._file, self.end)
        os.fdatasync(self._file)

    def close(self) -> None:
        """Release the unused reserved blocks and close the file."""
        with suppress(OSError):  # readers skip it
            os.ftruncate(self._file, self.end)
        os.close(self._file)

    def _reserve(self, size: int) -> None:
        """Reserve blocks: writing into reserved blocks takes a fifth of the CPU."""
        if self.end + size <= self._reserved:
            return
        more = max(size, min(2 * self._reserved, MAX_RESERVE_BYTES), MIN_RESERVE_BYTES)
        with suppress(OSError):  # no room to reserve: the write itself may still fit
            os.posix_fallocate(self._file, self.end, more)
            self._reserved = self.end + more

    def _write(self, at: int, size: int) -> None:
        """Write the first `size` bytes of the buffer, repeating a write that stops early."""
        written = 0
        while written < size:
            try:
                written += os.pwrite(self._file, self._room[written:size], at + written)
            except OSError as error:
                # The disk has larger blocks, or a write stopped within one.
                if error.errno != errno.EINVAL or not _give_up_direct(self._file):
                    raise


def try_direct(file: int) -> bool:
    """Bypass the page cache for an open file; return whether its file system supports that."""
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError:
        return False
    return True


def _give_up_direct(file: int) -> bool:
    """Use the page cache for a file; return whether it was bypassed before."""
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    fcntl.fcntl(file, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return bool(flags & os.O_DIRECT)
