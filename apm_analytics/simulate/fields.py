"""Parts of OTLP messages that traces, metrics and logs share.

In:  plain Python values.
Out: fields of protobuf messages.
"""

from collections.abc import Mapping
from typing import Protocol

from opentelemetry.proto.common.v1.common_pb2 import KeyValue

SCHEMA_URL = "https://opentelemetry.io/schemas/1.43.0"
SCOPE_VERSION = "0.66b1"


class KeyValues(Protocol):
    """A repeated field of attributes."""

    def add(self) -> KeyValue:
        """Append an empty one."""


def add_attributes(target: KeyValues, attributes: Mapping[str, str | int | float]) -> None:
    """Append attributes with the types of their values."""
    for key, value in attributes.items():
        pair = target.add()
        pair.key = key
        if isinstance(value, str):
            pair.value.string_value = value
        elif isinstance(value, int):
            pair.value.int_value = value
        else:
            pair.value.double_value = value
