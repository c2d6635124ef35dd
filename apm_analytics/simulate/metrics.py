"""Write the metrics of a recording, one point per series every 5 minutes, one file per day.

In:  `Timeline`, `Fleet`, `Observed` spans.
Out: OTLP metric files with all five types of points; how many points of each type.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric

from apm_analytics.simulate import catalog, kpis
from apm_analytics.simulate.fields import SCHEMA_URL, SCOPE_VERSION, add_attributes
from apm_analytics.simulate.fleet import TOGETHER, Fleet
from apm_analytics.simulate.observed import (
    BOUNDS,
    EXP_FIRST,
    EXP_SCALE,
    QUANTILES,
    Durations,
    Observed,
)
from apm_analytics.simulate.timeline import (
    METRICS,
    WINDOW_NS,
    WINDOWS_PER_DAY,
    Floats,
    Ints,
    S,
    Timeline,
)
from apm_analytics.simulate.wire import DelimitedFile

BLOCK = 72  # windows per request
CPU_LIMIT = 2.0  # cores a process may use
CPU_NOISE = 0.015
LEAK_MB_H = 1.5  # memory growth of a process per hour, up to the maximum
LEAK_MAX_MB = 120.0
COUNTED = ("storefront", "checkout")  # services that report process.cpu.time
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


@dataclass(frozen=True)
class Series:
    """One series: `add` appends the points of some windows to an empty metric."""

    service: str
    instance: int
    name: str
    unit: str
    description: str
    kind: str  # gauge, sum, histogram, exponential_histogram, summary
    add: Callable[[Metric, range], None]


class MetricWriter:
    """Writes all series of a recording."""

    def __init__(self, timeline: Timeline, fleet: Fleet, observed: Observed) -> None:
        self._timeline = timeline
        self._fleet = fleet
        starts = timeline.start_ns + np.arange(timeline.windows) * WINDOW_NS
        self._starts: list[int] = starts.tolist()
        self._ends: list[int] = (starts + WINDOW_NS).tolist()
        self._resources: dict[tuple[str, int], Ints] = {
            (service.name, instance): fleet.serving(service.name, instance, starts)
            for service in catalog.SERVICES
            for instance in range(catalog.INSTANCES + 1)
        }
        self._series = [*self._processes(), *self._durations(observed), *self._business(observed)]

    def write_day(self, day: int, path: Path) -> Counter[str]:
        """Write one day; return the points by type."""
        written: Counter[str] = Counter()
        with DelimitedFile(path) as file:
            for first in range(day * WINDOWS_PER_DAY, (day + 1) * WINDOWS_PER_DAY, BLOCK):
                file.write(self._request(range(first, first + BLOCK), written).SerializeToString())
        return written

    def _request(self, block: range, written: Counter[str]) -> ExportMetricsServiceRequest:
        request = ExportMetricsServiceRequest()
        for (service, instance), resources in self._resources.items():
            own = [
                series
                for series in self._series
                if (series.service, series.instance) == (service, instance)
            ]
            for resource, windows in _runs(resources, block):
                group = request.resource_metrics.add(schema_url=SCHEMA_URL)
                group.resource.CopyFrom(self._fleet.resources[resource].message)
                scope = group.scope_metrics.add(schema_url=SCHEMA_URL)
                scope.scope.name = "shop.metrics"
                scope.scope.version = SCOPE_VERSION
                for series in own:
                    metric = scope.metrics.add(
                        name=series.name, unit=series.unit, description=series.description
                    )
                    series.add(metric, windows)
                    written[series.kind] += len(windows)
        return request

    # --- processes: gauges and a counter that restarts with them ---------------------------------

    def _processes(self) -> Iterator[Series]:
        timeline = self._timeline
        load = timeline.demand.copy()
        extra_cpu = {service.name: np.zeros(timeline.windows) for service in catalog.SERVICES}
        for effect, begins, ends in timeline.effects():
            first = (begins - timeline.start_ns) // WINDOW_NS
            last = -((timeline.start_ns - ends) // WINDOW_NS)
            load[first:last] *= effect.demand
            if effect.cpu:
                extra_cpu[effect.service][first:last] += effect.cpu
        for number, service in enumerate(catalog.SERVICES):
            for instance in range(catalog.INSTANCES):
                rng = timeline.random(METRICS, 1 + number * catalog.INSTANCES + instance)
                cpu = np.clip(
                    service.cpu_idle
                    + service.cpu_load * load
                    + extra_cpu[service.name]
                    + rng.normal(0, CPU_NOISE, timeline.windows),
                    0.01,
                    0.99,
                )
                yield self._gauge(
                    service.name,
                    instance,
                    "process.cpu.utilization",
                    "1",
                    "Share of its CPU limit that the process uses",
                    cpu,
                )
                started = self._started(service.name, instance)
                ages_h = (np.array(self._ends) - started) / (3600 * S)
                memory_mb = service.memory_mb * (1 + 0.05 * load) + np.minimum(
                    LEAK_MB_H * ages_h, LEAK_MAX_MB
                )
                memory_mb += rng.normal(0, 2.0, timeline.windows)
                yield self._gauge(
                    service.name,
                    instance,
                    "process.memory.usage",
                    "By",
                    "Memory that the process holds",
                    np.round(memory_mb * 2**20),
                    whole=True,
                )
                if service.name in COUNTED:
                    yield self._counter(service.name, instance, cpu * CPU_LIMIT, started)

    def _started(self, service: str, instance: int) -> Ints:
        starts = np.array([resource.start_ns for resource in self._fleet.resources])
        started: Ints = starts[self._resources[service, instance]]
        return started

    def _gauge(
        self,
        service: str,
        instance: int,
        name: str,
        unit: str,
        description: str,
        values: Floats,
        *,
        whole: bool = False,
    ) -> Series:
        plain = values.astype(np.int64).tolist() if whole else values.tolist()

        def add(metric: Metric, windows: range) -> None:
            points = metric.gauge.data_points
            for window in windows:
                if whole:
                    points.add(time_unix_nano=self._ends[window], as_int=plain[window])
                else:
                    points.add(time_unix_nano=self._ends[window], as_double=plain[window])

        return Series(service, instance, name, unit, description, "gauge", add)

    def _counter(self, service: str, instance: int, cores: Floats, started: Ints) -> Series:
        seconds = np.minimum(np.array(self._ends) - started, WINDOW_NS) / S
        used = cores * seconds
        total = np.cumsum(used)
        fresh = np.flatnonzero(np.diff(started, prepend=-1))
        before = np.repeat((total - used)[fresh], np.diff(np.append(fresh, total.size)))
        values = (total - before).tolist()
        since = started.tolist()

        def add(metric: Metric, windows: range) -> None:
            metric.sum.aggregation_temporality = CUMULATIVE
            metric.sum.is_monotonic = True
            for window in windows:
                points = metric.sum.data_points
                point = points.add(
                    start_time_unix_nano=since[window],
                    time_unix_nano=self._ends[window],
                    as_double=values[window],
                )
                add_attributes(point.attributes, {"cpu.mode": "user"})

        return Series(
            service,
            instance,
            "process.cpu.time",
            "s",
            "CPU time since the process started",
            "sum",
            add,
        )

    # --- durations, computed from the spans ------------------------------------------------------

    def _durations(self, observed: Observed) -> Iterator[Series]:
        for service, durations in observed.services.items():
            yield Series(
                service,
                TOGETHER,
                "http.server.request.duration",
                "s",
                "Duration of HTTP server requests",
                "histogram",
                self._histogram(durations),
            )
        yield Series(
            "payment",
            TOGETHER,
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests",
            "exponential_histogram",
            self._exponential(observed.provider),
        )
        count, total, quantiles = observed.search_quantiles()

        def add(metric: Metric, windows: range) -> None:
            for window in windows:
                point = metric.summary.data_points.add(
                    start_time_unix_nano=self._starts[window],
                    time_unix_nano=self._ends[window],
                    count=int(count[window]),
                    sum=float(total[window]),
                )
                for level, value in zip(QUANTILES, quantiles[window].tolist(), strict=True):
                    point.quantile_values.add(quantile=level, value=value)

        yield Series(
            "catalog",
            TOGETHER,
            "catalog.search.duration",
            "s",
            "Duration of searches",
            "summary",
            add,
        )

    def _histogram(self, durations: Durations) -> Callable[[Metric, range], None]:
        bounds = BOUNDS.tolist()

        def add(metric: Metric, windows: range) -> None:
            metric.histogram.aggregation_temporality = DELTA
            for window in windows:
                point = metric.histogram.data_points.add(
                    start_time_unix_nano=self._starts[window],
                    time_unix_nano=self._ends[window],
                    count=int(durations.count[window]),
                    sum=float(durations.sum[window]),
                    bucket_counts=durations.buckets[window].tolist(),
                    explicit_bounds=bounds,
                )
                if point.count:
                    point.min = float(durations.min[window])
                    point.max = float(durations.max[window])

        return add

    def _exponential(self, durations: Durations) -> Callable[[Metric, range], None]:
        def add(metric: Metric, windows: range) -> None:
            metric.exponential_histogram.aggregation_temporality = DELTA
            for window in windows:
                point = metric.exponential_histogram.data_points.add(
                    start_time_unix_nano=self._starts[window],
                    time_unix_nano=self._ends[window],
                    count=int(durations.count[window]),
                    sum=float(durations.sum[window]),
                    scale=EXP_SCALE,
                )
                add_attributes(point.attributes, {"peer.service": "pay-provider"})
                filled = np.flatnonzero(durations.buckets[window])
                if filled.size:
                    first, last = int(filled[0]), int(filled[-1])
                    point.positive.offset = EXP_FIRST + first
                    point.positive.bucket_counts.extend(
                        durations.buckets[window, first : last + 1].tolist()
                    )
                    point.min = float(durations.min[window])
                    point.max = float(durations.max[window])

        return add

    # --- business --------------------------------------------------------------------------------

    def _business(self, observed: Observed) -> Iterator[Series]:
        units = {relation.kpi: relation.unit for relation in kpis.RELATIONS}
        for name, values in kpis.figures(self._timeline, observed).items():
            service = kpis.KPI_SERVICES[name]
            if units[name] == "1":
                yield self._gauge(
                    service, TOGETHER, name, "1", "Share of carts left behind", values
                )
            else:
                yield self._delta(service, name, units[name], values)

    def _delta(self, service: str, name: str, unit: str, values: Floats) -> Series:
        plain = values.tolist()

        def add(metric: Metric, windows: range) -> None:
            metric.sum.aggregation_temporality = DELTA
            metric.sum.is_monotonic = True
            for window in windows:
                point = metric.sum.data_points.add(
                    start_time_unix_nano=self._starts[window], time_unix_nano=self._ends[window]
                )
                if unit == "EUR":
                    point.as_double = plain[window]
                else:
                    point.as_int = int(plain[window])

        return Series(service, TOGETHER, name, unit, "A business figure", "sum", add)


def _runs(resources: Ints, block: range) -> Iterator[tuple[int, range]]:
    """Split a block of windows where the serving resource changes."""
    served = resources[block.start : block.stop]
    cuts = np.flatnonzero(np.diff(served)) + 1 + block.start
    bounds = [block.start, *cuts.tolist(), block.stop]
    for first, last in pairwise(bounds):
        yield int(resources[first]), range(first, last)
