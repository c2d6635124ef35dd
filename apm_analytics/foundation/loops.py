"""Compile numerical loops, once for all machines of the same kind.

In:  a function of arrays and numbers.
Out: the same function, compiled at its first call and kept on disk beside its module.
"""

from apm_analytics.foundation import compiled as machine_code
from apm_analytics.foundation.compiled import Function

# Sums may be reordered (vector instructions), but NaN keeps its meaning: `fastmath=True` would
# drop the checks for missing values.
_REORDER = {"reassoc", "contract", "arcp", "nsz"}


def compiled(function: Function) -> Function:
    """Compile a function; it runs without the interpreter's lock, so threads run side by side."""
    return machine_code.compiled(fastmath=_REORDER, error_model="numpy")(function)
