"""Memory for the scanner's buffers, used again from batch to batch.

In:  sizes in bytes.
Out: a buffer of each size, with whatever the last user left in it.

A batch takes tens of megabytes, four times a second. Taken from the system anew, each page of them
costs a fault and is zeroed; taken from malloc, small and long-lived things settle between them.
"""

import ctypes
import mmap
import weakref
from functools import partial

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64
# The batch that is filled and the one that is written, of the largest signal. Keeping four times as
# much saves 2 % of the CPU, and costs 200 MB.
KEPT_BYTES = 128 * 1024 * 1024
# A block that is so many times larger than what is asked for waits for who needs it.
LOOSE = 4
# A step in size, so that a batch that is a little larger than the one before fits too.
STEP_BYTES = 256 * 1024

_free: list[mmap.mmap] = []


def recycled(sizes: list[int]) -> list[NDArray[np.uint8]]:
    """Give a buffer of each size; they return by themselves when nothing refers to any of them."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
    block = _block(-(-max(starts[-1], 1) // STEP_BYTES) * STEP_BYTES)
    held = (ctypes.c_char * len(block)).from_buffer(block)
    weakref.finalize(held, partial(_give_back, block)).atexit = False
    whole: NDArray[np.uint8] = np.frombuffer(memoryview(held), np.uint8)
    return [whole[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def _block(size: int) -> mmap.mmap:
    # Another thread may take or give back one at any moment.
    fitting = [block for block in _free if size <= len(block) <= LOOSE * size]
    for block in sorted(fitting, key=len):
        try:
            _free.remove(block)
        except ValueError:
            continue
        return block
    return mmap.mmap(-1, size)


def _give_back(block: mmap.mmap) -> None:
    _free.append(block)
    while sum(map(len, _free)) > KEPT_BYTES:
        _free.pop(0)
