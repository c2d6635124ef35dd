"""Read and write memory at addresses, as one machine instruction each.

In:  addresses as int64; the caller has checked that they lie inside a buffer.
Out: integers, sign- or zero-extended to 64 bits.

Passing arrays to many small compiled functions costs more than their work, so the scanner passes
addresses. Nothing here checks a bound: `fields` checks every read of a payload, and
`state` every buffer before a record is written to it.
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from apm_analytics.foundation.compiled import compiled_part

Load = Callable[[int], int]
Store = Callable[[int, int], None]


def _load(bits: int, *, signed: bool) -> Load:
    @intrinsic
    def load(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.IntType(bits)
            pointer = builder.inttoptr(arguments[0], ir.PointerType(kind))
            value = builder.load(pointer, align=1)
            if bits == 64:
                return value
            extend = builder.sext if signed else builder.zext
            return extend(value, ir.IntType(64))

        return types.int64(types.int64), generate

    return cast(Load, load)


def _store(bits: int) -> Store:
    @intrinsic
    def store(typing: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.IntType(bits)
            pointer = builder.inttoptr(arguments[0], ir.PointerType(kind))
            value = arguments[1]
            builder.store(builder.trunc(value, kind) if bits < 64 else value, pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return cast(Store, store)


load8 = _load(8, signed=False)
load32 = _load(32, signed=True)
load64 = _load(64, signed=True)
store8 = _store(8)
store32 = _store(32)
store64 = _store(64)


@intrinsic
def _double_bits(typing: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


double_bits = cast(Callable[[float], int], _double_bits)


@compiled_part
def put32(column: int, row: int, value: int) -> None:
    """Write row `row` of a column of 32-bit items; `column` is the address of its address."""
    store32(load64(column) + 4 * row, value)


@compiled_part
def put64(column: int, row: int, value: int) -> None:
    """Write row `row` of a column of 64-bit items; `column` is the address of its address."""
    store64(load64(column) + 8 * row, value)


# The last eight (or four) bytes of a text overlap the piece before, so that no byte beyond the text
# is touched.


@compiled_part
def equal(one: int, other: int, size: int) -> bool:
    """Compare `size` bytes at two addresses."""
    if size >= 8:
        at = 0
        while at + 8 <= size:
            if load64(one + at) != load64(other + at):
                return False
            at += 8
        return load64(one + size - 8) == load64(other + size - 8)
    if size >= 4:
        return load32(one) == load32(other) and load32(one + size - 4) == load32(other + size - 4)
    for at in range(size):  # noqa: SIM110 (compiled code has no generators)
        if load8(one + at) != load8(other + at):
            return False
    return True


@compiled_part
def copy(target: int, source: int, size: int) -> None:
    """Copy `size` bytes between buffers that do not overlap."""
    if size >= 8:
        at = 0
        while at + 8 <= size:
            store64(target + at, load64(source + at))
            at += 8
        store64(target + size - 8, load64(source + size - 8))
    elif size >= 4:
        tail = load32(source + size - 4)
        store32(target, load32(source))
        store32(target + size - 4, tail)
    else:
        for at in range(size):
            store8(target + at, load8(source + at))


@compiled_part
def _spread(digits: int) -> int:
    """Turn 4 bytes into their 8 hex digits in text order."""
    # Spread each nibble into its own byte, the high nibble first.
    spread = (digits & 0xFFFF) | ((digits & 0xFFFF0000) << 16)
    spread = (spread & 0x000000FF000000FF) | ((spread & 0x0000FF000000FF00) << 8)
    spread = ((spread >> 4) & 0x000F000F000F000F) | ((spread & 0x000F000F000F000F) << 8)
    # Adding 48 makes a digit; 10 and above need 39 more to become a letter.
    letters = ((spread + 0x0606060606060606) >> 4) & 0x0101010101010101
    return spread + 0x3030303030303030 + letters * 39


@compiled_part
def hex_text(target: int, source: int, size: int) -> None:
    """Write `size` bytes (a multiple of 4) as lower-case hex digits."""
    at = 0
    while at < size:
        store64(target + 2 * at, _spread(load32(source + at) & 0xFFFFFFFF))
        at += 4


@compiled_part
def put_id(column: int, row: int, at: int, size: int, full_size: int) -> int:
    """Write an id of 8 or 16 bytes into a column of hex digits.

    Returns 1 for an id, 0 for a missing one (empty or all zero), -1 for one of another size.
    """
    if size == full_size:
        hex_text(load64(column) + 2 * full_size * row, at, full_size)
        return 1 if load64(at) != 0 or load64(at + full_size - 8) != 0 else 0
    return 0 if size == 0 else -1
