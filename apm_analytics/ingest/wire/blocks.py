"""Memory for the scanner's buffers, reused from batch to batch.

In:  sizes in bytes.
Out: one buffer per size, with the content of its last use.

A batch takes tens of megabytes, four times a second. New from the system, each page costs a fault
and is zeroed; from malloc, small long-lived objects settle in between.
"""

import ctypes
import mmap
import weakref
from functools import partial

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64
# Enough for a batch being filled and one being written, of the largest signal. Four times as much
# would save 2 % of the CPU and cost 200 MB.
KEPT_BYTES = 128 * 1024 * 1024
# A block is reused if it is at most this many times larger than requested.
LOOSE = 4
# Sizes are rounded up to it, so that a slightly larger batch fits as well.
STEP_BYTES = 256 * 1024

_free: list[mmap.mmap] = []


def recycled(sizes: list[int]) -> list[NDArray[np.uint8]]:
    """Return one buffer per size; their memory is reused when nothing refers to any of them."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
    block = _block(-(-max(starts[-1], 1) // STEP_BYTES) * STEP_BYTES)
    owner = (ctypes.c_char * len(block)).from_buffer(block)
    weakref.finalize(owner, partial(_give_back, block)).atexit = False
    whole: NDArray[np.uint8] = np.frombuffer(memoryview(owner), np.uint8)
    return [whole[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def _block(size: int) -> mmap.mmap:
    # Another thread may take or return a block at any moment.
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
