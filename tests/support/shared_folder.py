"""Folders that are costly to make and only read, made once for all test workers.

In:  a name, a function that fills a folder.
Out: the filled folder, kept under the temporary directory while the code stays the same.
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from filelock import FileLock

WORKSPACE = Path(__file__).resolve().parents[2]
# Code that decides the content: the makers, and the rooms up to the gate that they call.
CODE = (
    "apm_analytics/*/**/*.py",
    "apm_analytics/lake/sql/**/*.sql",
    "tests/support/*_run.py",
    "tests/support/*_shop.py",
    "params.yaml",
    "specs/*.yaml",
)
# Rooms above the gate, which make nothing that is shared here.
ABOVE = {"business", "cli", "nightly", "report", "slo", "transactions", "serve", "instrument"}
KEPT_S = 86_400.0  # folders of older code are removed after a day


def once(name: str, fill: Callable[[Path], object]) -> Path:
    """Return the folder that `fill` filled once, for reading; other workers wait for the first."""
    root = Path(tempfile.gettempdir()) / f"apm-tests-{os.getuid()}"
    root.mkdir(exist_ok=True)
    folder = root / f"{name}-{_code_hash()}"
    with FileLock(root / f"{name}.lock"):
        for old in root.glob(f"{name}-*"):
            if old != folder and time.time() - old.stat().st_mtime > KEPT_S:
                shutil.rmtree(old, ignore_errors=True)
        if not folder.exists():
            partial = folder.with_suffix(f".{os.getpid()}")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            fill(partial)
            partial.rename(folder)
    return folder


@cache
def _code_hash() -> str:
    digest = hashlib.sha256()
    for pattern in CODE:
        for file in sorted(WORKSPACE.glob(pattern)):
            if not ABOVE & set(file.relative_to(WORKSPACE).parts):
                digest.update(str(file.relative_to(WORKSPACE)).encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
