"""Close the gRPC connections that have been idle longest when there are too many.

In:  the gRPC port, the most connections it may have.
Out: fewer connections.

Beyond its limit gRPC accepts no connection, and new ones wait until others end. It does not expose
its connections, so they are looked up among the open files of this process and shut down as if
their clients had hung up. With gRPC's own idle limit alone a new sender would wait longer: the
figures are in docs/decisions/0020-what-stayed.md.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Shares of the connections that gRPC may have: above the first, those idle longest are closed, down
# to the second. The rest is for connections that arrive between two checks.
TOO_MANY, ENOUGH = 0.8, 0.7
LOOK_EVERY_S = 0.25
# A connection with a call in progress has sent something recently. If a call is cut off
# nevertheless, its client repeats it, and the receiver recognises the repeat.
LEAST_IDLE_MS = 1_000
_FILES = Path("/proc/self/fd")  # Linux; elsewhere only gRPC's idle limit closes connections
_TCP_INFO = struct.Struct(
    "44x4I"
)  # linux/tcp.h: ms since data sent, ACK sent, data received, ACK received

_log = logging.getLogger(__name__)


async def close_idlest(port: int, most: int, stopping: asyncio.Event) -> None:
    """Keep room for new gRPC connections until the receiver stops.

    Parameters
    ----------
    port : port of gRPC.
    most : most connections it may have.
    """
    while not stopping.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), LOOK_EVERY_S)
        # The number of open files is an upper bound, and fast to count.
        if _FILES.exists() and len(os.listdir(_FILES)) > TOO_MANY * most:
            closed = await asyncio.to_thread(close_idlest_now, port, most)
            if closed:
                _log.warning("%d gRPC connections without a call made room for others", closed)


def close_idlest_now(port: int, most: int) -> int:
    """Close the connections idle longest if there are too many; return how many were closed."""
    connections = sorted(_idle_ms(port), reverse=True)
    if len(connections) <= TOO_MANY * most:
        return 0
    closed = 0
    for idle_ms, number in connections[: len(connections) - int(ENOUGH * most)]:
        if idle_ms < LEAST_IDLE_MS:
            break
        with _socket(number) as connection:
            # It may have ended and its file number been reused.
            if connection is not None and _belongs(connection, port):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                    closed += 1
    return closed


def _idle_ms(port: int) -> Iterator[tuple[int, int]]:
    """Yield the idle time (ms) and the file number of each connection."""
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
    """Yield an open file of this process as a socket; None if it is not a socket.

    Never duplicates the file: closing a duplicate of the manifest would release SQLite's locks on
    it, and another process could then write at the same time.
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
