"""Rewrite the records of a request that hold given places, and leave every other byte alone.

In:  the bytes of a protobuf request that `redaction_scan` could read, places within it.
Out: the request with new resources, scopes and records at these places.

One e-mail address among a thousand spans must not cost a thousand spans in Python.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from apm_analytics.foundation import varint
from apm_analytics.ingest.decode.protobuf import REQUESTS

# All three signals nest alike: 1 in a request; 1 is the resource and 2 a scope's group; 1 is the
# scope and 2 a record. What has no name here is rewritten as one piece.
_ENTRY, _GROUP = (1,), (1, 2)
_CONTAINERS = ((), _ENTRY, _GROUP)
Rewrite = Callable[[type[Message], bytes], bytes]


def rewritten(signal: str, payload: bytes, places: Sequence[int], rewrite: Rewrite) -> bytes:
    """Give the request with every piece rewritten that holds one of the places.

    Parameters
    ----------
    signal : traces, metrics or logs.
    places : offsets into the payload of bytes inside resources, scopes or records, in order.
    rewrite : makes the new bytes of one message, given its class and its bytes.

    Examples
    --------
    >>> rewritten("traces", payload, [512], shorten)  # doctest: +SKIP
    """
    whole = memoryview(payload)
    return b"".join(_rewritten(signal, whole, 0, len(whole), places, (), rewrite))


def _rewritten(
    signal: str,
    payload: memoryview,
    start: int,
    end: int,
    places: Sequence[int],
    path: tuple[int, ...],
    rewrite: Rewrite,
) -> list[bytes | memoryview]:
    """Give the pieces of a container, most of which are as they were."""
    made: list[bytes | memoryview] = []
    kept = at = start
    for number, place in enumerate(places):
        if place < at:
            continue  # in the piece before
        if place >= end:
            break
        while at <= place:
            tag, size_at, body, at = _field(payload, at)
        inner = (*path, tag >> 3)
        if inner in _CONTAINERS:
            content = _rewritten(signal, payload, body, at, places[number:], inner, rewrite)
        else:
            content = [rewrite(_message_class(signal, inner), bytes(payload[body:at]))]
        made += (payload[kept:size_at], varint.encode(sum(map(len, content))), *content)
        kept = at
    made.append(payload[kept:end])
    return made


def _field(payload: memoryview, at: int) -> tuple[int, int, int, int]:
    """Read one field: its tag, where its size and its body begin, and where it ends."""
    tag, size_at = varint.decode(payload, at)
    kind = tag & 7
    if kind == 2:
        size, body = varint.decode(payload, size_at)
        return tag, size_at, body, body + size
    if kind == 0:
        return tag, size_at, size_at, varint.decode(payload, size_at)[1]
    return tag, size_at, size_at, size_at + (8 if kind == 1 else 4)


@cache
def _message_class(signal: str, path: tuple[int, ...]) -> type[Message]:
    descriptor: Any = REQUESTS[signal].DESCRIPTOR
    for number in path:
        descriptor = descriptor.fields_by_number[number].message_type
    kind: type[Message] = GetMessageClass(descriptor)
    return kind
