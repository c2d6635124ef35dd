"""Find where a protobuf request is damaged, in words that its sender can act on.

In:  bytes that the protobuf library refused, and the message type they should have.
Out: the path of the first damaged field, and what is wrong with it.

The library only reports that something is wrong. Each level is read once and its messages are
passed to the library, so that only the damaged branch costs more than its parse.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from apm_analytics.foundation import varint

_VARINT, _FIXED64, _LENGTH, _GROUP, _GROUP_END, _FIXED32 = range(6)
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
# Deepest nesting that the protobuf library reads.
_MAX_DEPTH = 100
_MAX_LENGTH = 2**31 - 1
_LONGEST_SHORT = 5  # bytes of a tag or a length


class _Damage(Exception):
    """What is wrong with a field."""


def describe(message: type[Message], payload: bytes) -> str:
    """Describe the first damage of a message that the library refused to parse.

    Examples
    --------
    >>> from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
    >>> describe(ResourceSpans, bytes([0x1A, 9]) + b"http")
    'schemaUrl: announces 9 bytes, 4 are left'
    """
    path: list[str] = []
    for _ in range(_MAX_DEPTH):
        try:
            child = _damaged_child(message, payload, path)
        except _Damage as damage:
            return _described(path, str(damage))
        if child is None:
            break
        message, payload = child
    return _described(path, f"nested more than {_MAX_DEPTH} levels deep")


def _described(path: list[str], damage: str) -> str:
    return f"{'.'.join(path)}: {damage}" if path else damage


def _damaged_child(
    message: type[Message], payload: bytes, path: list[str]
) -> tuple[type[Message], bytes] | None:
    """Return the first damaged message below this one, and extend the path to it."""
    descriptor = message.DESCRIPTOR
    seen: Counter[int] = Counter()
    for number, content in _fields(payload, descriptor, path):
        field = descriptor.fields_by_number.get(number)
        if field is None:
            continue
        name = field.json_name
        if field.is_repeated:
            name += f"[{seen[number]}]"
            seen[number] += 1
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                content.decode()
            except UnicodeDecodeError as error:
                path.append(name)
                raise _Damage(f"no UTF-8 at byte {error.start} of the text") from error
        elif field.message_type is not None:
            below: type[Message] = GetMessageClass(cast(Any, field.message_type))
            try:
                below.FromString(content)
            except DecodeError:
                path.append(name)
                return below, content
    return None


def _fields(payload: bytes, descriptor: Any, path: list[str]) -> Iterator[tuple[int, bytes]]:
    """Iterate over the fields of one level that hold bytes: their number and content."""
    place, end = 0, len(payload)
    while place < end:
        start = place
        tag, place = _varint(payload, place, _LONGEST_SHORT, f"the field at byte {start}")
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise _Damage(f"field number {number} at byte {start}")
        field = descriptor.fields_by_number.get(number)
        name = field.json_name if field is not None else f"unknown field {number}"
        if wire_type == _VARINT:
            _, place = _varint(payload, place, varint.LONGEST, name)
        elif wire_type in _FIXED_BYTES:
            size = _FIXED_BYTES[wire_type]
            if end - place < size:
                raise _Damage(f"{name} needs {size} bytes, {end - place} are left")
            place += size
        elif wire_type == _LENGTH:
            size, place = _varint(payload, place, _LONGEST_SHORT, f"the length of {name}")
            if size > min(end - place, _MAX_LENGTH):
                path.append(name)
                raise _Damage(f"announces {size:,} bytes, {end - place:,} are left")
            yield number, payload[place : place + size]
            place += size
        elif wire_type == _GROUP:
            place = _group_end(payload, place, number)
        else:
            raise _Damage(f"{name} has the wire type {wire_type} at byte {start}")


def _group_end(payload: bytes, place: int, number: int) -> int:
    """Return the place behind a group, which OTLP never has but protobuf accepts."""
    open_groups = [number]
    while open_groups and len(open_groups) < _MAX_DEPTH:
        tag, place = _varint(payload, place, _LONGEST_SHORT, "a field of a group")
        inner, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            _, place = _varint(payload, place, varint.LONGEST, "a number of a group")
        elif wire_type in _FIXED_BYTES:
            place += _FIXED_BYTES[wire_type]
        elif wire_type == _LENGTH:
            size, place = _varint(payload, place, _LONGEST_SHORT, "a length in a group")
            place += size
        elif wire_type == _GROUP:
            open_groups.append(inner)
        elif wire_type == _GROUP_END and inner == open_groups[-1]:
            open_groups.pop()
        else:
            raise _Damage(f"the group {number} holds the wire type {wire_type} where none may be")
        if inner == 0 or place > len(payload):
            raise _Damage(f"the group {number} does not end")
    if open_groups:
        raise _Damage(f"groups nested more than {_MAX_DEPTH} levels deep")
    return place


def _varint(payload: bytes, place: int, longest: int, what: str) -> tuple[int, int]:
    try:
        value, behind = varint.decode(payload, place, longest)
    except IndexError:
        raise _Damage(f"cut short within {what}") from None
    except ValueError:
        raise _Damage(f"{what} holds a number of more than {longest} bytes") from None
    if longest == _LONGEST_SHORT and value >= 2**32:
        raise _Damage(f"{what} holds {value:,}, which does not fit 32 bits")
    return value, behind
