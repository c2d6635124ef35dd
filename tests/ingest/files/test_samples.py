"""Documents of other projects are imported, and agree with the Parquet of another converter.

Covers the import end to end, from `importer` to the lake.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from apm_analytics.ingest.files.importer import import_files
from apm_analytics.lake import query
from apm_analytics.lake.schema import OLD_NAMES, PROMOTED, RESOURCE_COLUMNS, column_name

Row = dict[str, Any]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Documents that are damaged on purpose, with the number of their valid records.
DAMAGED = {"malformed.jsonl": 1, "multifile_malformed_traces.jsonl": 0, "malformed.json": 0}
REJECTED = {
    "log_invalid_severity.json",
    "metrics_invalid_temporality.json",
    "trace_invalid_base64.json",
    "trace_invalid_kind.json",
    "trace_mixed_encoding.json",
    "ts_boundary_logs.jsonl",
    "ts_overflow_logs.jsonl",
}


def test_all_sample_documents_are_imported(real_data: Path, tmp_path: Path) -> None:
    files = [
        file
        for file in sorted((real_data / "otlp-samples").rglob("*"))
        if file.suffix in (".json", ".jsonl", ".pb") and file.read_bytes().strip()
    ]
    assert len(files) > 70
    for number, file in enumerate(files):
        # One lake per file, because some documents are repeated between files.
        lake = tmp_path / str(number)
        (entry,) = import_files([file], lake, earliest=EPOCH, progress=False).files
        if file.name in DAMAGED:
            assert entry.errors and sum(entry.rows.values()) == DAMAGED[file.name], file
        elif file.name in REJECTED:
            assert not entry.errors and sum(entry.rejected.values()) == 1, file
        else:
            assert not entry.errors and not entry.rejected and entry.rows, (file, entry)


CONVERTED = {
    "traces": "spans",
    "logs": "logs",
    "metrics_gauge": "metric_points",
    "metrics_sum": "metric_points",
    "metrics_histogram": "histogram_points",
    "metrics_exponential_histogram": "exp_histogram_points",
    "metrics_summary": "summary_points",
}
SAME: dict[str, Callable[[Row], Any]] = {
    "ServiceName": lambda row: row["service_name"],
    "ScopeName": lambda row: row["scope_name"],
    "ScopeVersion": lambda row: row["scope_version"],
    "MetricName": lambda row: row["name"],
    "MetricUnit": lambda row: row["unit"],
    "MetricDescription": lambda row: row["description"],
    "Value": lambda row: row["value"],
    "AggregationTemporality": lambda row: {"delta": 1, "cumulative": 2}[row["temporality"]],
    "IsMonotonic": lambda row: row["monotonic"],
    "Count": lambda row: row["count"],
    "Sum": lambda row: row["sum"],
    "Min": lambda row: row["min"],
    "Max": lambda row: row["max"],
    "BucketCounts": lambda row: row["bucket_counts"],
    "ExplicitBounds": lambda row: row["explicit_bounds"],
    "Scale": lambda row: row["scale"],
    "ZeroCount": lambda row: row["zero_count"],
    "PositiveOffset": lambda row: row["positive_offset"],
    "PositiveBucketCounts": lambda row: row["positive_bucket_counts"],
    "NegativeOffset": lambda row: row["negative_offset"],
    "NegativeBucketCounts": lambda row: row["negative_bucket_counts"],
    "QuantileValues": lambda row: row["quantile_values"],
    "QuantileQuantiles": lambda row: row["quantiles"],
    "SpanName": lambda row: row["name"],
    "ParentSpanId": lambda row: row["parent_span_id"],
    "TraceState": lambda row: row["trace_state"],
    "SpanKind": lambda row: f"SPAN_KIND_{row['kind'].upper()}",
    "StatusCode": lambda row: f"STATUS_CODE_{row['status_code'].upper()}",
    "StatusMessage": lambda row: row["status_message"],
    "EventsName": lambda row: [event["name"] for event in row["events"] or []],
    "LinksTraceId": lambda row: [link["trace_id"] for link in row["links"] or []],
    "SeverityText": lambda row: row["severity_text"],
    "SeverityNumber": lambda row: row["severity_number"],
    "TraceFlags": lambda row: row["flags"],
}


def as_texts(row: Row) -> dict[str, str]:
    """Return all attributes of one of our rows as text, under their current names."""
    texts = {key: str(value) for key, value in row["attributes"] or []}
    texts |= {key: f"{value:g}" for key, value in row["attributes_num"] or []}
    texts |= {
        key: str(row[column_name(key)]) for key in PROMOTED if row[column_name(key)] is not None
    }
    return texts


def their_texts(attributes: str) -> dict[str, str]:
    """Return their attributes the same way."""
    texts = {}
    for key, value in json.loads(attributes).items():
        if isinstance(value, bool):
            text = "true" if value else "false"
        elif isinstance(value, int | float) and OLD_NAMES.get(key, key) not in PROMOTED:
            text = f"{value:g}"
        elif isinstance(value, list | dict):
            text = json.dumps(value, separators=(",", ":"))
        else:
            text = str(value)
        texts[OLD_NAMES.get(key, key)] = text
    return texts


@pytest.mark.parametrize("name", CONVERTED)
def test_rows_and_fields_agree_with_another_converter(
    real_data: Path, tmp_path: Path, name: str
) -> None:
    folder = real_data / "otlp-samples/otlp2parquet/testdata"
    theirs = pl.read_parquet(folder / "parquet" / f"{name}.parquet").to_dicts()
    for suffix in (".jsonl", ".pb"):
        lake = tmp_path / suffix
        import_files([folder / f"{name}{suffix}"], lake, progress=False)
        con = query.connect(lake)
        ours = query.frame(con, f"select * from {CONVERTED[name]}").to_arrow().to_pylist()
        assert len(ours) == len(theirs)
        ours.sort(key=lambda row: sort_key(str(row["time"]), row.get("span_id"), as_texts(row)))
        theirs.sort(
            key=lambda row: sort_key(
                str(row["Timestamp"].replace(tzinfo=None)),
                hex_id(row.get("SpanId")),
                their_texts(attributes_of(row)),
            )
        )
        compared = 0
        for our, their in zip(ours, theirs, strict=True):
            assert as_texts(our) == their_texts(attributes_of(their))
            resource = {k: v for k, v in our["resource_attributes"] or []}
            for key, value in json.loads(their["ResourceAttributes"]).items():
                stored = resource.get(key) or our.get(RESOURCE_COLUMNS.get(key, "")) or ""
                stored = stored or our["deployment_environment_name"]
                assert stored == (value if isinstance(value, str) else json.dumps(value))
            for field, read in SAME.items():
                if field in their:
                    assert (read(our) or None) == (their[field] or None), field
                    compared += 1
            if "Duration" in their:
                assert our["duration_ns"] == their["Duration"]
        assert compared >= 5 * len(ours)


def attributes_of(row: Row) -> str:
    return str(
        row.get("SpanAttributes") or row.get("LogAttributes") or row.get("Attributes") or "{}"
    )


def hex_id(value: bytes | str | None) -> str | None:
    return value.hex() if isinstance(value, bytes) else value


def sort_key(time: str, span_id: str | None, attributes: dict[str, str]) -> tuple[str, str, str]:
    return (time[:23], span_id or "", json.dumps(attributes, sort_keys=True))
