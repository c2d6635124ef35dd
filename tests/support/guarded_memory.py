"""Buffers that end, or begin, at a protected page: access beyond them crashes.

In:  bytes.
Out: arrays over a copy of them.
"""

import ctypes
import mmap

import numpy as np
from numpy.typing import NDArray

_PAGE = mmap.PAGESIZE
_PROT_NONE = 0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def against_a_guard_page(content: bytes) -> NDArray[np.uint8]:
    """Copy bytes in front of a protected page."""
    memory = _fenced(len(content))
    end = len(memory) - _PAGE
    memory[end - len(content) : end] = np.frombuffer(content, np.uint8)
    return memory[end - len(content) : end]


def behind_a_guard_page(content: bytes) -> NDArray[np.uint8]:
    """Copy bytes behind a protected page."""
    memory = _fenced(len(content))
    memory[_PAGE : _PAGE + len(content)] = np.frombuffer(content, np.uint8)
    return memory[_PAGE : _PAGE + len(content)]


def _fenced(size: int) -> NDArray[np.uint8]:
    inner = -(-max(size, 1) // _PAGE) * _PAGE
    # The array keeps the mapping alive, and the guard pages with it.
    memory = np.frombuffer(mmap.mmap(-1, inner + 2 * _PAGE), np.uint8)
    address = memory.__array_interface__["data"][0]
    for guard in (address, address + _PAGE + inner):
        if _libc.mprotect(guard, _PAGE, _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    return memory
