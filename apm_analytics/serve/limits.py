"""Limit the rate of one sender and the requests read at once from all senders.

In:  sizes of requests, durations of reading them.
Out: permission, or `Refused` with the time to retry.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from apm_analytics.serve.refusals import Reason, Refused

Read = TypeVar("Read")
# Time (s) a sender has to send its request when one other waits; enough for a slow connection. With
# more waiting it shrinks to LEAST_GRACE_S, enough for a fast connection.
GRACE_S = 1.0
LEAST_GRACE_S = 0.1
LOOK_S = 0.05  # between two checks of expired senders
# A waiting HTTP request occupies up to 250 kB of memory.
MAX_WAITING = 1000


class Rate:
    """A rate limit of one sender (bytes per second); at most one second's worth accumulates."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._left = bytes_per_s
        self._at = time.monotonic()

    def take(self, size: int) -> None:
        """Count a request of `size` bytes.

        Raises
        ------
        Refused
            The sender exceeds its rate; `retry_after_s` is the time until it does not.
        """
        now = time.monotonic()
        self._left = min(self._bytes_per_s, self._left + (now - self._at) * self._bytes_per_s)
        self._at = now
        # A request above one second's worth passes at a full allowance, and leaves it negative.
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
    """Slots for requests being read, each of which may hold the bytes of a whole request.

    When all slots are taken, requests queue. Those that have been sending longest are then refused,
    the sooner the more requests queue, so slow clients cannot block others.
    """

    def __init__(self, places: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._count = places
        self._places = asyncio.Semaphore(places)
        self._reading: dict[asyncio.Timeout, float] = {}  # start times (s), oldest first
        self._waiting = 0
        self._look: asyncio.TimerHandle | None = None

    async def read(self, start: Callable[[], Awaitable[Read]]) -> Read:
        """Return the bytes of one request; `start` begins to read them.

        Raises
        ------
        Refused
            The request was too slow, others waited for its slot, or too many requests queue.
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
                message = f"the request did not arrive within {self._timeout_s:g} s"
                raise Refused(
                    Reason.TOO_SLOW, f"{message}; send smaller requests or compress them"
                ) from None
            message = "the request was slow while others waited; send it again"
            raise Refused(Reason.UNAVAILABLE, message, GRACE_S) from None
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
