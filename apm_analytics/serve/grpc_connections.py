"""Make room for new gRPC connections: the idlest are closed where there are too many.

In:  the port of gRPC, how many connections it may have.
Out: fewer connections.

gRPC takes no connection beyond its limit and lets new ones wait; it shows us none of those that it
has, so they are found among the files of this process, and shut down as if their clients had hung
up.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Of the connections that gRPC may have: beyond the first share the idlest are closed, down to the
# second. What remains is for those that come between two looks.
TOO_MANY, ENOUGH = 0.8, 0.7
LOOK_EVERY_S = 0.25
# Whoever waits for an answer has sent something a moment ago; a call that is cut off all the same
# is repeated by its client, and recognised.
LEAST_IDLE_MS = 1_000
_FILES = Path("/proc/self/fd")  # Linux; elsewhere gRPC's own time limit alone closes idle ones
_TCP_INFO = struct.Struct("44x4I")  # linux/tcp.h: sent, its acknowledgement, received, the same

_log = logging.getLogger(__name__)


async def close_idlest(port: int, most: int, stopping: asyncio.Event) -> None:
    """Keep room for new gRPC connections until the receiver stops.

    Parameters
    ----------
    port : where gRPC listens.
    most : how many connections it may have.
    """
    while not stopping.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), LOOK_EVERY_S)
        # All files together are no fewer than its connections, and counted in no time.
        if _FILES.exists() and len(os.listdir(_FILES)) > TOO_MANY * most:
            closed = await asyncio.to_thread(close_idlest_now, port, most)
            if closed:
                _log.warning("%d gRPC connections without a call made room for others", closed)


def close_idlest_now(port: int, most: int) -> int:
    """Close those of gRPC that have been idle longest, where there are too many; gives how many."""
    found = sorted(_idle_ms(port), reverse=True)
    if len(found) <= TOO_MANY * most:
        return 0
    closed = 0
    for idle_ms, number in found[: len(found) - int(ENOUGH * most)]:
        if idle_ms < LEAST_IDLE_MS:
            break
        with _socket(number) as connection:
            # It may have ended meanwhile, and its number be another's.
            if connection is not None and _belongs(connection, port):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                    closed += 1
    return closed


def _idle_ms(port: int) -> Iterator[tuple[int, int]]:
    """Give how long each connection has been silent, and the number of its file."""
    for name in os.listdir(_FILES):
        with _socket(int(name)) as connection:
            if connection is not None and _belongs(connection, port):
                with suppress(OSError):  # it may end at any moment
                    info = connection.getsockopt(
                        socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size
                    )
                    sent, _, received, _ = _TCP_INFO.unpack(info)
                    yield min(sent, received), int(name)


@contextmanager
def _socket(number: int) -> Iterator[socket.socket | None]:
    """Give a file of this process as the socket that it is; None where it is none.

    Never by a second handle: to close one of the manifest ends SQLite's locks on it, and another
    process then writes at the same time.
    """
    try:
        connection = socket.socket(fileno=number)
    except OSError:
        yield None
        return
    try:
        yield connection
    finally:
        connection.detach()


def _belongs(connection: socket.socket, port: int) -> bool:
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    with suppress(OSError):  # the listening socket has no peer
        connection.getpeername()
        return bool(connection.getsockname()[1] == port)
    return False
