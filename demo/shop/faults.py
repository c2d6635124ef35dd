"""Read the active faults from a small file that `demo.run` writes.

In:  the JSON file of `places.faults`: {"slow_query": true}.
Out: `on("slow_query")`, at most 0.1 s behind the file.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from demo.shop import places

LOOK_S = 0.1


class Faults:
    """The faults of one process; `changed` registers a callback."""

    def __init__(self) -> None:
        self._file = Path(places.faults()) if places.faults() else None
        self._looked = 0.0
        self._on: frozenset[str] = frozenset()
        self._watchers: dict[str, Callable[[bool], None]] = {}

    def on(self, name: str) -> bool:
        """Return whether a fault is on now."""
        if self._file is not None and time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            self._read(self._file)
        return name in self._on

    def changed(self, name: str, callback: Callable[[bool], None]) -> None:
        """Call a function when a fault begins (True) or ends (False)."""
        self._watchers[name] = callback

    def _read(self, file: Path) -> None:
        try:
            held = json.loads(file.read_text())
        except (OSError, ValueError):
            return  # keep the last state until the file can be read
        now = frozenset(name for name, value in held.items() if value)
        for name in now ^ self._on:
            if name in self._watchers:
                self._watchers[name](name in now)
        self._on = now


def burn(seconds: float) -> None:
    """Use a core for a number of CPU seconds."""
    until, block = time.process_time() + seconds, b"burn" * 4096
    while time.process_time() < until:
        block = hashlib.sha512(block).digest() * 256
