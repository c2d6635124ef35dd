"""Run a command in a child that is killed before one of its steps on the disk."""

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = ("os.rename", "os.remove", "os.mkdir")


def killed_before(step: int, lake: Path, run: Callable[[Path], None]) -> bool:
    """Run in a child that dies before its n-th step; False when it has fewer."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL), f"step {step}: {status}"
        return status != 0
    signal.alarm(60)  # a child that waits for ever fails the test
    left = step

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if (writes or event in STEPS) and str(arguments[0]).startswith(str(lake)):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    failed = 1
    try:
        sys.addaudithook(watch)
        connect = sqlite3.connect
        # SQLite tells of its statements alone; what was not committed was never there.
        sqlite3.connect = lambda *given, **more: traced(connect(*given, **more), watch, lake)  # type: ignore[assignment,misc]
        run(lake)
        failed = 0
    finally:
        os._exit(failed)


def traced(con: sqlite3.Connection, watch: Callable[..., None], lake: Path) -> sqlite3.Connection:
    def said(statement: str) -> None:
        if statement.lower().startswith("commit"):
            watch("os.rename", (lake,))

    con.set_trace_callback(said)
    return con
