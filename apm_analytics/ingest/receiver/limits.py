"""Bounds on what one sender, and all of them together, may take.

In:  bytes that arrive, how long that takes.
Out: a pass, or `Refused` with when to come again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from apm_analytics.ingest.receiver.refusals import Reason, Refused

Read = TypeVar("Read")
# A sender that is given less than this before it must give way could not send over a bad line.
GRACE_S = 1.0


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

    When all places are taken, the sender that has been sending longest gives way, so slow
    clients cannot keep others out.
    """

    def __init__(self, places: int, timeout_s: float) -> None:
        self._places = places
        self._timeout_s = timeout_s
        self._reading: dict[asyncio.Timeout, float] = {}  # since when; the longest first
        self._free = asyncio.Event()

    async def read(self, start: Callable[[], Awaitable[Read]]) -> Read:
        """Await one request's bytes; `start` begins to read them.

        Raises
        ------
        Refused
            They took too long to arrive, or others waited for the place.
        """
        while len(self._reading) >= self._places:
            await self._make_room()
        place = asyncio.timeout(self._timeout_s)
        self._reading[place] = time.monotonic()
        try:
            async with place:
                return await start()
        except TimeoutError:
            raise Refused(
                Reason.TOO_SLOW,
                f"the request did not arrive within {self._timeout_s:g} s, or was slow while "
                "others waited; send smaller requests or compress them",
            ) from None
        finally:
            del self._reading[place]
            self._free.set()

    async def _make_room(self) -> None:
        oldest, since = next(iter(self._reading.items()))
        now = time.monotonic()
        if now - since > GRACE_S and not oldest.expired():
            oldest.reschedule(asyncio.get_running_loop().time())
        self._free.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._free.wait(), GRACE_S)
