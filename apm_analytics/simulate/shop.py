"""Write weeks of a shop's telemetry as OTLP files.

In:  days, spans, seed and the instant the period ends.
Out: a folder with traces, metrics and logs of each day (length-delimited protobuf, zstd) and
     `truth.json`, written last.
"""

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tqdm import tqdm

from apm_analytics.errors import BadParameter
from apm_analytics.simulate import catalog, measures, wire
from apm_analytics.simulate.catalog import JOURNEYS, SERVICES, Journey, Step
from apm_analytics.simulate.timeline import DAY_S, Timeline
from apm_analytics.simulate.wire import Template

Array = np.ndarray[Any, np.dtype[Any]]
GRID_S = 300
# Spans of this long end up in one request a service instance.
REQUEST_S = 3_600
SIGMA = 0.35  # of the log of a span's own time
SCOPE = wire.field(1, b"\x0a\x08simulate")  # InstrumentationScope with its name
USERS, SESSIONS = 20_000, 10**8
CLOSING_S = 2.0  # the last requests start this long before the end, and are over by then


def write(
    out: Path, *, days: int, spans: int, seed: int, end: datetime, progress: bool = True
) -> Path:
    """Simulate the shop; the same arguments give the same bytes.

    Parameters
    ----------
    out : folder for the files, made when missing.
    days : length of the period.
    spans : about how many spans the period has.
    seed : of all randomness.
    end : UTC; the last span ends just before it.
    progress : show a bar over the days.

    Returns
    -------
    The path of truth.json: services, operations, incidents, deployments, KPI relations, counts.

    Raises
    ------
    BadParameter
        Less than one day or fewer than 1,000 spans, or an `end` without a time zone.

    Examples
    --------
    >>> write(Path("otlp"), days=3, spans=20_000, seed=7, end=now)  # doctest: +SKIP
    """
    if days < 1 or spans < 1_000 or end.tzinfo is None:
        raise BadParameter(
            f"got days={days}, spans={spans}, end={end}; need at least 1 day, 1000 spans "
            "and an end with a time zone"
        )
    out.mkdir(parents=True, exist_ok=True)
    timeline = Timeline(end.astimezone(UTC), days)
    traffic = _Traffic(timeline, spans)
    counts: Counter[str] = Counter()
    state = measures.State()
    for day in tqdm(range(days), desc="simulating", unit="day", disable=not progress):
        random = np.random.default_rng([seed, day])
        first = timeline.start_s + day * DAY_S
        made = traffic.day(random, first, min(first + DAY_S, timeline.end_s))
        label = f"{day:03d}"
        counts["spans"] += _write_traces(out / f"traces-{label}.pb.zst", timeline, made)
        measured = measures.metrics(timeline, made.measured, made.orders, random, first, state)
        _write(out / f"metrics-{label}.pb.zst", measured.requests)
        counts.update(measured.counts)
        logged = measures.logs(timeline, made.failures, made.orders, random)
        _write(out / f"logs-{label}.pb.zst", logged.requests)
        counts.update(logged.counts)
    truth = {
        "seed": seed,
        "days": days,
        "start": timeline.start.isoformat(),
        "end": timeline.end.isoformat(),
        "counts": dict(counts),
        "services": list(SERVICES),
        "operations": [
            {"service": service, "operation": name} for service, name in sorted(operations())
        ],
        **timeline.truth({at.incident.name: _affected(at.incident) for at in timeline.occurrences}),
        "kpis": measures.RELATIONS,
    }
    return _finish(out / "truth.json", truth)


def operations() -> set[tuple[str, str]]:
    """Give (service, span name) of every entry operation."""
    return {(s.service, s.name) for journey in JOURNEYS for s in _steps(journey.root) if s.entry}


@dataclass
class _Made:
    """The rows of one day, by step: what the writers need."""

    rows: list[tuple[Step, dict[str, Array]]] = field(default_factory=list)
    measured: "measures.Durations" = field(default_factory=dict)
    failures: list[measures.Failure] = field(default_factory=list)
    orders: list[measures.Order] = field(default_factory=list)


