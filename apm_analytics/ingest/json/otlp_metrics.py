"""Read the metrics of OTLP JSON documents.

In:  one metric with its data points, as orjson parses it.
Out: one row per point in a `Sink`; an invalid point is rejected alone.
"""

from typing import Any

from apm_analytics.ingest.decode import records
from apm_analytics.ingest.decode.columns import Value, text_pairs
from apm_analytics.ingest.decode.records import Limits, Reject
from apm_analytics.ingest.decode.sink import Sink
from apm_analytics.ingest.json import fields
from apm_analytics.ingest.json.fields import Json

METRIC_DATA = ("gauge", "sum", "histogram", "exponentialHistogram", "summary")
_METRIC = fields.names("name description unit metadata " + " ".join(METRIC_DATA))
_DATA = fields.names("dataPoints aggregationTemporality isMonotonic")
_POINT = fields.names(
    "attributes startTimeUnixNano timeUnixNano asDouble asInt exemplars flags count sum"
    " bucketCounts explicitBounds min max scale zeroCount zeroThreshold positive negative"
    " quantileValues"
)


def read_metric(metric: Json, path: str, sink: Sink, limits: Limits) -> None:
    """Read the points of one metric into the sink.

    Raises
    ------
    Reject
        The metric as a whole is invalid.
    """
    metric, unknown = fields.normal(metric, _METRIC)
    name = fields.text(metric, "name")
    if not name:
        raise Reject("name", "missing; a metric needs one")
    kinds = [kind for kind in METRIC_DATA if metric.get(kind) is not None]
    if not kinds:
        raise Reject("data", f"none of {', '.join(METRIC_DATA)} is there")
    kind = kinds[0]
    data, _ = fields.normal(metric[kind], _DATA)
    unit = fields.text(metric, "unit")
    sink.check_unit(name, unit)
    shared = {
        "name": name,
        "unit": unit,
        "description": fields.text(metric, "description"),
        "kind": "exponential_histogram" if kind == "exponentialHistogram" else kind,
        "temporality": fields.enum("aggregationTemporality", data.get("aggregationTemporality")),
        "metadata": text_pairs(fields.pairs(metric.get("metadata"))),
    }
    monotonic = bool(data.get("isMonotonic")) if kind == "sum" else None
    empty = {key: value for key, value in metric.items() if key != kind}
    for number, point in enumerate(data.get("dataPoints") or ()):
        try:
            table, row, attributes = _point(kind, point, unknown, shared, monotonic, sink, limits)
        except (Reject, AttributeError, TypeError, ValueError, OverflowError) as error:
            reason = error.reason if isinstance(error, Reject) else f"wrong type: {error}"
            field = f".{error.field}" if isinstance(error, Reject) else ""
            alone = {**empty, kind: {**data, "dataPoints": [point]}}
            where = f"{path}.{kind}.dataPoints[{number}]{field}"
            sink.reject_record("metrics", where, reason, alone)
        else:
            sink.add(table, row, attributes)


def _point(
    kind: str,
    point: Json,
    unknown: Json,
    shared: Json,
    monotonic: bool | None,
    sink: Sink,
    limits: Limits,
) -> tuple[str, tuple[Any, ...], list[tuple[str, Value]]]:
    point, more = fields.normal(point, _POINT)
    attributes = fields.attributes(point, {**unknown, **more} if unknown or more else more, sink)
    flags = fields.short_integer(point, "flags")
    head = records.point(
        limits,
        time_ns=fields.integer(point, "timeUnixNano"),
        start_ns=fields.integer(point, "startTimeUnixNano"),
        flags=flags,
        **shared,
    )
    exemplars = [_exemplar(exemplar) for exemplar in point.get("exemplars") or ()] or None
    if kind in ("gauge", "sum"):
        whole = point.get("asInt")
        value = records.number(
            fields.double(point, "asDouble"),
            None if whole is None else int(whole),
            flags,
            monotonic,
        )
        return "metric_points", (*head, *value, exemplars), attributes
    count, total = records.count_of(fields.integer(point, "count")), fields.double(point, "sum")
    if kind == "summary":
        quantiles = point.get("quantileValues") or ()
        pairs = (
            [float(q.get("quantile") or 0) for q in quantiles],
            [float(q.get("value") or 0) for q in quantiles],
        )
        return "summary_points", (*head, count, total or 0.0, *pairs), attributes
    low_high = (fields.double(point, "min"), fields.double(point, "max"))
    if kind == "histogram":
        bounds = [float(bound) for bound in point.get("explicitBounds") or ()]
        buckets = fields.buckets(point.get("bucketCounts"))
        if buckets and len(buckets) != len(bounds) + 1:
            sink.warnings["histogram kept although bucketCounts is not explicitBounds + 1"] += 1
        row = (*head, count, total, *low_high, bounds, buckets, exemplars)
        return "histogram_points", row, attributes
    positive, negative = point.get("positive") or {}, point.get("negative") or {}
    row = (
        *head,
        count,
        total,
        *low_high,
        fields.short_integer(point, "scale"),
        records.count_of(fields.integer(point, "zeroCount")),
        fields.double(point, "zeroThreshold") or 0.0,
        fields.short_integer(positive, "offset"),
        fields.buckets(positive.get("bucketCounts") or positive.get("bucket_counts")),
        fields.short_integer(negative, "offset"),
        fields.buckets(negative.get("bucketCounts") or negative.get("bucket_counts")),
        exemplars,
    )
    return "exp_histogram_points", row, attributes


def _exemplar(exemplar: Json) -> Json:
    whole = exemplar.get("asInt", exemplar.get("as_int"))
    value = fields.double(exemplar, "asDouble") or 0.0 if whole is None else float(int(whole))
    return {
        "time": records.moment(
            "exemplars.timeUnixNano", fields.integer(exemplar, "timeUnixNano", "time_unix_nano")
        ),
        "value": value,
        "trace_id": records.identifier("exemplars.traceId", exemplar.get("traceId"), 16),
        "span_id": records.identifier("exemplars.spanId", exemplar.get("spanId"), 8),
        "attributes": text_pairs(fields.pairs(exemplar.get("filteredAttributes"))),
    }
