"""Recognise requests that were taken although their senders never heard so.

In:  the bytes of requests whose acknowledgement may be lost: those of a journal after a crash,
     and those whose sender hung up before the answer.
Out: whether a request is one of them, sent again.

Hashing every request would cost a tenth of the whole work, so only those that have the length
of a suspect are hashed.
"""

import hashlib
import time

# An OTLP client gives up within a minute, a Collector's queue within five.
REMEMBERED_S = 600.0
# About 100 bytes each.
MAX_REMEMBERED = 100_000


class Repeats:
    """Remembers suspects for ten minutes; one thread calls it."""

    def __init__(self) -> None:
        self._digests: dict[bytes, float] = {}
        self._lengths: set[int] = set()

    def remember(self, payload: bytes) -> None:
        """Note a request that was taken."""
        now = time.monotonic()
        if len(self._digests) >= MAX_REMEMBERED:
            self._digests.pop(next(iter(self._digests)))
        self._digests[_digest(payload)] = now
        self._lengths.add(len(payload))

    def taken(self, payload: bytes) -> bool:
        """Tell whether these bytes were taken before."""
        if len(payload) not in self._lengths or not payload:
            return False
        since = self._digests.get(_digest(payload))
        if since is not None and time.monotonic() - since < REMEMBERED_S:
            return True
        self._drop_old()
        return False

    def _drop_old(self) -> None:
        limit = time.monotonic() - REMEMBERED_S
        oldest = next(iter(self._digests), None)
        while oldest is not None and self._digests[oldest] < limit:
            del self._digests[oldest]
            oldest = next(iter(self._digests), None)
        if not self._digests:
            self._lengths.clear()


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()
