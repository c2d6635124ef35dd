"""Compile functions with numba, and cache the machine code on disk.

In:  Python functions of arrays and numbers.
Out: the same functions as machine code that runs without the interpreter's lock.

The cache lies beside the module or, where that folder is read-only, in the user's cache folder.
Without a writable folder, every process compiles for itself.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered (vector instructions), but NaN keeps its meaning: `fastmath=True` would
# drop the checks for missing values.
_REORDER = {"reassoc", "contract", "arcp", "nsz"}
_njit: Any = njit  # numba's type hints leave out some options


def compiled(*signatures: Any, **options: Any) -> Callable[[Function], Function]:
    """Return a decorator that compiles a function and caches the result on disk.

    Parameters
    ----------
    signatures : compile for these types at import; without, at the first call of each type.
    """

    def compile_(function: Function) -> Function:
        try:
            machine_code = _njit(*signatures, nogil=True, cache=True, **options)(function)
        except RuntimeError:  # numba found no writable folder
            machine_code = _njit(*signatures, nogil=True, **options)(function)
        return cast(Function, machine_code)

    return compile_


def compiled_loop(function: Function) -> Function:
    """Compile a numerical loop; its sums may be reordered for vector instructions."""
    return compiled(fastmath=_REORDER, error_model="numpy")(function)


def compiled_part(function: Function, *, checked: bool = False, inline: bool = False) -> Function:
    """Compile a function that only compiled code calls; it is cached as part of its callers.

    Parameters
    ----------
    checked : reading or writing an array beyond its end raises IndexError.
    inline : copy it into every caller: for a few instructions that run once per field or byte.
    """
    # Without the wrapper that Python needs to call it, it compiles a third faster.
    part = _njit(
        nogil=True,
        boundscheck=checked,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        forceinline=inline,
    )
    return cast(Function, part(function))
