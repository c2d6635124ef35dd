"""Replace files atomically and durably.

In:  a path and its whole content.
Out: the file, with the old or the new content, never in between.
"""

import errno
import os
from pathlib import Path


def write_atomic(file: Path, content: bytes) -> None:
    """Replace a file in one step; its folder is created if missing.

    Raises
    ------
    OSError
        The disk is full, the folder not writable or `file` a folder; the old content stays.
    """
    if not file.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`, whose files are private: node-exporter reads them as another user.
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
        sync_folder(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power failure."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
