"""Collect checked records and turn them into Arrow tables with the lake's columns.

In:  one tuple per record in the order of `TableBuilder.fields`, its attributes, its context
     (resource and scope, shared by many records).
Out: one Arrow table with the columns of `lake.schema`, texts other than ids encoded.
"""

import base64
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from apm_analytics.ingest.wire.arrays import (
    encoded_schema,
    repeated_maps,
    repeated_texts,
)
from apm_analytics.lake.schema import (
    ENCODED,
    ENCODED_TYPES,
    NUMBER_MAP,
    OLD_NAMES,
    OLD_RESOURCE_NAMES,
    PROMOTED,
    RESOURCE_COLUMNS,
    TABLES,
    TEXT,
    TEXT_MAP,
    column_name,
)

# Above it a double no longer holds every integer; larger integers are stored as text.
EXACT_INTEGER = 2**53
UNKNOWN_SERVICE = "unknown_service"

Value = str | bool | int | float | bytes | list[Any] | dict[str, Any] | None
Pairs = Iterable[tuple[str, Value]]
# Resource attributes that a sender's token adds to everything it sends; see `context`.
Stamp = tuple[tuple[str, str], ...]
_Sparse = tuple[list[int], list[Any], list[str]]


def _whole_number(value: Value) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return None


def _plain_text(value: Value) -> str | None:
    return value if isinstance(value, str) else None


# Attribute -> its column, the type that fits it, and whether this is the attribute's current name.
PLACES: dict[str, tuple[str, type, bool]] = {
    **{
        old: (column_name(new), str if PROMOTED[new] == TEXT else int, False)
        for old, new in OLD_NAMES.items()
    },
    **{
        key: (column_name(key), str if kind == TEXT else int, True)
        for key, kind in PROMOTED.items()
    },
}
# Its column holds the path only, so it always needs `_promote`.
TARGET = "http.target"
CONTEXT_COLUMNS = (
    "scope_name",
    "scope_version",
    "scope_attributes",
    "scope_schema_url",
    *RESOURCE_COLUMNS.values(),
    "resource_attributes",
    "resource_schema_url",
)
_MAPS = [place for place, name in enumerate(CONTEXT_COLUMNS) if name.endswith("_attributes")]
SERVICE = CONTEXT_COLUMNS.index("service_name")
_NOT_IN_ROWS = {*CONTEXT_COLUMNS, *map(column_name, PROMOTED), "attributes", "attributes_num"}


