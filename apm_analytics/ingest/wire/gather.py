"""Renumber text codes so that each column has a dictionary of its own.

In:  the codes of a column, -1 for none, and room for its dictionary.
Out: the same column in codes of its own, and which texts they stand for, in order of appearance.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from apm_analytics.ingest.wire.compiled import entry, sources_hash

_Codes = NDArray[np.int32]


def _entry_point() -> Callable[[_Codes, _Codes, _Codes], tuple[int, int]]:
    version = int(sources_hash()[:15], 16)

    @entry
    def renumber(codes: _Codes, numbers: _Codes, used: _Codes) -> tuple[int, int]:
        """Renumber `codes` in place; gives how many texts they stand for, and how many are -1.

        `numbers` has -1 for every text, and again afterwards.
        """
        count = 0 if version else 1
        missing = 0
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

    return renumber


renumber = _entry_point()
