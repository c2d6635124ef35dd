"""Reduce the memory of this process, for jobs that run beside a receiver.

In:  a process that has not loaded pyarrow yet.
Out: the same process; its pyarrow loads no pandas, uses one thread and returns freed memory.

`python -m apm_analytics.lake.maintenance.lean lake retain` is `apm lake retain` in such a process.
"""

import ctypes
import os
import runpy
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
# Smaller blocks recur; getting them from the system each time would cost a third more CPU.
_GIVEN_BACK_BYTES = 4 * 1024 * 1024


def take_little() -> None:
    """Prepare this process; modules that are loaded already are not affected."""
    without_pandas()
    # pyarrow's own allocators hold several times the memory in use.
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    with suppress(AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 2 * _GIVEN_BACK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _GIVEN_BACK_BYTES)
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def without_pandas() -> None:
    """Hide pandas from pyarrow, which would import it at its first cast.

    The import takes 47 MB and half a second of CPU.
    """
    if "pandas" not in sys.modules and not any(isinstance(f, _Absent) for f in sys.meta_path):
        sys.meta_path.insert(0, _Absent())


class _Absent:
    """An import finder that reports pandas as missing and passes on every other name."""

    @staticmethod
    def find_spec(
        name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is hidden in this process", name=name)
        return None


if __name__ == "__main__":
    take_little()
    runpy.run_module("apm_analytics", run_name="__main__")
