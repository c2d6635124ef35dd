"""Bound the memory that one request takes from its arrival until it is in a part.

In:  the size of a request, and what is found in it.
Out: `TooLarge` for a request that takes too much.

Decoding enlarges requests: two bytes of protobuf can be a span's event with its five columns, and
an attribute of a resource applies to every record of that resource. So what the scanner reads is
counted, and the messages of a request are counted before a library parses it.
"""

from apm_analytics.foundation.errors import BadInput

# The most memory that one request may take: so many times its size, or `LEAST_BYTES` where that is
# more, and never above `MOST_BYTES`.
MULTIPLE = 32
LEAST_BYTES = 32 * 1024 * 1024
MOST_BYTES = 96 * 1024 * 1024
# Bytes of memory of an attribute of a resource or scope for each of its records; of a record that
# is read from JSON, and of a value of JSON.
SHARED_PAIR_BYTES = 20
JSON_RECORD_BYTES = 700
JSON_VALUE_BYTES = 200


# Requests that take more than this many times their size share `HEAVY_BYTES` until they are in
# parts.
LIGHT_MULTIPLE = 8
HEAVY_BYTES = MOST_BYTES
UNLIMITED = 2**62


class TooLarge(BadInput):
    """A request that would take too much memory."""


class Postponed(BadInput):
    """A request that would take the memory of others that are not in parts yet."""


class Spare:
    """What is left of `HEAVY_BYTES`."""

    def __init__(self, left: int = HEAVY_BYTES) -> None:
        self.left = left


class Bound:
    """The memory that one request takes (bytes).

    Parameters
    ----------
    size : bytes of the request as it was sent.
    spare : shared with other requests.
    """

    def __init__(self, size: int, spare: Spare) -> None:
        self._size = size
        self._spare = spare
        self.weight = 0
        """What has been counted."""
        self.heavy = 0
        """What of it is taken from `spare`."""

    @property
    def allowed(self) -> int:
        """Return the most that a request of this size may take."""
        return min(max(MULTIPLE * self._size, LEAST_BYTES), MOST_BYTES)

    def set(self, weight: int) -> None:
        """Count memory anew; see `add`."""
        self.weight = 0
        self.add(weight)

    def add(self, weight: int) -> None:
        """Count memory.

        Raises
        ------
        TooLarge, Postponed
            The request takes more than it may, or more than is left.
        """
        self.weight += weight
        heavy = max(self.weight - LIGHT_MULTIPLE * self._size, 0)
        if self.weight > self.allowed:
            self._reserve(0)
            raise TooLarge(
                f"a request of {self._size:,} bytes may take {self.allowed:,} bytes of memory, "
                "this one takes more; send fewer records in a request, or fewer attributes of "
                "their resource and scope"
            )
        if heavy - self.heavy > self._spare.left:
            self._reserve(0)
            raise Postponed(
                "requests of very many small records, or of many attributes, wait to be written; "
                "send again shortly"
            )
        self._reserve(heavy)

    def set_json(self, document: bytes) -> None:
        """Count what a JSON document takes once it is parsed; see `add`."""
        self.set(JSON_VALUE_BYTES * sum(map(document.count, (b"{", b"[", b","))))

    def _reserve(self, heavy: int) -> None:
        self._spare.left -= heavy - self.heavy
        self.heavy = heavy