def as_text(value: Value) -> str:
    """Write any attribute value as text: JSON for what is nested, base64 for bytes."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, int | float):
        return str(value)
    return orjson.dumps(value, default=_nested_default).decode()


def _nested_default(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)  # an integer beyond 64 bits


def text_pairs(pairs: Pairs) -> list[tuple[str, str]]:
    """Return attributes as pairs of texts; see `unique_keys` for repeated keys."""
    listed = [(key, as_text(value)) for key, value in pairs]
    keys = [key for key, _ in listed]
    if len(set(keys)) < len(keys):
        unique_keys(keys, 0)
        return [(key, value) for key, (_, value) in zip(keys, listed, strict=True)]
    return listed


def shared_pairs(values: tuple[Any, ...]) -> int:
    """Return the number of attributes in a `context` that are not columns."""
    return sum(len(values[place] or ()) for place in _MAPS)


def unique_keys(keys: list[str], start: int) -> None:
    """Rename repeated keys from `start` on: the last stays, earlier ones become `.duplicate`.

    OTLP forbids repeated keys without defining their meaning; a map holds each key once.
    """
    seen: set[str] = set()
    repeated: dict[str, int] = {}
    for place in range(len(keys) - 1, start - 1, -1):
        key = name = keys[place]
        while name in seen:
            number = repeated[key] = repeated.get(key, 0) + 1
            name = f"{key}.duplicate" if number == 1 else f"{key}.duplicate.{number}"
        seen.add(name)
        keys[place] = name


def context(
    resource: Pairs,
    resource_schema_url: str,
    scope_name: str,
    scope_version: str,
    scope: Pairs,
    scope_schema_url: str,
    stamp: Stamp = (),
) -> tuple[Any, ...]:
    """Return the values that all records of one scope share, in the order of `CONTEXT_COLUMNS`.

    Every encoding ends here, so a stamp set here cannot be forged by the form of a request. A
    sender's own attribute with a stamped key is kept under another name.
    """
    columns: dict[str, str | None] = dict.fromkeys(RESOURCE_COLUMNS.values())
    rest: list[tuple[str, Value]] = []
    stamped = {_resource_name(key) for key, _ in stamp}
    own = ((f"{k}.duplicate" if _resource_name(k) in stamped else k, v) for k, v in resource)
    for key, value in (*stamp, *own) if stamp else resource:
        column = RESOURCE_COLUMNS.get(_resource_name(key))
        if column and columns[column] is None and isinstance(value, str):
            columns[column] = value
        else:
            rest.append((key, value))
    if not columns["service_name"]:
        columns["service_name"] = UNKNOWN_SERVICE
    return (
        scope_name or None,
        scope_version or None,
        text_pairs(scope) or None,
        scope_schema_url or None,
        *columns.values(),
        text_pairs(rest) or None,
        resource_schema_url or None,
    )


def _resource_name(key: str) -> str:
    return OLD_RESOURCE_NAMES.get(key, key)


class TableBuilder:
    """Rows of one lake table; `add` them, then `finish`.

    Missing attributes cost nothing: promoted attributes are kept as (row, value) pairs and fill
    their columns once, at the end.
    """

    def __init__(self, name: str) -> None:
        self.schema = encoded_schema(name)
        self.fields = [field for field in TABLES[name] if field.name not in _NOT_IN_ROWS]
        self._rows: list[tuple[Any, ...]] = []
        self._contexts: list[tuple[Any, ...]] = []
        self._context_of: list[int] = []
        # Column -> rows, values, and the names under which the values came.
        self._promoted: dict[str, _Sparse] = {column_name(key): ([], [], []) for key in PROMOTED}
        self._places = {
            key: (*self._promoted[column], fitting)
            for key, (column, fitting, _) in PLACES.items()
            if key != TARGET
        }
        self._text_keys: list[str] = []
        self._text_values: list[str] = []
        self._text_ends: list[int] = []
        self._num_keys: list[str] = []
        self._num_values: list[float] = []
        self._num_ends: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def roll_back(self, rows: int) -> None:
        """Remove the records that came after the first `rows`."""
        for keys, values, ends in (
            (self._text_keys, self._text_values, self._text_ends),
            (self._num_keys, self._num_values, self._num_ends),
        ):
            pairs = ends[rows - 1] if rows else 0
            del keys[pairs:], values[pairs:], ends[rows:]
        for places, values, names in self._promoted.values():
            first = bisect_left(places, rows)
            del places[first:], values[first:], names[first:]
        del self._rows[rows:], self._context_of[rows:]

    def open_context(self, values: tuple[Any, ...]) -> None:
        """Set the resource and scope of the records that are added next."""
        self._contexts.append(values)

    def add(self, row: tuple[Any, ...], attributes: Pairs) -> None:
        """Add one checked record."""
        number = len(self._rows)
        self._rows.append(row)
        self._context_of.append(len(self._contexts) - 1)
        places = self._places
        for key, value in attributes:
            place = places.get(key)
            if place is None:
                if key == TARGET:
                    self._promote(number, key, value)
                elif type(value) is str:
                    self._text_keys.append(key)
                    self._text_values.append(value)
                else:
                    self._into_maps(key, value)
                continue
            rows, values, names, fitting = place
            # The usual case: the type fits and no other name of the attribute came before.
            if type(value) is fitting and fitting is str and (not rows or rows[-1] != number):
                rows.append(number)
                values.append(value)
                names.append(key)
            else:
                self._promote(number, key, value)
        self._end_map(self._text_keys, self._text_ends)
        self._end_map(self._num_keys, self._num_ends)

    @staticmethod
    def _end_map(keys: list[str], ends: list[int]) -> None:
        start, end = ends[-1] if ends else 0, len(keys)
        if end - start > 1 and len(set(keys[start:])) < end - start:
            unique_keys(keys, start)
        ends.append(end)

    def _promote(self, number: int, key: str, value: Value) -> None:
        """Put a value into its column, or into the maps if it does not fit or comes second."""
        column, fitting, current = PLACES[key]
        rows, values, names = self._promoted[column]
        fitted = _plain_text(value) if fitting is str else _whole_number(value)
        if fitted is None:
            self._into_maps(key, value)
            return
        if key == TARGET and isinstance(fitted, str) and "?" in fitted:
            self._into_maps(key, value)
            fitted = fitted.partition("?")[0]
        if not rows or rows[-1] != number:
            rows.append(number)
            values.append(fitted)
            names.append(key)
        elif key == names[-1] or (current and not PLACES[names[-1]][2]):
            if key != names[-1] or values[-1] != fitted:
                self._into_maps(names[-1], values[-1])
            values[-1], names[-1] = fitted, key
        elif values[-1] != fitted:
            self._into_maps(key, value)

    def _into_maps(self, key: str, value: Value) -> None:
        kind = type(value)
        if kind is float or (kind is int and abs(value) <= EXACT_INTEGER):  # type: ignore[arg-type]
            self._num_keys.append(key)
            self._num_values.append(value)  # type: ignore[arg-type]
        elif value is not None:
            self._text_keys.append(key)
            self._text_values.append(as_text(value))

    def finish(self) -> pa.Table:
        """Return the table, its texts encoded; the builder is not used again."""
        count = len(self._rows)
        columns: dict[str, pa.Array] = {}
        transposed = zip(*self._rows, strict=True) if count else ([] for _ in self.fields)
        for field, values in zip(self.fields, transposed, strict=True):
            kind = self.schema.field(field.name).type
            shared = field.type == TEXT_MAP
            columns[field.name] = _shared_maps(values) if shared else pa.array(values, kind)
        where = np.array(self._context_of, np.int32)
        for name, values in zip(CONTEXT_COLUMNS, zip(*self._contexts, strict=True), strict=True):
            repeated = repeated_maps if name.endswith("_attributes") else repeated_texts
            columns[name] = repeated(values, where)
        for key, kind in PROMOTED.items():
            name = column_name(key)
            columns[name] = self._scatter(
                self._promoted[name], ENCODED if kind == TEXT else kind, count
            )
        columns["attributes"] = pa.MapArray.from_arrays(
            pa.array([0, *self._text_ends], pa.int32()),
            pa.array(self._text_keys, ENCODED),
            pa.array(self._text_values, ENCODED),
            type=ENCODED_TYPES[TEXT_MAP],
        )
        columns["attributes_num"] = pa.MapArray.from_arrays(
            pa.array([0, *self._num_ends], pa.int32()),
            pa.array(self._num_keys, ENCODED),
            pa.array(self._num_values, pa.float64()),
            type=ENCODED_TYPES[NUMBER_MAP],
        )
        return pa.table([columns[name] for name in self.schema.names], schema=self.schema)

    @staticmethod
    def _scatter(sparse: "_Sparse", kind: pa.DataType, count: int) -> pa.Array:
        rows, values, _ = sparse
        if not rows:
            return pa.nulls(count, kind)
        position = np.zeros(count, dtype=np.int32)
        position[rows] = np.arange(len(rows), dtype=np.int32)
        absent = np.ones(count, dtype=bool)
        absent[rows] = False
        return pa.array(values, kind).take(pa.array(position, mask=absent))


def _shared_maps(maps: Sequence[Any]) -> pa.Array:
    """Encode maps of which many rows hold the same object: the metadata of metrics."""
    few = {id(pairs): pairs for pairs in maps}
    numbers = {identity: number for number, identity in enumerate(few)}
    where = np.array([numbers[id(pairs)] for pairs in maps], np.int32)
    return repeated_maps(list(few.values()), where)
