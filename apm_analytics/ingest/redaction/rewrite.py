"""Rewrite the records at given places of a request, and leave all other bytes unchanged.

In:  the bytes of a protobuf request that `redaction.scan` could read, places within it.
Out: the request with new resources, scopes and records at these places.

One e-mail address among a thousand spans must not cost parsing a thousand spans.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from apm_analytics.foundation import varint
from apm_analytics.ingest.decode.protobuf import REQUESTS

# All three signals nest alike: field 1 of a request holds the resource (1) and scope groups (2);
# a group holds the scope (1) and records (2). Other messages are rewritten as one piece.
_ENTRY, _GROUP = (1,), (1, 2)
_CONTAINERS = ((), _ENTRY, _GROUP)
Rewrite = Callable[[type[Message], bytes], bytes]


def rewritten(signal: str, payload: bytes, places: Sequence[int], rewrite: Rewrite) -> bytes:
    """Return the request with every piece rewritten that contains one of the places.

    Parameters
    ----------
    places : offsets into the payload of bytes inside resources, scopes or records, in order.
    rewrite : returns the new bytes of one message, given its class and its bytes.
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
    """Return the pieces of a container, most of them unchanged."""
    pieces: list[bytes | memoryview] = []
    copied = at = start
    for number, place in enumerate(places):
        if place < at:
            continue  # in the previous piece
        if place >= end:
            break
        while at <= place:
            tag, size_at, body, at = _field(payload, at)
        inner = (*path, tag >> 3)
        if inner in _CONTAINERS:
            content = _rewritten(signal, payload, body, at, places[number:], inner, rewrite)
        else:
            content = [rewrite(_message_class(signal, inner), bytes(payload[body:at]))]
        pieces += (payload[copied:size_at], varint.encode(sum(map(len, content))), *content)
        copied = at
    pieces.append(payload[copied:end])
    return pieces


def _field(payload: memoryview, at: int) -> tuple[int, int, int, int]:
    """Return the tag of a field, where its size and its body begin, and where it ends."""
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
