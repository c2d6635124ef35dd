"""Connections that cannot keep others out: bounded heads, bounded silence, bounded number.

In:  connections of uvicorn and of gRPC.
Out: the same, closed when their request's head does not arrive in time (HTTP), or when there are
     too many and they are the idlest.

uvicorn itself bounds neither how long a head may take nor how large it may be. gRPC takes no
connection beyond its limit and lets new ones wait; it shows us none of those that it has, so they
are found among the files of this process, and shut down as if their clients had hung up.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
# Of the connections that gRPC may have: beyond the first share the idlest are closed, down to the
# second. What remains is for those that come between two looks.
TOO_MANY, ENOUGH = 0.8, 0.7
LOOK_EVERY_S = 0.25
# Whoever waits for an answer has sent something a moment ago; a call that is cut off all the same
# is repeated by its client, and recognised.
LEAST_IDLE_MS = 1_000
CONNECTION = "apm.connection"  # where a request's scope holds its connection
_FILES = Path("/proc/self/fd")  # Linux; elsewhere gRPC's own time limit alone closes idle ones
_TCP_INFO = struct.Struct("44x4I")  # linux/tcp.h: sent, its acknowledgement, received, the same

_log = logging.getLogger(__name__)


def bounded_protocol(*, timeout_s: float, max_connections: int) -> type[asyncio.Protocol]:
    """Give the protocol class for `uvicorn.Config(http=...)`.

    Parameters
    ----------
    timeout_s : how long a connection may take for the head of its next request.
    max_connections : beyond it, the connection that has been idle longest is closed.
    """
    # Those that wait for a head, longest first.
    idle: dict[BoundedProtocol, None] = {}

    class Bounded(BoundedProtocol):
        pass

    Bounded.idle = idle
    Bounded.timeout_s = timeout_s
    Bounded.max_connections = max_connections
    return Bounded


class BoundedProtocol(HttpToolsProtocol):
    idle: "dict[BoundedProtocol, None]"
    timeout_s: float
    max_connections: int
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    # The task of the request that is being answered, where it wants to know of a hang-up.
    serving: asyncio.Task[Any] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections and self.idle:
            next(iter(self.idle))._give_up()
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._give_up()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        self._head_is_there()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.cycle.body:
            # As it is, for uvicorn would copy it into a buffer and out again.
            self.cycle.body, body = body, b""  # type: ignore[assignment]
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and self._timer is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        if self.serving is not None:
            self.serving.cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._timer = self.loop.call_later(self.timeout_s, self._give_up)
        self.idle[self] = None

    def _head_is_there(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.idle.pop(self, None)

    def _give_up(self) -> None:
        self._head_is_there()
        self.transport.abort()


def open_connections(server: Any) -> int:
    """Count the connections of a uvicorn server."""
    return len(server.server_state.connections)


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