class _Traffic:
    """Draws the requests of a day and the spans they make."""

    def __init__(self, timeline: Timeline, spans: int) -> None:
        self.timeline = timeline
        grid = np.arange(timeline.start_s, timeline.end_s, GRID_S)
        weights = [journey.weight for journey in JOURNEYS]
        each = sum(j.weight * len(_steps(j.root)) for j in JOURNEYS) / sum(weights)
        # Traces a grid step at demand 1, so that about `spans` come out in all.
        self.rate = spans / each / timeline.traffic(grid).sum()
        self.share = [weight / sum(weights) for weight in weights]

    def day(self, random: np.random.Generator, first_s: float, last_s: float) -> _Made:
        made = _Made()
        grid = np.arange(first_s, last_s, GRID_S)
        expected = self.rate * self.timeline.traffic(grid)
        for number, journey in enumerate(JOURNEYS):
            per_step = random.poisson(expected * self.share[number])
            starts = np.repeat(grid, per_step) + random.uniform(
                0, GRID_S - CLOSING_S, per_step.sum()
            )
            self._journey(made, journey, np.sort(starts), random, number)
        return made

    def _journey(
        self,
        made: _Made,
        journey: Journey,
        starts: Array,
        random: np.random.Generator,
        number: int,
    ) -> None:
        count = len(starts)
        shared = {
            "trace_id": random.integers(0, 256, (count, 16), dtype=np.uint8),
            "user": random.integers(0, USERS, count),
            "session": random.integers(0, SESSIONS, count),
            "instance": random.integers(0, catalog.INSTANCES, count),
        }
        root, _ = self._step(made, journey, journey.root, starts, shared, None, random)
        if number == catalog.CHECKOUT_JOURNEY:
            made.orders += [
                measures.Order(float(t), bytes(trace), bytes(span))
                for t, trace, span, bad in zip(
                    starts, shared["trace_id"], root["span_id"], root["failed"], strict=True
                )
                if not bad
            ]

    def _step(
        self,
        made: _Made,
        journey: Journey,
        step: Step,
        starts: Array,
        shared: dict[str, Array],
        parent: dict[str, Array] | None,
        random: np.random.Generator,
    ) -> tuple[dict[str, Array], Array]:
        """Draw one span a request and, inside it, its children; give its rows and its ends."""
        count = len(starts)
        factor = self.timeline.latency_factor(step, starts)
        own = step.median_s * factor * np.exp(random.normal(0, SIGMA, count))
        failed = random.random(count) < self.timeline.error_ratio(step, starts)
        rows: dict[str, Array] = {
            **shared,
            "span_id": random.integers(0, 256, (count, 8), dtype=np.uint8),
            "parent_id": parent["span_id"] if parent else np.zeros((count, 8), np.uint8),
        }
        # Half of the own time before the children, half after: children lie inside.
        clock = starts + own / 2
        for child in step.children:
            if child.kind == "consumer":
                # It starts when the message arrives, after its producer has ended.
                waited = starts + own + random.exponential(0.05, count) + 0.001
                self._step(made, journey, child, waited, shared, rows, random)
                continue
            inner, ended = self._step(made, journey, child, clock, shared, rows, random)
            failed |= inner["failed"]
            clock = ended + 1e-6
        ends = clock + own / 2
        rows |= {
            "start_ns": _nanoseconds(starts),
            "end_ns": _nanoseconds(ends),
            "failed": failed,
            "link_trace_id": shared["trace_id"],
            "link_span_id": rows["parent_id"],
        }
        rows["event_ns"] = rows["end_ns"]
        made.rows.append((step, rows))
        if step.entry:
            durations = made.measured.setdefault(step.service, [])
            durations.append((starts, ends - starts, failed))
            made.failures += [
                measures.Failure(
                    step, float(t), bytes(rows["trace_id"][i]), bytes(rows["span_id"][i])
                )
                for i, t in zip(np.flatnonzero(failed), ends[failed], strict=True)
            ]
        return rows, ends


def resource(service: str, instance: int, version: str) -> bytes:
    """Encode the resource of one running instance."""
    held = {
        "service.name": service,
        "service.namespace": catalog.NAMESPACE,
        "service.version": version,
        "service.instance.id": f"{service}-{instance}",
        "deployment.environment.name": catalog.ENVIRONMENT,
        "host.name": f"node-{instance}",
        "k8s.pod.name": f"{service}-{version.replace('.', '')}-{instance}",
        "telemetry.sdk.name": "simulate",
        "telemetry.sdk.language": "python",
    }
    encoded: bytes = Resource(attributes=_attributes(held)).SerializeToString()
    return encoded


