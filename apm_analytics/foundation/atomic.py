"""Write files so that nobody ever sees half of one.

In:  a path and its whole content.
Out: the file, old or new, never in between; what is written is on the disk.
"""

import os
from pathlib import Path


def write_atomic(file: Path, content: bytes) -> None:
    """Replace a file in one step; its folder is made when missing.

    Raises
    ------
    OSError
        The disk is full or the folder not writable; the old content stays.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not a tempfile: those are private, and node-exporter runs as another user.
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
    """Write a folder's list of names to the disk: without it a rename may not outlive the power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
