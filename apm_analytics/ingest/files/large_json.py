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
from apm_analytics.ingest.json.otlp import SIGNALS

# orjson needs about ten times a document's size.
BYTES_A_DOCUMENT = 4 * 1024 * 1024
_POINTS = (".dataPoints.item", ".data_points.item")


def split_large(stream: IO[bytes], path: Path) -> Iterator[bytes]:
    """Split the records of a huge document into many small documents, in constant memory.

    A resource that comes after its records, which JSON allows but no exporter writes, would be
    missed; such a document is refused.

    Raises
    ------
    BadInput
        The document is not JSON, or has a resource after its records.
    """
    record_names = {
        f"{top}.item.{middle}.item.{leaf}.item": (top, middle, leaf)
        for top, middle, leaf in SIGNALS.values()
    }
    resources = {f"{top}.item.resource": top for top, _, _ in SIGNALS.values()}
    scopes = {f"{top}.item.{middle}.item.scope" for top, middle, _ in SIGNALS.values()}
    starts = {f"{top}.item" for top, _, _ in SIGNALS.values()}
    resource: Any = {}
    scope: Any = {}
    batch: list[bytes] = []
    size = 0
    names = ("", "", "")
    try:
        events = ijson.parse(stream, multiple_values=True, use_float=True)
        for prefix, event, value in events:
            if event == "start_map" and prefix in resources:
                if batch:
                    raise BadInput(
                        f"{path}: a resource comes after its records in a document of over "
                        "32 MiB; write the resource first, or smaller documents"
                    )
                resource = _object(events, prefix, event, value)
            elif event == "start_map" and prefix in scopes:
                scope = _object(events, prefix, event, value)
            elif event == "start_map" and prefix in record_names:
                names = record_names[prefix]
                for record in _records(_object(events, prefix, event, value)):
                    batch.append(record)
                    size += len(record)
                    if size >= BYTES_A_DOCUMENT:
                        yield _document(names, resource, scope, batch)
                        batch, size = [], 0
            elif event == "end_map" and batch and prefix.count(".item") < 3:
                # The end of a scope or resource.
                yield _document(names, resource, scope, batch)
                batch, size = [], 0
                scope = {}
            if event == "end_map" and prefix in starts:
                resource = {}
    except ijson.JSONError as error:
        raise BadInput(
            f"{path}: no JSON: {error}; the records before this place were taken, "
            "copy the file again and repeat the import"
        ) from error


def _object(events: Iterator[Any], prefix: str, event: str, value: Any) -> Any:
    """Return the object that begins at this event; its data points stay JSON."""
    builder = ObjectBuilder()
    builder.event(event, value)
    for inner_prefix, inner, held in events:
        if inner == "start_map" and inner_prefix.endswith(_POINTS):
            point = orjson.dumps(_object(events, inner_prefix, inner, held))
            builder.event("string", point)
            continue
        builder.event(inner, held)
        if inner == "end_map" and inner_prefix == prefix:
            break
    return builder.value


def _records(record: Any) -> Iterator[bytes]:
    """Yield a record as JSON; a metric with many points as several metrics."""
    for kind, data in record.items():
        for name in ("dataPoints", "data_points"):
            if isinstance(data, dict) and isinstance(data.get(name), list):
                for points in _chunks(data[name]):
                    yield orjson.dumps({**record, kind: {**data, name: points}})
                return
    yield orjson.dumps(record)


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


def _document(names: tuple[str, str, str], resource: Any, scope: Any, batch: list[bytes]) -> bytes:
    top, middle, leaf = names
    records = [orjson.Fragment(record) for record in batch]
    return orjson.dumps({top: [{"resource": resource, middle: [{"scope": scope, leaf: records}]}]})
