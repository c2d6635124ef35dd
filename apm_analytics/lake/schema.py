"""Every table and column of the lake.

In:  nothing.
Out: one Arrow schema per table, the promoted attributes, and the old names folded into them.

Times are UTC nanoseconds without a zone in the type (docs/decisions/0002). Names are snake_case
OpenTelemetry semantic conventions; ids are lower-case hex.
"""

import pyarrow as pa

TEXT = pa.string()
TIME = pa.timestamp("ns")
TEXT_MAP = pa.map_(TEXT, TEXT)
NUMBER_MAP = pa.map_(TEXT, pa.float64())
# The same with each distinct text stored once, for tables in memory.
ENCODED = pa.dictionary(pa.int32(), TEXT)
ENCODED_TYPES = {
    TEXT: ENCODED,
    TEXT_MAP: pa.map_(ENCODED, ENCODED),
    NUMBER_MAP: pa.map_(ENCODED, pa.float64()),
}

# Resource attributes that are columns in every table.
RESOURCE_COLUMNS: dict[str, str] = {
    "service.name": "service_name",
    "service.namespace": "service_namespace",
    "service.version": "service_version",
    "service.instance.id": "service_instance_id",
    "deployment.environment.name": "deployment_environment_name",
    "host.name": "host_name",
    "k8s.cluster.name": "k8s_cluster_name",
    "k8s.namespace.name": "k8s_namespace_name",
    "k8s.deployment.name": "k8s_deployment_name",
    "k8s.pod.name": "k8s_pod_name",
    "k8s.container.name": "k8s_container_name",
    "k8s.node.name": "k8s_node_name",
}

# Record attributes that are columns: in DuckDB, a look-up in a MAP costs ten times as much.
PROMOTED: dict[str, pa.DataType] = {
    "http.request.method": TEXT,
    "http.route": TEXT,
    "http.response.status_code": pa.int64(),
    "url.path": TEXT,
    "url.scheme": TEXT,
    "server.address": TEXT,
    "server.port": pa.int64(),
    "client.address": TEXT,
    "user_agent.original": TEXT,
    "error.type": TEXT,
    "db.system.name": TEXT,
    "db.namespace": TEXT,
    "db.operation.name": TEXT,
    "db.collection.name": TEXT,
    "db.query.text": TEXT,
    "db.query.summary": TEXT,
    "rpc.system": TEXT,
    "rpc.service": TEXT,
    "rpc.method": TEXT,
    "messaging.system": TEXT,
    "messaging.destination.name": TEXT,
    "peer.service": TEXT,
    "user.id": TEXT,
    "organization.id": TEXT,
    "session.id": TEXT,
    "business.transaction": TEXT,
    "business.operation": TEXT,
    "thread.name": TEXT,
    "code.function.name": TEXT,
}

# Names of older semantic conventions -> the attribute that they are stored as.
OLD_NAMES: dict[str, str] = {
    "http.method": "http.request.method",
    "http.status_code": "http.response.status_code",
    "http.target": "url.path",
    "http.scheme": "url.scheme",
    "http.host": "server.address",
    "net.host.name": "server.address",
    "net.peer.name": "server.address",
    "net.host.port": "server.port",
    "net.peer.port": "server.port",
    "http.client_ip": "client.address",
    "http.user_agent": "user_agent.original",
    "db.system": "db.system.name",
    "db.name": "db.namespace",
    "db.operation": "db.operation.name",
    "db.sql.table": "db.collection.name",
    "db.statement": "db.query.text",
    "messaging.destination": "messaging.destination.name",
    "enduser.id": "user.id",
    "code.function": "code.function.name",
}
OLD_RESOURCE_NAMES: dict[str, str] = {"deployment.environment": "deployment.environment.name"}


def column_name(attribute: str) -> str:
    """Return the column of an OpenTelemetry attribute: `http.route` -> `http_route`."""
    return attribute.replace(".", "_")


_SHARED = [
    pa.field("scope_name", TEXT),
    pa.field("scope_version", TEXT),
    pa.field("scope_attributes", TEXT_MAP),
    pa.field("scope_schema_url", TEXT),
    *(pa.field(column, TEXT) for column in RESOURCE_COLUMNS.values()),
    pa.field("resource_attributes", TEXT_MAP),
    pa.field("resource_schema_url", TEXT),
    *(pa.field(column_name(key), kind) for key, kind in PROMOTED.items()),
    pa.field("attributes", TEXT_MAP),
    pa.field("attributes_num", NUMBER_MAP),
]