def _write_traces(file: Path, timeline: Timeline, made: _Made) -> int:
    """Group the day's spans by hour and instance into requests; give how many there were."""
    pieces: dict[tuple[int, str, int, str], list[bytes]] = {}
    written = 0
    for step, rows in made.rows:
        starts = rows["start_ns"] / 1e9
        versions = timeline.versions(step.service)
        version = np.searchsorted([since for _, since in versions], starts, side="right") - 1
        hour = (starts // REQUEST_S).astype(np.int64)
        key = ((hour * 64 + version) * 8 + rows["instance"]) * 2 + rows["failed"]
        order = np.argsort(key, kind="stable")
        edges = np.flatnonzero(np.diff(key[order], prepend=-1))
        templates = {failed: _template(step, failed) for failed in (False, True)}
        for begin, stop in zip(edges, [*edges[1:], len(order)], strict=True):
            chosen = order[begin:stop]
            one = chosen[0]
            where = (
                int(hour[one]),
                step.service,
                int(rows["instance"][one]),
                versions[version[one]][0],
            )
            template = templates[bool(rows["failed"][one])]
            pieces.setdefault(where, []).append(
                template.fill({name: values[chosen] for name, values in rows.items()})
            )
            written += len(chosen)
    _write(
        file,
        [
            wire.field(
                1,
                wire.field(1, resource(service, instance, version))
                + wire.field(2, SCOPE + b"".join(blobs)),
            )
            for (_, service, instance, version), blobs in sorted(pieces.items())
        ],
    )
    return written


_KINDS = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}


def _template(step: Step, failed: bool) -> Template:
    root = step.entry and not _called(step)
    span = Span(
        trace_id=wire.TRACE_ID,
        span_id=wire.SPAN_ID,
        parent_span_id=b"" if root else wire.PARENT_ID,
        name=step.name,
        kind=_KINDS[step.kind],  # type: ignore[arg-type]
        start_time_unix_nano=wire.START_NS,
        end_time_unix_nano=wire.END_NS,
        flags=1,
    )
    held = dict(step.attributes)
    if "http.request.method" in held:
        held["http.response.status_code"] = 503 if failed else 200
    if step.entry:
        held["user.id"] = f"user-{wire.USER_DIGITS}"
        held["session.id"] = f"session-{wire.SESSION_DIGITS}"
        held["organization.id"] = "shop-eu"
    transaction = next((j.transaction for j in JOURNEYS if j.root is step), "")
    if transaction:
        held["business.transaction"] = transaction
        held["business.operation"] = step.name
    if failed:
        held["error.type"] = "503" if "http.request.method" in held else "TimeoutError"
        span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message="upstream failed"))
        if step.entry:
            span.events.add(
                name="exception",
                time_unix_nano=wire.EVENT_NS,
                attributes=_attributes(
                    {"exception.type": "UpstreamError", "exception.message": "upstream failed"}
                ),
            )
    if step.kind == "consumer":
        span.links.add(trace_id=wire.LINK_TRACE_ID, span_id=wire.LINK_SPAN_ID)
    span.attributes.extend(_attributes(held))
    return Template(span)


def _called(step: Step) -> bool:
    """Tell whether another span calls this one."""
    return all(journey.root is not step for journey in JOURNEYS)


def _steps(root: Step) -> list[Step]:
    return [root, *(inner for child in root.children for inner in _steps(child))]


def _affected(incident: catalog.Incident) -> list[dict[str, str]]:
    """Name the entry operations that an incident shows in: those it hits and their callers."""
    found: set[tuple[str, str]] = set()

    def walk(step: Step, above: tuple[Step, ...]) -> None:
        hit = (
            step.resource == incident.resource
            if incident.resource
            else not incident.service or (step.entry and step.service == incident.service)
        )
        if hit:
            chain = (*above, step)
            # A message's consumer does not hold up the one who sent it.
            last = max((i for i, s in enumerate(chain) if s.kind == "consumer"), default=0)
            found.update((s.service, s.name) for s in chain[last:] if s.entry)
        for child in step.children:
            walk(child, (*above, step))

    for journey in JOURNEYS:
        walk(journey.root, ())
    return [{"service": service, "operation": name} for service, name in sorted(found)]


def _attributes(held: "dict[str, Any]") -> list[KeyValue]:
    return [
        KeyValue(
            key=key,
            value=AnyValue(int_value=value)
            if isinstance(value, int)
            else AnyValue(string_value=value),
        )
        for key, value in held.items()
    ]


def _nanoseconds(times_s: Array) -> Array:
    # Whole microseconds: a double of seconds since 1970 holds no more.
    return np.round(times_s * 1e6).astype(np.uint64) * np.uint64(1000)


def _write(file: Path, requests: list[bytes]) -> None:
    """Write length-delimited requests, compressed, all or nothing."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with pa.CompressedOutputStream(str(temporary), "zstd") as stream:
        stream.write(b"".join(wire.framed(request) for request in requests))
    temporary.replace(file)


def _finish(file: Path, truth: dict[str, Any]) -> Path:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(truth, indent=1) + "\n")
    temporary.replace(file)
    return file
