"""Bounds on what one sender, and all of them together, may take.

In:  bytes that arrive, how long that takes.
Out: a pass, or `Refused` with when to come again.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from apm_analytics.serve.refusals import Reason, Refused

Read = TypeVar("Read")
# What a sender has before it must give way to one other; with less it could not send over a bad
# line. When very many wait, it still has the least of it, in which a request crosses a good one.
GRACE_S = 1.0
LEAST_GRACE_S = 0.1
LOOK_S = 0.05  # between two looks for whose time is up
# Of an HTTP sender who waits the first 250 kB are there already.
MAX_WAITING = 1000


class Rate:
    """Bytes a second of one sender, with one second's worth saved up at most."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._left = bytes_per_s
        self._at = time.monotonic()

    def take(self, size: int) -> None:
        """Count a request.

        Raises
        ------
        Refused
            The sender is above its rate; says when enough is saved up again.
        """
        now = time.monotonic()
        self._left = min(self._bytes_per_s, self._left + (now - self._at) * self._bytes_per_s)
        self._at = now
        # A request larger than a second's worth passes when all is saved up, and leaves a debt.
        if self._left < min(size, self._bytes_per_s):
            wait = (min(size, self._bytes_per_s) - self._left) / self._bytes_per_s
            raise Refused(
                Reason.TOO_OFTEN,
                f"more than {self._bytes_per_s:,.0f} bytes a second from this sender; "
                f"send again in {wait:.1f} s",
                wait,
            )
        self._left -= size


class Readers:
    """How many requests may be on their way in at once: each holds up to a request's bytes.

    Who comes when all places are taken waits his turn. Meanwhile those that have been sending
    longest give way, the sooner the more are waiting, so slow clients cannot keep others out.
    """

    def __init__(self, places: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._count = places
        self._places = asyncio.Semaphore(places)
        self._reading: dict[asyncio.Timeout, float] = {}  # since when; the longest first
        self._waiting = 0
        self._look: asyncio.TimerHandle | None = None

    async def read(self, start: Callable[[], Awaitable[Read]]) -> Read:
        """Await one request's bytes; `start` begins to read them.

        Raises
        ------
        Refused
            They took too long to arrive, others waited for the place, or too many wait already.
        """
        if self._places.locked():
            await self._wait()
        else:
            await self._places.acquire()
        place = asyncio.timeout(self._timeout_s)
        self._reading[place] = time.monotonic()
        try:
            async with place:
                return await start()
        except TimeoutError:
            if place in self._reading:
                said = f"the request did not arrive within {self._timeout_s:g} s"
                raise Refused(
                    Reason.TOO_SLOW, f"{said}; send smaller requests or compress them"
                ) from None
            said = "the request was slow while others waited; send it again"
            raise Refused(Reason.UNAVAILABLE, said, GRACE_S) from None
        finally:
            self._reading.pop(place, None)
            self._places.release()

    async def _wait(self) -> None:
        if self._waiting >= MAX_WAITING:
            said = f"{self._waiting:,} requests wait to be read already; send again shortly"
            raise Refused(Reason.UNAVAILABLE, said, GRACE_S)
        self._waiting += 1
        if self._look is None:
            self._make_room()
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1

    def _make_room(self) -> None:
        self._look = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        share_s = max(GRACE_S * self._count / (self._count + self._waiting), LEAST_GRACE_S)
        until = time.monotonic() - share_s
        oldest = itertools.islice(self._reading.items(), self._waiting)
        for place in [place for place, since in oldest if since < until]:
            del self._reading[place]
            if not place.expired():
                place.reschedule(loop.time())
        self._look = loop.call_later(LOOK_S, self._make_room)
