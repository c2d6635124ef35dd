"""Compile functions to machine code that runs without the interpreter's lock.

In:  Python functions over integers, addresses and arrays.
Out: the same functions, compiled by numba on their first call.

What an entry compiles is kept on disk, see `machine_code`.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, cast

from numba import njit

from apm_analytics.foundation import compiled as machine_code
from apm_analytics.foundation.compiled import Function


def compiled(function: Function, *, checked: bool = False) -> Function:
    """Compile a part of an entry: only compiled code calls it, and no cache of its own is kept.

    Parameters
    ----------
    checked : reading or writing an array beyond its end raises IndexError.
    """
    # Without what Python would need to call it, it compiles a third faster; numba's types leave
    # these options out.
    compile_: Any = njit
    part = compile_(nogil=True, boundscheck=checked, no_cpython_wrapper=True, no_cfunc_wrapper=True)
    return cast(Function, part(function))


def entry(function: Function, *, checked: bool = False) -> Function:
    """Compile what Python calls, and keep the result on disk; `checked` as of `compiled`."""
    return machine_code.compiled(boundscheck=checked)(function)


@cache
def sources_hash() -> str:
    """Give one hash of all sources that go into the compiled code.

    numba knows only the file of the function that it keeps. An entry that closes over this hash
    is compiled again when a function that it calls changed.
    """
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
