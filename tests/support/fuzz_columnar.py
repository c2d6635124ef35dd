"""Fuzz the scanner with mutated requests: what it takes, it decodes as the library does.

In:  --requests, --seed; --guarded puts a protected page next to every buffer.
Out: the number of compared requests; exit code 1 with the request that differs.
"""

import argparse
import random
import sys

import numpy as np
from columnar_agreement import disagreement, first_culprit
from guarded_memory import against_a_guard_page, behind_a_guard_page
from numpy.typing import NDArray
from wire_requests import SIGNALS, Requests

from apm_analytics.foundation import varint
from apm_analytics.ingest.wire import state
from apm_analytics.ingest.wire.blocks import recycled

A_BATCH = 250
ODDITIES = (0.0, 0.002, 0.01, 0.05)
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)


def mutated(draw: random.Random, payload: bytes, other: bytes) -> bytes:
    """Damage a request in one of the ways of networks and attackers."""
    if not payload:
        return payload
    changed = bytearray(payload)
    at = draw.randrange(len(changed))
    way = draw.randrange(9)
    if way == 0:
        changed[at] ^= 1 << draw.randrange(8)
    elif way == 1:
        changed[at] = draw.choice(_EXTREMES)
    elif way == 2:
        del changed[at:]
    elif way == 3:
        del changed[at : at + draw.randint(1, 9)]
    elif way == 4:
        changed[at:at] = draw.randbytes(draw.randint(1, 9))
    elif way == 5:  # a piece of another request, or of the same one again
        start = draw.randrange(len(other) or 1)
        changed[at:at] = other[start : start + draw.randint(1, 60)]
    elif way == 6:  # a wrong length
        changed[at : at + 1] = varint.encode(
            draw.choice((changed[at] + 1, 2**31 - 1, 2**32 - 1, 2**63))
        )
    elif way == 7:  # an integer that does not end
        changed[at:at] = bytes([0xFF] * draw.randint(4, 11))
    else:
        for _ in range(draw.randint(2, 6)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def batches(count: int, seed: int) -> list[tuple[str, int]]:
    """Split a number of requests into batches of one signal, each with its own seed."""
    sizes = [A_BATCH] * (count // A_BATCH) + [count % A_BATCH] * bool(count % A_BATCH)
    return [(SIGNALS[number % 3], seed + number) for number in range(len(sizes))]


def batch(signal: str, seed: int) -> list[bytes]:
    """Draw one batch: a third as drawn, two thirds damaged once or twice."""
    draw = random.Random(seed)
    requests = Requests(draw, ODDITIES[seed % len(ODDITIES)])
    # Drawing is slow, so few are drawn and each is damaged in many ways.
    drawn = [requests.request(signal) for _ in range(A_BATCH // 5)]
    payloads = list(drawn)
    while len(payloads) < A_BATCH:
        damaged = mutated(draw, draw.choice(drawn), draw.choice(drawn))
        if draw.random() < 0.3:
            damaged = mutated(draw, damaged, draw.choice(drawn))
        payloads.append(damaged)
    return payloads


def fuzz(count: int, seed: int, *, guarded: bool = False, progress: bool = False) -> int:
    """Compare a number of requests; return how many of them the scanner took.

    Raises
    ------
    AssertionError
        The two disagree; the message has the request in hex.
    """
    if guarded:  # buffers that fill up often
        state.LEAST_ROWS = state.LEAST_PAIRS = state.LEAST_TEXTS = state.LEAST_ARENA = 1
    taken = 0
    for number, (signal, batch_seed) in enumerate(batches(count, seed)):
        payloads: list[bytes] | list[NDArray[np.uint8]] = batch(signal, batch_seed)
        if guarded:
            lay = against_a_guard_page if number % 2 else behind_a_guard_page
            payloads = [lay(payload) for payload in payloads]
        allocate = _fenced if guarded else recycled
        differing, here = disagreement(signal, payloads, allocate, ordered=bool(number % 2))
        assert not differing, f"seed {batch_seed}: {differing}\n{first_culprit(signal, payloads)}"
        taken += here
        if progress and number % 200 == 199:
            print(
                f"{(number + 1) * A_BATCH:,} requests agree, {taken:,} by the scanner", flush=True
            )
    return taken


def _fenced(sizes: list[int]) -> list[NDArray[np.uint8]]:
    return [against_a_guard_page(bytes(size)) for size in sizes]


def main() -> None:
    """Fuzz and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guarded", action="store_true")
    arguments = parser.parse_args()
    try:
        taken = fuzz(arguments.requests, arguments.seed, guarded=arguments.guarded, progress=True)
    except AssertionError as error:
        sys.exit(str(error))
    print(f"{arguments.requests:,} requests agree; the scanner took {taken:,} of them")


if __name__ == "__main__":
    main()
