"""Split a JSON document that is too large to parse as a whole.

In:  a stream of one or more OTLP JSON documents of any size.
Out: small OTLP JSON documents with the same records, each with its resource and scope.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import ijson
import orjson
from ijson.common import ObjectBuilder

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.json.otlp import MAX_DEPTH, SIGNALS

BYTES_A_DOCUMENT = 4 * 1024 * 1024
_RECORD_BYTES = 64  # what an empty record counts
# A parsed object needs up to thirty times its size.
MAX_OBJECT_BYTES = 8 * 1024 * 1024
# The points of one metric are kept as JSON until its end.
MAX_POINTS_BYTES = 64 * 1024 * 1024
_POINTS = ("dataPoints", "data_points")
_LEVELS = {top: (middle, leaf) for top, middle, leaf in SIGNALS.values()}
_STARTS = ("start_map", "start_array")
_ENDS = ("end_map", "end_array")
Event = tuple[str, Any]


def split_large(stream: IO[bytes], path: Path) -> Iterator[bytes]:
    """Split the records of a huge document into many small documents, in constant memory.

    A resource or scope that comes after its records, which JSON allows but no exporter writes,
    would be missed by those that were split off already; such a document is refused.

    Raises
    ------
    BadInput
        The document is not OTLP as JSON, is nested too deep, has an object that is too large, or
        a resource or scope after its records.
    """
    count = 0
    try:
        for document in _documents(_Reader(stream)):
            yield document
            count += 1
    except BadInput as error:
        raise BadInput(f"{path}: {error}; the records before this place were taken") from error
    except (ijson.JSONError, ValueError) as error:  # ValueError: a number of over 4,300 digits
        raise BadInput(
            f"{path}: no JSON: {error}; the records before this place were taken, "
            "copy the file again and repeat the import"
        ) from error
    if not count:
        needed = ", ".join(_LEVELS)
        raise BadInput(f"{path}: a large document without records in {needed}; write smaller ones")


class _Source:
    """A stream that ends with an error when it is read too far within one object."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._read_bytes = 0
        self._object_at = 0

    def read(self, size: int = -1) -> bytes:
        if self._read_bytes - self._object_at > MAX_OBJECT_BYTES:
            raise BadInput(
                f"byte {self._object_at:,}: a record, resource, point or text of over "
                f"{MAX_OBJECT_BYTES >> 20} MiB; correct it where it is made"
            )
        piece = self._stream.read(size)
        self._read_bytes += len(piece)
        return piece

    def begin_object(self) -> None:
        self._object_at = self._read_bytes


