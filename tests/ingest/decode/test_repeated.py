"""What many records share is stored once, from the request to the part, however long it is.

Tests wire.arrays, wire.assembly, decode.columns, lake.parquet and maintenance.merging together.
"""

from pathlib import Path
from typing import Any

import orjson
import pytest
from otlp_requests import START_NS, as_json, attribute

from apm_analytics.ingest.decode import otlp, requests
from apm_analytics.ingest.decode.protobuf import REQUESTS
from apm_analytics.lake import query, snapshots
from apm_analytics.lake.maintenance import compaction

RECORDS = 22_000  # times the text below: more than Arrow counts with 31 bits
LONG = "x" * 100_000
SIZE = 8 * 1024 * 1024  # bytes of the parts on the disk


@pytest.fixture(autouse=True, scope="module")
def _by_scanner() -> None:
    otlp.warm_up()


def in_resource(signal: str) -> Any:
    """Return a request of one resource or scope with a long text, and many small records."""
    request: Any = REQUESTS[signal]()
    time = {"time_unix_nano": START_NS}
    if signal == "logs":
        entry = request.resource_logs.add()
        records = entry.scope_logs.add().log_records
        for _ in range(RECORDS):
            records.add(**time)
    elif signal == "traces":
        entry = request.resource_spans.add()
        group = entry.scope_spans.add()
        group.scope.attributes.append(attribute("scope.text", LONG))
        for number in range(1, RECORDS + 1):
            group.spans.add(
                trace_id=number.to_bytes(16, "big"),
                span_id=number.to_bytes(8, "big"),
                start_time_unix_nano=START_NS,
                end_time_unix_nano=START_NS,
            )
    else:
        entry = request.resource_metrics.add()
        metrics = entry.scope_metrics.add().metrics
        metric = metrics.add(name="queue", description=LONG, unit=LONG)
        for _ in range(RECORDS):
            metric.gauge.data_points.add(as_int=1, **time)
        # Many other texts in a column must not make the long one be written per row.
        for number in range(RECORDS // 2):
            metrics.add(name=f"queue.{number}", description=f"number {number}").gauge.CopyFrom(
                type(metric.gauge)(data_points=[{"as_int": 1, **time}])
            )
    entry.resource.attributes.append(attribute("process.command_line", LONG))
    entry.resource.attributes.append(attribute("host.name", LONG))
    entry.schema_url = LONG
    return request


WAYS = ("scanner", "library", "json")


def decoded(signal: str, way: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Decode such a request in one of the ways that a request may take."""
    request = in_resource(signal)
    if way == "json":
        return dict(otlp.decode_json(orjson.dumps(as_json(request))).tables)
    if way == "library":
        monkeypatch.setattr(requests, "SCANNER_PAYS_PER_CALL_BYTES", 2**40)
    return dict(otlp.decode_requests(signal, [request.SerializeToString()]).tables)


def long_rows(lake: Path, table: str) -> int:
    """Return how many rows have the long texts."""
    text = f"'{LONG}'"
    found = query.connect(lake).execute(
        f"select count(*) from {table} where host_name = {text} and resource_schema_url = {text} "
        f"and resource_attributes['process.command_line'] = {text}"
    )
    return int(found.fetchall()[0][0])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("signal", ["logs", "traces", "metrics"])
def test_a_long_text_of_a_resource_is_stored_once(
    tmp_path: Path, signal: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = decoded(signal, way, monkeypatch)
    ((name, table),) = tables.items()
    assert table.nbytes < 2 * SIZE
    snapshots.append(tmp_path, tables)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.parquet")) < SIZE
    assert long_rows(tmp_path, name) == table.num_rows >= RECORDS


def test_a_merge_stores_it_once_although_the_column_has_many_texts(tmp_path: Path) -> None:
    varied = REQUESTS["logs"]()
    for number in range(RECORDS):
        entry = varied.resource_logs.add()
        entry.resource.attributes.append(attribute("host.name", f"host {number}"))
        entry.resource.attributes.append(attribute("process.command_line", f"run {number}"))
        entry.scope_logs.add().log_records.add(time_unix_nano=START_NS)
    for request in (in_resource("logs"), varied):
        payload = request.SerializeToString()
        snapshots.append(tmp_path, otlp.decode_requests("logs", [payload]).tables)
    done = compaction.compact(tmp_path)
    assert not done.failed and done.merged == 2 and done.bytes_after < SIZE
    assert long_rows(tmp_path, "logs") == RECORDS
