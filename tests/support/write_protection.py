"""A folder that nobody may write, not even root, as on a read-only mount."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def read_only(lake: Path) -> Iterator[None]:
    """Make a lake read-only, also for root."""
    folders = [str(lake), *(str(one) for one in lake.rglob("*") if one.is_dir())]
    top = folders[0]
    mount = [["mount", "--bind", top, top], ["mount", "-o", "remount,bind,ro", top]]
    ways = [
        (mount, [["umount", "--lazy", top]]),
        ([["chattr", "+i", *folders]], [["chattr", "-i", *folders]]),
    ]
    if os.geteuid() != 0:
        ways = [([["chmod", "a-w", *folders]], [["chmod", "u+w", *folders]])]
    for there, back in ways:
        if all(subprocess.run(one, capture_output=True).returncode == 0 for one in there):
            try:
                yield
            finally:
                for one in back:
                    subprocess.run(one, check=True)
            return
    pytest.fail("neither mount nor chattr may make a folder read-only here")
