"""The compiled functions that Python calls, cached on disk.

In:  the address of a `State`; arrays of codes and places, which the caller makes large enough.
Out: filled buffers; see each function.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apm_analytics.foundation.compiled import compiled
from apm_analytics.ingest.wire import texts
from apm_analytics.ingest.wire.memory import copy
from apm_analytics.ingest.wire.scan import scan_request

_Codes = NDArray[np.int32]
_Places = NDArray[np.int64]


_Scan = Callable[[int, int, int, int], int]
_Intern = Callable[[int, int, int], int]
_Forget = Callable[[int, int], None]
_Rehash = Callable[[int, int, int], None]
_Renumber = Callable[[_Codes, _Places, _Codes, _Codes, _Codes], tuple[int, int]]
_Measure = Callable[[_Codes, _Codes, _Codes], int]
_Gather = Callable[[_Codes, int, _Codes, _Codes, int], None]
_Follow = Callable[[_Codes, _Places, _Codes, _Places], None]


@cache
def sources_hash() -> int:
    """Return a positive hash of all sources that go into the compiled code.

    numba checks only the file of a cached function. A function that closes over this hash is
    compiled again when a function that it calls has changed.
    """
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return int(digest.hexdigest()[:15], 16)


def _compile(
    version: int,
) -> tuple[_Scan, _Intern, _Forget, _Rehash, _Renumber, _Measure, _Gather, _Follow]:
    # `version` is never 0; see `sources_hash`.

    @compiled()
    def scan(shared: int, signal: int, at: int, end: int) -> int:
        """Scan one request; see `scan.scan_request`."""
        return scan_request(shared, signal, at, end) if version else 0

    @compiled()
    def intern(shared: int, at: int, size: int) -> int:
        """Return the code of a text, new or known."""
        return texts.intern(shared, at, size) if version else 0

    @compiled()
    def forget(shared: int, kept: int) -> None:
        """Remove all texts from code `kept` on."""
        if version:
            texts.forget(shared, kept)

    @compiled()
    def rehash(shared: int, old: int, old_slots: int) -> None:
        """Enter the texts of another hash table into the present one; see `texts.rehash`."""
        if version:
            texts.rehash(shared, old, old_slots)

    @compiled()
    def renumber(
        codes: _Codes, order: _Places, numbers: _Codes, used: _Codes, coded: _Codes
    ) -> tuple[int, int]:
        """Number the texts of one column in order of appearance.

        Parameters
        ----------
        codes : the texts of the column, -1 for none.
        order : the rows in their new order; empty to keep the present one.
        numbers : -1 for every text of the batch, before and after the call.
        used : filled with the code of each number.
        coded : filled with the number of each row, -1 for none.

        Returns
        -------
        The number of texts in the column, and the number of rows without text.
        """
        count = missing = 0 if version else 1
        for row in range(codes.size):
            code = codes[order[row] if order.size else row]
            if code < 0:
                missing += 1
                coded[row] = -1
                continue
            number = numbers[code]
            if number < 0:
                number = count
                numbers[code] = number
                used[count] = code
                count += 1
            coded[row] = number
        for number in range(count):
            numbers[used[number]] = -1
        return count, missing

    @compiled()
    def measure(ends: _Codes, codes: _Codes, offsets: _Codes) -> int:
        at = 0 if version else 1
        for row in range(codes.size):
            offsets[row] = at
            at += ends[codes[row] + 1] - ends[codes[row]]
        offsets[codes.size] = at
        return at

    @compiled()
    def gather(ends: _Codes, arena: int, codes: _Codes, offsets: _Codes, target: int) -> None:
        for row in range(codes.size if version else 0):
            size = offsets[row + 1] - offsets[row]
            copy(target + offsets[row], arena + ends[codes[row]], size)

    @compiled()
    def follow(ends: _Codes, order: _Places, offsets: _Codes, places: _Places) -> None:
        at = 0 if version else 1
        for row in range(order.size):
            record = order[row]
            offsets[row] = at
            for place in range(ends[record - 1] if record else 0, ends[record]):
                places[at] = place
                at += 1
        offsets[order.size] = at

    return scan, intern, forget, rehash, renumber, measure, gather, follow


scan, intern, forget, rehash, renumber, _measure, _gather, _follow = _compile(sources_hash())


def cache_folder() -> Path | None:
    """Return the folder of the cached machine code, None where numba found none to write to."""
    scan_entry: Any = scan
    folder = scan_entry.stats.cache_path
    return None if folder is None else Path(folder)


def gather(
    ends: _Codes, arena: NDArray[np.uint8], codes: _Codes
) -> tuple[_Codes, NDArray[np.uint8]]:
    """Copy texts by their codes, none of which is -1; see `State.texts`.

    Returns
    -------
    Where each begins, with the end of the last, and the bytes of all.
    """
    offsets = np.empty(len(codes) + 1, np.int32)
    content = np.empty(_measure(ends, codes, offsets), np.uint8)
    _gather(ends, arena.ctypes.data, codes, offsets, content.ctypes.data)
    return offsets, content


def follow(ends: _Codes, order: _Places) -> tuple[_Codes, _Places]:
    """Reorder the items of records, such as their attributes, as the records are reordered.

    Parameters
    ----------
    ends : where the items of each record end; they begin where those before end.
    order : the records in their new order.

    Returns
    -------
    Where the items of each record now begin, with the end of the last; and the old place of each
    item in its new order.
    """
    offsets = np.empty(len(order) + 1, np.int32)
    places = np.empty(ends[-1], np.int64)
    _follow(ends, order, offsets, places)
    return offsets, places
