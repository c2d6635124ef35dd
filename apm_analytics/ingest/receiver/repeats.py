"""Recognise requests that were accepted but whose acknowledgement was lost.

In:  the bytes of requests whose acknowledgement may be lost: those of a journal after a crash,
     and those whose sender hung up before the response.
Out: whether a request is one of them, sent again.

Hashing every request would cost a tenth of the receiver's CPU, so only requests whose length
matches a remembered one are hashed.
"""

import time

from apm_analytics.ingest.kinds import fingerprint

# An OTLP client gives up within a minute, a Collector's queue within five.
REMEMBERED_S = 600.0
# About 100 bytes each.
MAX_REMEMBERED = 100_000


class Repeats:
    """Remembers such requests for ten minutes; used by one thread."""

    def __init__(self) -> None:
        self._remembered: dict[str, float] = {}
        self._lengths: set[int] = set()

    def remember(self, fingerprint: str) -> None:
        """Remember an accepted request by its `fingerprint`."""
        now = time.monotonic()
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.pop(next(iter(self._remembered)))
        self._remembered[fingerprint] = now
        self._lengths.add(int(fingerprint.partition("-")[0]))

    def taken(self, payload: bytes, stamp: bytes = b"") -> bool:
        """Return whether these bytes were accepted before, from a sender with this stamp."""
        if len(payload) not in self._lengths or not payload:
            return False
        since = self._remembered.get(fingerprint(payload, stamp))
        if since is not None and time.monotonic() - since < REMEMBERED_S:
            return True
        self._drop_old()
        return False

    def _drop_old(self) -> None:
        limit = time.monotonic() - REMEMBERED_S
        oldest = next(iter(self._remembered), None)
        while oldest is not None and self._remembered[oldest] < limit:
            del self._remembered[oldest]
            oldest = next(iter(self._remembered), None)
        if not self._remembered:
            self._lengths.clear()
