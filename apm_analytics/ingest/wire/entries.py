"""The compiled functions that Python calls, kept on disk.

In:  the address of a `State`; arrays of codes.
Out: filled buffers; see each function.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apm_analytics.ingest.wire import texts
from apm_analytics.ingest.wire.compiled import entry, sources_hash
from apm_analytics.ingest.wire.scan import scan_request

_Codes = NDArray[np.int32]


class _Entries(NamedTuple):
    scan: Callable[[int, int, int, int], int]
    intern: Callable[[int, int, int], int]
    forget: Callable[[int, int], None]
    rehash: Callable[[int, int, int], None]
    renumber: Callable[[_Codes, _Codes, _Codes], tuple[int, int]]


def _compile(version: int) -> _Entries:
    """Close every entry over the sources' hash: numba then sees when one of them changed."""

    @entry
    def scan(shared: int, signal: int, at: int, end: int) -> int:
        return scan_request(shared, signal, at, end) if version else 0

    @entry
    def intern(shared: int, at: int, size: int) -> int:
        return texts.intern(shared, at, size) if version else 0

    @entry
    def forget(shared: int, kept: int) -> None:
        if version:
            texts.forget(shared, kept)

    @entry
    def rehash(shared: int, old: int, old_slots: int) -> None:
        if version:
            texts.rehash(shared, old, old_slots)

    @entry
    def renumber(codes: _Codes, numbers: _Codes, used: _Codes) -> tuple[int, int]:
        count = missing = 0 if version else 1
        for row in range(codes.size):
            code = codes[row]
            if code < 0:
                missing += 1
                continue
            number = numbers[code]
            if number < 0:
                number = count
                numbers[code] = number
                used[count] = code
                count += 1
            codes[row] = number
        for number in range(count):
            numbers[used[number]] = -1
        return count, missing

    return _Entries(scan, intern, forget, rehash, renumber)


_entries = _compile(int(sources_hash()[:15], 16))


def cache_folder() -> Path | None:
    """Give the folder where the compiled code is kept, None where numba found none."""
    own: Any = _entries.scan
    found = own.stats.cache_path
    return None if found is None else Path(found)


def scan(shared: int, signal: int, at: int, end: int) -> int:
    """Scan one request; see `scan.scan_request`."""
    return _entries.scan(shared, signal, at, end)


def intern(shared: int, at: int, size: int) -> int:
    """Give the code of a text, new or known."""
    return _entries.intern(shared, at, size)


def forget(shared: int, kept: int) -> None:
    """Remove all texts from code `kept` on."""
    _entries.forget(shared, kept)


def rehash(shared: int, old: int, old_slots: int) -> None:
    """Enter what another hash table has into the present one; see `texts.rehash`."""
    _entries.rehash(shared, old, old_slots)


def renumber(codes: _Codes, numbers: _Codes, used: _Codes) -> tuple[int, int]:
    """Give the texts of a column numbers of their own, in order of appearance, in place.

    Parameters
    ----------
    codes : the texts of the column, -1 for none; numbers afterwards.
    numbers : -1 for every text of the batch; and again afterwards.
    used : filled with the code of each number.

    Returns
    -------
    How many texts the column has, and in how many rows there is none.
    """
    return _entries.renumber(codes, numbers, used)
