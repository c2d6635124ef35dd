"""Read the fields of OTLP JSON objects: texts, integers, enums, attributes.

In:  objects as orjson parses them, with field names in either spelling.
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
    """Return a set of field names from one text."""
    return frozenset(listed.split())


def any_value(value: Json) -> Value:
    """Return the Python value of an OTLP AnyValue."""
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
    """Yield a list of OTLP KeyValues as pairs."""
    for attribute in listed or ():
        yield attribute.get("key") or "", any_value(attribute.get("value") or {})


def attributes(record: Json, unknown: Json, sink: Sink) -> list[tuple[str, Value]]:
    """Return a record's attributes and its unknown fields, which are counted as warnings."""
    listed: list[tuple[str, Value]] = []
    small = True
    for attribute in record.get("attributes") or ():
        value = attribute.get("value") or {}
        # Most values are texts.
        content = value.get("stringValue")
        if type(content) is str and len(value) == 1:
            small = small and len(content) <= records.MAX_ATTRIBUTE_BYTES
        else:
            content = any_value(value)
            small = small and type(content) in records.SMALL
        listed.append((attribute.get("key") or "", content))
    if not small:
        records.check_attributes(listed)
    for name, value in unknown.items():
        listed.append((UNKNOWN + name, as_text(value)))
        sink.warnings[f"unknown field {name} kept as attribute {UNKNOWN}{name}"] += 1
    return listed


def normal(record: Json, known: frozenset[str]) -> tuple[Json, Json]:
    """Return the record with lowerCamelCase names, and its unknown fields."""
    extra = record.keys() - known
    if not extra:
        return record, {}
    normalised = {key: value for key, value in record.items() if key in known}
    unknown: Json = {}
    for key in sorted(extra):
        head, *rest = key.split("_")
        camel = head + "".join(part.capitalize() for part in rest)
        if camel in known and camel not in normalised:
            normalised[camel] = record[key]
        else:
            unknown[key] = record[key]
    return normalised, unknown


def text(record: Json, name: str) -> str:
    """Return a text field, empty when it is missing."""
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Reject(name, f"found a {type(value).__name__}, need text")
    return value


def integer(record: Json, name: str, other: str = "") -> int:
    """Return an integer field, written as a number or as text; 0 when it is missing."""
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
    """Return an integer field that fits a signed 64-bit column."""
    number = integer(record, name, other)
    if not -records.INT64_END <= number < records.INT64_END:
        raise Reject(name, f"{str(number)[:60]} does not fit 64 bits")
    return number


def double(record: Json, name: str) -> float | None:
    """Return a number field, None when it is missing."""
    value = record.get(name)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise Reject(name, f"found {str(value)[:60]!r}, need a number") from error


def buckets(counts: Any) -> list[int]:
    """Return the sizes of a histogram's buckets."""
    return [records.count_of(int(count)) for count in counts or ()]


def enum(field: str, value: Any) -> int:
    """Return the number of an enum value, written as a number or by its name."""
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
