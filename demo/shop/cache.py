"""A cache and a queue: in Redis, or in this process where there is none.

In:  keys and texts.
Out: the same texts, until they expire or are lost.
"""

import time
from typing import Protocol

import redis

from demo.shop import places


class Cache(Protocol):
    """A store of texts; `get` returns None for a missing key."""

    def get(self, key: str) -> str | None: ...

    def set(self, key: str, value: str, seconds: int) -> None: ...

    def lose(self) -> None: ...

    def push(self, queue: str, value: str) -> None: ...

    def pop(self, queue: str) -> str | None: ...


class RedisCache:
    """Texts in Redis, which several processes share."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url, decode_responses=True)

    def get(self, key: str) -> str | None:
        """Return a text."""
        text = self._redis.get(key)
        return None if text is None else str(text)

    def set(self, key: str, value: str, seconds: int) -> None:
        """Keep a text for some seconds."""
        self._redis.set(key, value, ex=seconds)

    def lose(self) -> None:
        """Delete everything but the queues."""
        for key in self._redis.scan_iter("product*"):
            self._redis.delete(key)

    def push(self, queue: str, value: str) -> None:
        """Put a text at the end of a queue."""
        self._redis.rpush(queue, value)

    def pop(self, queue: str) -> str | None:
        """Take the first text of a queue; waits up to a second for one."""
        item = self._redis.blpop([queue], timeout=1)
        return None if item is None else str(item[1])  # type: ignore[index]


class LocalCache:
    """Texts in this process alone."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, str]] = {}

    def get(self, key: str) -> str | None:
        """Return a text."""
        until, value = self._held.get(key, (0.0, ""))
        return value if until > time.monotonic() else None

    def set(self, key: str, value: str, seconds: int) -> None:
        """Keep a text for some seconds."""
        self._held[key] = (time.monotonic() + seconds, value)

    def lose(self) -> None:
        """Delete everything."""
        self._held.clear()

    def push(self, queue: str, value: str) -> None:
        """Do nothing: without a server there is no worker, and orders need no queue."""

    def pop(self, queue: str) -> str | None:
        """Return None: nothing is queued."""
        return None


def cache() -> Cache:
    """Return the cache of this process."""
    return RedisCache(places.redis()) if places.redis() else LocalCache()
