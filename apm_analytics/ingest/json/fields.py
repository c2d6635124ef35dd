"""Read the fields of OTLP JSON objects: texts, integers, enums, attributes.

In:  objects as orjson gives them, of either spelling of their field names.
Out: Python values, or `Reject` with the field and what was found in it.
"""

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from apm_analytics.ingest.decode import records
from apm_analytics.ingest.decode.columns import Value, as_text
from apm_analytics.ingest.decode.records import ENUM_NUMBERS, Reject
from apm_analytics.ingest.decode.sink import Sink

Json = dict[str, Any]
UNKNOWN = "otlp.unknown."


def names(listed: str) -> frozenset[str]:
    """Give field names from one text of them."""
    return frozenset(listed.split())


def any_value(value: Json) -> Value:
    """Give an OTLP AnyValue as the Python value it holds."""
    for kind, held in value.items():
        if held is None:
            continue
        if kind in ("stringValue", "string_value"):
            if not isinstance(held, str):
                raise Reject("attributes", f"stringValue holds a {type(held).__name__}")
            return held
        if kind in ("intValue", "int_value"):
            return int(held)
        if kind in ("doubleValue", "double_value"):
            return float(held)
        if kind in ("boolValue", "bool_value"):
            return bool(held)
        if kind in ("arrayValue", "array_value"):
            return [any_value(item) for item in held.get("values") or ()]
        if kind in ("kvlistValue", "kvlist_value"):
            return dict(pairs(held.get("values")))
        if kind in ("bytesValue", "bytes_value"):
            try:
                return base64.b64decode(held, validate=True)
            except binascii.Error as error:
                raise Reject("attributes", f"bytesValue is no base64: {error}") from error
        raise Reject("attributes", f"no OTLP value has the field {kind!r}")
    return None


def pairs(listed: Any) -> Iterator[tuple[str, Value]]:
    """Give a list of OTLP KeyValues as pairs."""
    for attribute in listed or ():
        yield attribute.get("key") or "", any_value(attribute.get("value") or {})


def attributes(record: Json, unknown: Json, sink: Sink) -> list[tuple[str, Value]]:
    """Give a record's attributes with its unknown fields, which are counted."""
    found: list[tuple[str, Value]] = []
    small = True
    for one in record.get("attributes") or ():
        value = one.get("value") or {}
        # Most values are texts and nothing else.
        held = value.get("stringValue")
        if type(held) is str and len(value) == 1:
            small = small and len(held) <= records.MAX_ATTRIBUTE_BYTES
        else:
            held = any_value(value)
            small = small and type(held) in records.SMALL
        found.append((one.get("key") or "", held))
    if not small:
        records.check_attributes(found)
    for name, value in unknown.items():
        found.append((UNKNOWN + name, as_text(value)))
        sink.warnings[f"unknown field {name} kept as attribute {UNKNOWN}{name}"] += 1
    return found


def normal(record: Json, known: frozenset[str]) -> tuple[Json, Json]:
    """Give the record with lowerCamelCase names, and apart the fields that nobody knows."""
    extra = record.keys() - known
    if not extra:
        return record, {}
    kept = {key: value for key, value in record.items() if key in known}
    unknown: Json = {}
    for key in sorted(extra):
        head, *rest = key.split("_")
        camel = head + "".join(part.capitalize() for part in rest)
        if camel in known and camel not in kept:
            kept[camel] = record[key]
        else:
            unknown[key] = record[key]
    return kept, unknown


def text(record: Json, name: str) -> str:
    """Give a text field, empty when it is missing."""
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Reject(name, f"found a {type(value).__name__}, need text")
    return value


def integer(record: Json, name: str, other: str = "") -> int:
    """Give an integer field, written as a number or as text; 0 when it is missing."""
    value = record.get(name)
    if value is None:
        value = record.get(other)
        if value is None:
            return 0
    if type(value) is int:
        return value
    if type(value) is str and value.isdigit():
        return int(value)
    if value == "":
        return 0
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise Reject(name, f"found {str(value)[:60]!r}, need an integer") from error
    if isinstance(value, float) and value != number:
        raise Reject(name, f"found {value}, need an integer")
    return number


def short_integer(record: Json, name: str, other: str = "") -> int:
    """Give an integer field that fits 64 bits with a sign, which a column holds."""
    number = integer(record, name, other)
    if not -records.INT64_END <= number < records.INT64_END:
        raise Reject(name, f"{str(number)[:60]} does not fit 64 bits")
    return number


def double(record: Json, name: str) -> float | None:
    """Give a number field, None when it is missing."""
    value = record.get(name)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise Reject(name, f"found {str(value)[:60]!r}, need a number") from error


def buckets(counts: Any) -> list[int]:
    """Give the sizes of a histogram's buckets."""
    return [records.count_of(int(count)) for count in counts or ()]


def enum(field: str, value: Any) -> int:
    """Give the number of an enum that came as a number or by its name."""
    if value is None:
        return 0
    if type(value) is int:
        return value
    if isinstance(value, str) and not value.lstrip("-").isdigit():
        try:
            return ENUM_NUMBERS[field][value]
        except KeyError:
            allowed = ", ".join(list(ENUM_NUMBERS[field])[:6]) + " ... or its number"
            raise Reject(field, f"found {value[:60]!r}, need one of {allowed}") from None
    return integer({field: value}, field)