EVENT = pa.struct(
    [
        pa.field("time", TIME),
        pa.field("name", TEXT),
        pa.field("attributes", TEXT_MAP),
        pa.field("dropped_attributes_count", pa.int64()),
    ]
)
LINK = pa.struct(
    [
        pa.field("trace_id", TEXT),
        pa.field("span_id", TEXT),
        pa.field("trace_state", TEXT),
        pa.field("attributes", TEXT_MAP),
        pa.field("flags", pa.int64()),
        pa.field("dropped_attributes_count", pa.int64()),
    ]
)
EXEMPLAR = pa.struct(
    [
        pa.field("time", TIME),
        pa.field("value", pa.float64()),
        pa.field("trace_id", TEXT),
        pa.field("span_id", TEXT),
        pa.field("attributes", TEXT_MAP),
    ]
)

_POINT = [
    pa.field("time", TIME, nullable=False),
    pa.field("start_time", TIME),
    pa.field("name", TEXT, nullable=False),
    pa.field("unit", TEXT),
    pa.field("description", TEXT),
    pa.field("kind", TEXT),  # gauge, sum, histogram, exponential_histogram, summary
    pa.field("temporality", TEXT),  # delta, cumulative or null
    pa.field("flags", pa.int64()),
    pa.field("metric_metadata", TEXT_MAP),
]
_EXEMPLARS = pa.field("exemplars", pa.list_(EXEMPLAR))
_COUNT_SUM = [pa.field("count", pa.int64()), pa.field("sum", pa.float64())]
_MIN_MAX = [pa.field("min", pa.float64()), pa.field("max", pa.float64())]

TABLES: dict[str, pa.Schema] = {
    "spans": pa.schema(
        [
            pa.field("time", TIME, nullable=False),
            pa.field("duration_ns", pa.int64(), nullable=False),
            pa.field("trace_id", TEXT, nullable=False),
            pa.field("span_id", TEXT, nullable=False),
            pa.field("parent_span_id", TEXT),  # null for a root
            pa.field("name", TEXT, nullable=False),
            pa.field("kind", TEXT),  # unspecified, internal, server, client, producer, consumer
            pa.field("status_code", TEXT),  # unset, ok, error
            pa.field("status_message", TEXT),
            pa.field("trace_state", TEXT),
            pa.field("flags", pa.int64()),
            pa.field("dropped_attributes_count", pa.int64()),
            pa.field("dropped_events_count", pa.int64()),
            pa.field("dropped_links_count", pa.int64()),
            *_SHARED,
            pa.field("events", pa.list_(EVENT)),
            pa.field("links", pa.list_(LINK)),
        ]
    ),
    "metric_points": pa.schema(
        [
            *_POINT,
            pa.field("value", pa.float64()),
            pa.field("value_int", pa.int64()),  # exact where the point was an integer
            pa.field("monotonic", pa.bool_()),
            *_SHARED,
            _EXEMPLARS,
        ]
    ),
    "histogram_points": pa.schema(
        [
            *_POINT,
            *_COUNT_SUM,
            *_MIN_MAX,
            pa.field("explicit_bounds", pa.list_(pa.float64())),
            pa.field("bucket_counts", pa.list_(pa.int64())),
            *_SHARED,
            _EXEMPLARS,
        ]
    ),
    "exp_histogram_points": pa.schema(
        [
            *_POINT,
            *_COUNT_SUM,
            *_MIN_MAX,
            pa.field("scale", pa.int64()),
            pa.field("zero_count", pa.int64()),
            pa.field("zero_threshold", pa.float64()),
            pa.field("positive_offset", pa.int64()),
            pa.field("positive_bucket_counts", pa.list_(pa.int64())),
            pa.field("negative_offset", pa.int64()),
            pa.field("negative_bucket_counts", pa.list_(pa.int64())),
            *_SHARED,
            _EXEMPLARS,
        ]
    ),
    "summary_points": pa.schema(
        [
            *_POINT,
            *_COUNT_SUM,
            pa.field("quantiles", pa.list_(pa.float64())),
            pa.field("quantile_values", pa.list_(pa.float64())),
            *_SHARED,
        ]
    ),
    "logs": pa.schema(
        [
            pa.field("time", TIME, nullable=False),
            pa.field("observed_time", TIME),
            pa.field("severity_number", pa.int64()),
            pa.field("severity_text", TEXT),
            pa.field("body", TEXT),
            pa.field("event_name", TEXT),
            pa.field("trace_id", TEXT),
            pa.field("span_id", TEXT),
            pa.field("flags", pa.int64()),
            pa.field("dropped_attributes_count", pa.int64()),
            *_SHARED,
        ]
    ),
}

METRIC_TABLES = ("metric_points", "histogram_points", "exp_histogram_points", "summary_points")

# Columns that `lake.query` adds to a table: the number of spans that each sampled span represents.
SAMPLE_WEIGHT = "sample_weight"
COMPUTED: dict[str, tuple[str, ...]] = {"spans": (SAMPLE_WEIGHT,)}