class _Reader:
    """Reads JSON value by value. Each value is given by its first event and read to its end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._source = _Source(stream)
        self._events = self._bounded()

    def _bounded(self) -> Iterator[Event]:
        depth = 0
        events = ijson.basic_parse(self._source, multiple_values=True, use_float=True)
        for event, value in events:
            if event in _STARTS:
                depth += 1
                if depth > MAX_DEPTH:
                    raise BadInput(f"nested deeper than {MAX_DEPTH} levels; send values as text")
            elif event in _ENDS:
                depth -= 1
            yield event, value

    def documents(self) -> Iterator[Event]:
        """Iterate over the top-level values."""
        yield from self._events

    def fields(self, first: Event) -> Iterator[tuple[str, Event]]:
        """Iterate over the fields of an object; anything else is skipped."""
        if first[0] != "start_map":
            self.skip(first)
            return
        for event, name in self._events:
            if event == "end_map":
                return
            yield name, next(self._events)

    def items(self, first: Event) -> Iterator[Event]:
        """Iterate over the items of a list; anything else is skipped."""
        if first[0] != "start_array":
            self.skip(first)
            return
        for event in self._events:
            if event[0] == "end_array":
                return
            yield event

    def skip(self, first: Event) -> None:
        """Read a value to its end."""
        depth = 0
        event = first[0]
        while True:
            self._source.begin_object()
            depth += (event in _STARTS) - (event in _ENDS)
            if not depth:
                return
            event, _ = next(self._events)

    def value(self, first: Event) -> Any:
        """Return a value; its data points stay JSON."""
        self._source.begin_object()
        builder = ObjectBuilder()
        depth = points_depth = points_bytes = 0
        name = None
        event, value = first
        while True:
            if event == "start_map" and 0 < depth == points_depth:
                point = _dumped(self.value((event, value)))
                points_bytes += len(point)
                if points_bytes > MAX_POINTS_BYTES:
                    raise BadInput(
                        f"a metric with over {MAX_POINTS_BYTES >> 20} MiB of points; write several"
                    )
                builder.event("string", point)
            else:
                builder.event(event, value)
                depth += (event in _STARTS) - (event in _ENDS)
                if event == "start_array" and name in _POINTS:
                    points_depth = depth
                elif depth < points_depth:
                    points_depth = 0
            if not depth:
                self._source.begin_object()
                return builder.value
            name = value if event == "map_key" else None
            event, value = next(self._events)


class _Batch:
    """Records of one resource, by scope."""

    def __init__(self, top: str) -> None:
        self._top = top
        self._middle, self._leaf = _LEVELS[top]
        self._resource: Any = {}
        self._scope: Any = {}
        self._groups: list[bytes] = []
        self._records: list[bytes] = []
        self._split = self._scope_split = False
        self.size = 0

    def set_resource(self, resource: Any) -> None:
        _refuse_late("resource", self._split)
        self._resource = resource

    def set_scope(self, scope: Any) -> None:
        _refuse_late("scope", self._scope_split)
        self._scope = scope

    def add(self, record: bytes) -> bool:
        """Add a record; return whether it is time for a document."""
        self._records.append(record)
        self.size += len(record) + _RECORD_BYTES
        return self.size >= BYTES_A_DOCUMENT

    def end_scope(self) -> None:
        if self._records:
            self._end_group()
            self.size += len(_dumped(self._scope))
        self._scope, self._scope_split = {}, False

    def document(self) -> bytes:
        """Return the records as one document and forget them."""
        if self._records:
            self._end_group()
            self._scope_split = True
        groups = [orjson.Fragment(group) for group in self._groups]
        self._groups, self.size, self._split = [], 0, True
        return _dumped({self._top: [{"resource": self._resource, self._middle: groups}]})

    def _end_group(self) -> None:
        records = [orjson.Fragment(record) for record in self._records]
        self._groups.append(_dumped({"scope": self._scope, self._leaf: records}))
        self._records = []


def _documents(reader: _Reader) -> Iterator[bytes]:
    for document in reader.documents():
        for top, value in reader.fields(document):
            if top not in _LEVELS:
                reader.skip(value)
                continue
            for entry in reader.items(value):
                yield from _entry(reader, entry, _Batch(top), *_LEVELS[top])


def _entry(reader: _Reader, entry: Event, batch: _Batch, middle: str, leaf: str) -> Iterator[bytes]:
    """Yield the records of one resource as documents."""
    for name, value in reader.fields(entry):
        if name == "resource":
            batch.set_resource(reader.value(value))
        elif name == middle:
            for group in reader.items(value):
                yield from _group(reader, group, batch, leaf)
                batch.end_scope()
        else:
            reader.skip(value)
    if batch.size:
        yield batch.document()


def _group(reader: _Reader, group: Event, batch: _Batch, leaf: str) -> Iterator[bytes]:
    for name, value in reader.fields(group):
        if name == "scope":
            batch.set_scope(reader.value(value))
        elif name == leaf:
            for item in reader.items(value):
                for record in _records(reader.value(item)):
                    if batch.add(record):
                        yield batch.document()
        else:
            reader.skip(value)


def _refuse_late(name: str, split: bool) -> None:
    if split:
        raise BadInput(f"a {name} comes after its records; write the {name} first")


def _records(record: Any) -> Iterator[bytes]:
    """Yield a record as JSON; a metric with many points as several metrics."""
    for kind, data in record.items() if isinstance(record, dict) else ():
        for name in _POINTS:
            if isinstance(data, dict) and isinstance(data.get(name), list):
                for points in _chunks(data[name]):
                    yield _dumped({**record, kind: {**data, name: points}})
                return
    yield _dumped(record)


def _chunks(points: list[Any]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    size = 0
    for point in points:
        known = isinstance(point, bytes)
        chunk.append(orjson.Fragment(point) if known else point)
        size += len(point) if known else 0
        if size >= BYTES_A_DOCUMENT:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _dumped(value: Any) -> bytes:
    """Return JSON as bytes of their own; orjson's keep a buffer of some kB."""
    return bytes(memoryview(orjson.dumps(value)))
