"""Have this process take little memory: for what works beside a receiver.

In:  a process that has not loaded pyarrow yet.
Out: the same, whose pyarrow loads no pandas, has one thread and gives back what it frees.

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
# What is smaller comes again and again; taking it from the system each time costs a third more CPU.
_GIVEN_BACK_BYTES = 4 * 1024 * 1024


def take_little() -> None:
    """Prepare this process; without effect on what is loaded already."""
    without_pandas()
    # pyarrow's own allocators keep several times what is in use.
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
    """Let pyarrow believe that there is no pandas: it would load it for its first cast.

    That is 47 MB and half a second of CPU in a process that has no data frame.
    """
    if "pandas" not in sys.modules and not any(isinstance(one, _Absent) for one in sys.meta_path):
        sys.meta_path.insert(0, _Absent())


class _Absent:
    """Finds that pandas is missing, and leaves everything else to those who come next."""

    @staticmethod
    def find_spec(
        name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError("this process does without pandas", name=name)
        return None


if __name__ == "__main__":
    take_little()
    runpy.run_module("apm_analytics", run_name="__main__")
