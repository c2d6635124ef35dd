"""Compile functions by numba, and keep on disk what was compiled.

In:  Python functions of arrays and numbers.
Out: the same functions as machine code, compiled once for all processes.

It is kept beside the module or, where that folder is read-only, in the user's cache folder; without
any folder to write to, every process compiles.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(*signatures: Any, **options: Any) -> Callable[[Function], Function]:
    """Give a decorator that compiles; what it makes runs without the interpreter's lock.

    Parameters
    ----------
    signatures : compile at once for these types; without, at the first call for those that come.
    options : of `numba.njit`.
    """

    jit: Any = njit

    def compile_(function: Function) -> Function:
        try:
            made = jit(*signatures, nogil=True, cache=True, **options)(function)
        except RuntimeError:  # numba found no folder that it may write to
            made = jit(*signatures, nogil=True, **options)(function)
        return cast(Function, made)

    return compile_
