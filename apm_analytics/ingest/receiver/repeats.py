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
_MARK = ";"


class Repeats:
    """Remembers suspects for ten minutes; one thread calls it."""

    def __init__(self) -> None:
        self._suspects: dict[str, float] = {}
        self._lengths: set[int] = set()

    def remember(self, fingerprint: str) -> None:
        """Note a request that was taken, by its `fingerprint`."""
        now = time.monotonic()
        if len(self._suspects) >= MAX_REMEMBERED:
            self._suspects.pop(next(iter(self._suspects)))
        self._suspects[fingerprint] = now
        self._lengths.add(int(fingerprint.partition("-")[0]))

    def taken(self, payload: bytes) -> bool:
        """Tell whether these bytes were taken before."""
        if len(payload) not in self._lengths or not payload:
            return False
        since = self._suspects.get(fingerprint(payload))
        if since is not None and time.monotonic() - since < REMEMBERED_S:
            return True
        self._drop_old()
        return False

    def _drop_old(self) -> None:
        limit = time.monotonic() - REMEMBERED_S
        oldest = next(iter(self._suspects), None)
        while oldest is not None and self._suspects[oldest] < limit:
            del self._suspects[oldest]
            oldest = next(iter(self._suspects), None)
        if not self._suspects:
            self._lengths.clear()


def fingerprint(payload: bytes) -> str:
    """Give a request's length and hash."""
    return f"{len(payload)}-{hashlib.blake2b(payload, digest_size=16).hexdigest()}"


def sent_as(kind: str, payload: bytes) -> str:
    """Give the kind of a journal entry whose bytes are not those that were sent."""
    return f"{kind}{_MARK}{fingerprint(payload)}"


def sent_fingerprint(kind: str, payload: bytes) -> str:
    """Give the fingerprint of what was sent, from a journal entry."""
    return kind.partition(_MARK)[2] or fingerprint(payload)


def plain_kind(kind: str) -> str:
    """Give the kind of a journal entry without the fingerprint."""
    return kind.partition(_MARK)[0]
