"""The shop's metrics, business figures and logs, made from the requests that were drawn.

In:  durations, failures and orders of one day.
Out: Export*ServiceRequests for metrics and logs, and how many points and records they hold.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from apm_analytics.simulate import catalog
from apm_analytics.simulate.catalog import SERVICES, Step
from apm_analytics.simulate.timeline import DAY_S, Timeline

Array = np.ndarray[Any, np.dtype[Any]]
# service -> (start times, durations in s, failed) of its operations
Durations = dict[str, list[tuple[Array, Array, Array]]]
GRID_S = 300
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
MEMORY_LIMIT = 512 * 2**20
EXPONENTIAL_SCALE = 1
RELATIONS = [
    {
        "kpi": "shop.orders",
        "unit": "{order}",
        "follows": "successful POST /checkout of storefront",
        "lag_s": 0,
        "direction": "same",
    },
    {
        "kpi": "shop.revenue",
        "unit": "EUR",
        "follows": "shop.orders",
        "lag_s": 0,
        "direction": "same",
    },
    {
        "kpi": "shop.cart.abandonment",
        "unit": "1",
        "follows": "mean duration of checkout",
        "lag_s": 600,
        "direction": "same",
    },
    {
        "kpi": "shop.signups",
        "unit": "{user}",
        "follows": "demand alone",
        "lag_s": 0,
        "direction": "same",
    },
]
ABANDONMENT_LAG = 2  # grid steps


@dataclass(frozen=True)
class Failure:
    """One failed operation."""

    step: Step
    time_s: float
    trace_id: bytes
    span_id: bytes


@dataclass(frozen=True)
class Order:
    """One order placed."""

    time_s: float
    trace_id: bytes
    span_id: bytes


@dataclass
class State:
    """What runs on from day to day: counters, and the last means of checkout."""

    totals: Counter[str] = field(default_factory=Counter)
    since_ns: dict[str, int] = field(default_factory=dict)
    checkout_s: list[float] = field(default_factory=lambda: [0.3] * ABANDONMENT_LAG)


@dataclass
class Written:
    """Encoded requests and what is in them."""

    requests: list[bytes]
    counts: Counter[str]


def metrics(
    timeline: Timeline,
    durations: Durations,
    orders: list[Order],
    random: np.random.Generator,
    first_s: float,
    state: State,
) -> Written:
    """Make one day of metric points, one every five minutes."""
    grid = np.arange(first_s, min(first_s + DAY_S, timeline.end_s), GRID_S)
    written = Written([], Counter())
    sums: dict[str, Array] = {}
    for service in SERVICES:
        cpu = timeline.cpu(service, grid)
        request, scope = _request(service)
        for instance in range(catalog.INSTANCES):
            own = (KeyValue(key="instance", value=AnyValue(string_value=f"{service}-{instance}")),)
            _gauge(
                scope, "system.cpu.utilization", "1", grid,
                np.clip(cpu + random.normal(0, 0.02, len(grid)), 0, 1), own,
            )  # fmt: skip
            # Grows through the day and is given back at night, well below the limit.
            used = MEMORY_LIMIT * (0.35 + 0.2 * cpu + 0.02 * random.random(len(grid)))
            _gauge(scope, "process.memory.usage", "By", grid, np.round(used), own)
        written.counts["metric_points"] += 2 * catalog.INSTANCES * len(grid)
        starts, seconds, failed = _joined(durations.get(service, []))
        window = ((starts - first_s) // GRID_S).astype(int)
        sums[service] = np.bincount(window, seconds, len(grid)) / np.maximum(
            np.bincount(window, minlength=len(grid)), 1
        )
        _counter(scope, service, grid, np.bincount(window, minlength=len(grid)), state)
        written.counts["metric_points"] += len(grid)
        _histogram(scope, grid, window, seconds)
        written.counts["histogram_points"] += len(grid)
        if service == "storefront":
            _exponential(scope, grid, window, seconds)
            _summary(scope, grid, window, seconds)
            written.counts["exp_histogram_points"] += len(grid)
            written.counts["summary_points"] += len(grid)
            errors = np.bincount(window, failed, len(grid))
            _delta(scope, "http.server.errors", "{request}", grid, errors)
            written.counts["metric_points"] += len(grid)
        written.requests.append(request.SerializeToString())
    written.requests.append(_business(timeline, orders, random, grid, sums, state))
    written.counts["metric_points"] += 4 * len(grid)
    return written


def _business(
    timeline: Timeline,
    orders_placed: list[Order],
    random: np.random.Generator,
    grid: Array,
    sums: dict[str, Array],
    state: State,
) -> bytes:
    request, scope = _request("storefront", scope="business")
    placed = np.array([order.time_s for order in orders_placed])
    orders = np.bincount(((placed - grid[0]) // GRID_S).astype(int), minlength=len(grid))
    _delta(scope, "shop.orders", "{order}", grid, orders)
    basket = np.array([random.lognormal(np.log(58), 0.5, int(n)).sum() for n in orders])
    _delta(scope, "shop.revenue", "EUR", grid, np.round(basket, 2))
    lagged = np.array([*state.checkout_s, *sums["checkout"]])
    state.checkout_s = list(lagged[-ABANDONMENT_LAG:])
    waited = lagged[:-ABANDONMENT_LAG]
    abandoned = 0.62 + 0.25 * np.clip(waited - 0.15, 0, 1) + random.normal(0, 0.01, len(grid))
    _gauge(scope, "shop.cart.abandonment", "1", grid, np.clip(abandoned, 0, 1), ())
    _delta(scope, "shop.signups", "{user}", grid, random.poisson(3 * timeline.demand(grid)))
    encoded: bytes = request.SerializeToString()
    return encoded


def logs(
    timeline: Timeline,
    failures: list[Failure],
    orders: list[Order],
    random: np.random.Generator,
) -> Written:
    """Make one day of log records: one a failure, and an event for every third order."""
    request = ExportLogsServiceRequest()
    scopes: dict[str, Any] = {}
    for service in SERVICES:
        entry = request.resource_logs.add()
        _resource(entry.resource, service)
        scopes[service] = entry.scope_logs.add()
        scopes[service].scope.name = "simulate"
    count = 0
    for failure in failures:
        scopes[failure.step.service].log_records.add(
            time_unix_nano=_ns(failure.time_s),
            observed_time_unix_nano=_ns(failure.time_s),
            severity_number=17,  # type: ignore[arg-type]
            severity_text="ERROR",
            body=AnyValue(string_value=f"{failure.step.name} failed: upstream failed"),
            trace_id=failure.trace_id,
            span_id=failure.span_id,
            attributes=[KeyValue(key="error.type", value=AnyValue(string_value="UpstreamError"))],
        )
        count += 1
    for order in orders[::3]:
        scopes["storefront"].log_records.add(
            time_unix_nano=_ns(order.time_s),
            severity_number=9,  # type: ignore[arg-type]
            severity_text="INFO",
            event_name="order.placed",
            body=AnyValue(string_value="order placed"),
            trace_id=order.trace_id,
            span_id=order.span_id,
        )
        count += 1
    return Written([request.SerializeToString()], Counter(logs=count))


def _request(service: str, scope: str = "simulate") -> tuple[Any, Any]:
    request = ExportMetricsServiceRequest()
    entry = request.resource_metrics.add()
    _resource(entry.resource, service)
    group = entry.scope_metrics.add()
    group.scope.name = scope
    return request, group


def _resource(holder: Any, service: str) -> None:
    for key, value in (
        ("service.name", service),
        ("service.namespace", catalog.NAMESPACE),
        ("deployment.environment.name", catalog.ENVIRONMENT),
    ):
        holder.attributes.append(KeyValue(key=key, value=AnyValue(string_value=value)))


def _gauge(
    scope: Any, name: str, unit: str, grid: Array, values: Array, attributes: tuple[KeyValue, ...]
) -> None:
    points = scope.metrics.add(name=name, unit=unit).gauge.data_points
    for time_s, value in zip(grid.tolist(), values.tolist(), strict=True):
        points.add(time_unix_nano=_ns(time_s), as_double=value, attributes=attributes)


def _delta(scope: Any, name: str, unit: str, grid: Array, values: Array) -> None:
    metric = scope.metrics.add(name=name, unit=unit)
    metric.sum.aggregation_temporality = 1
    metric.sum.is_monotonic = True
    for time_s, value in zip(grid.tolist(), values.tolist(), strict=True):
        metric.sum.data_points.add(
            start_time_unix_nano=_ns(time_s),
            time_unix_nano=_ns(time_s + GRID_S - 1),
            as_double=float(value),
        )


def _counter(scope: Any, service: str, grid: Array, counts: Array, state: State) -> None:
    """A cumulative counter; the cart's restarts every tenth day or so, as processes do."""
    metric = scope.metrics.add(name="http.server.requests", unit="{request}")
    metric.sum.aggregation_temporality = 2
    metric.sum.is_monotonic = True
    for time_s, count in zip(grid.tolist(), counts.tolist(), strict=True):
        restarted = service == "cart" and int(time_s // GRID_S) % 2880 == 0
        if restarted or service not in state.since_ns:
            state.totals[service] = 0
            state.since_ns[service] = _ns(time_s)
        state.totals[service] += int(count)
        metric.sum.data_points.add(
            start_time_unix_nano=state.since_ns[service],
            time_unix_nano=_ns(time_s + GRID_S - 1),
            as_int=state.totals[service],
        )


def _histogram(scope: Any, grid: Array, window: Array, seconds: Array) -> None:
    metric: Metric = scope.metrics.add(name="http.server.request.duration", unit="s")
    metric.histogram.aggregation_temporality = 1  # type: ignore[assignment]
    width = len(BOUNDS_S) + 1
    bucket = np.searchsorted(BOUNDS_S, seconds, side="left")
    counts = np.bincount(window * width + bucket, minlength=len(grid) * width).reshape(-1, width)
    total = np.bincount(window, seconds, len(grid))
    for row, time_s in enumerate(grid.tolist()):
        metric.histogram.data_points.add(
            start_time_unix_nano=_ns(time_s),
            time_unix_nano=_ns(time_s + GRID_S - 1),
            count=int(counts[row].sum()),
            sum=float(total[row]),
            explicit_bounds=BOUNDS_S,
            bucket_counts=counts[row].tolist(),
        )


def _exponential(scope: Any, grid: Array, window: Array, seconds: Array) -> None:
    metric: Metric = scope.metrics.add(name="http.server.request.duration.exp", unit="s")
    metric.exponential_histogram.aggregation_temporality = 1  # type: ignore[assignment]
    # Bucket i holds (base^i, base^(i+1)] with base = 2^(2^-scale).
    index = np.ceil(np.log2(np.maximum(seconds, 1e-6)) * 2**EXPONENTIAL_SCALE).astype(int) - 1
    for row, time_s in enumerate(grid.tolist()):
        own = index[window == row]
        point = metric.exponential_histogram.data_points.add(
            start_time_unix_nano=_ns(time_s),
            time_unix_nano=_ns(time_s + GRID_S - 1),
            count=len(own),
            sum=float(seconds[window == row].sum()),
            scale=EXPONENTIAL_SCALE,
        )
        if len(own):
            point.positive.offset = int(own.min())
            point.positive.bucket_counts.extend(np.bincount(own - own.min()).tolist())


def _summary(scope: Any, grid: Array, window: Array, seconds: Array) -> None:
    metric: Metric = scope.metrics.add(name="http.server.request.duration.summary", unit="s")
    for row, time_s in enumerate(grid.tolist()):
        own = seconds[window == row]
        point = metric.summary.data_points.add(
            start_time_unix_nano=_ns(time_s),
            time_unix_nano=_ns(time_s + GRID_S - 1),
            count=len(own),
            sum=float(own.sum()),
        )
        if len(own):
            for quantile in (0.5, 0.95):
                point.quantile_values.add(
                    quantile=quantile, value=float(np.quantile(own, quantile))
                )


def _joined(parts: list[tuple[Array, Array, Array]]) -> tuple[Array, Array, Array]:
    if not parts:
        return np.empty(0), np.empty(0), np.empty(0)
    starts, seconds, failed = (np.concatenate(column) for column in zip(*parts, strict=True))
    return starts, seconds, failed.astype(float)


def _ns(time_s: float) -> int:
    return int(time_s * 1e6) * 1000
