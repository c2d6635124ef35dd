"""Limit HTTP connections: size and duration of request heads, idle time, number.

In:  connections of uvicorn, which limits neither the size of a request head nor its duration.
Out: the same connections; closed if a head is late or too large, or if there are too many and they
     have been idle longest.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
CONNECTION = "apm.connection"  # key of the connection in a request's scope


def bounded_protocol(*, timeout_s: float, max_connections: int) -> type[asyncio.Protocol]:
    """Return the protocol class for `uvicorn.Config(http=...)`.

    Parameters
    ----------
    timeout_s : longest time for the head of the next request (s).
    max_connections : beyond it, the connection that has been idle longest is closed.
    """
    # Connections that wait for a head, longest first.
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
    # The task that answers the current request; cancelled if the client hangs up.
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
            # Without a copy: uvicorn would copy it into a buffer and out again.
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
    """Return the number of connections of a uvicorn server."""
    return len(server.server_state.connections)
