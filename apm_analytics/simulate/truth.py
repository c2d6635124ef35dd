"""Describe what is true of a simulated recording, to evaluate methods against it.

In:  `Timeline`, the counts of written records.
Out: a plain dictionary for truth.json: services, operations, incidents, deployments, relations.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from apm_analytics.simulate import catalog, kpis
from apm_analytics.simulate.observed import Observed
from apm_analytics.simulate.timeline import IMPACT, S, Timeline
from apm_analytics.simulate.troubles import Effect
from apm_analytics.simulate.visits import Scene, walk

TRIALS = 1500  # requests per journey, with and without an effect
# Smallest changes by which an operation counts as affected.
LEAST_LATENCY_RATIO = 1.15
LEAST_ERROR_RISE = 0.02
LEAST_RATE_CHANGE = 0.2
Name = tuple[str, str]


def describe(
    timeline: Timeline,
    observed: Observed,
    *,
    spans_asked: int,
    counts: Mapping[str, int],
    points: Mapping[str, int],
) -> dict[str, Any]:
    """Return the truth of a recording, as written to truth.json."""
    usual = _signals(timeline.seed, ())
    return {
        "recording": {
            "start": _time(timeline.start_ns),
            "end": _time(timeline.end_ns),
            "days": timeline.days,
            "spans_asked": spans_asked,
            "seed": timeline.seed,
        },
        "counts": {**counts, "points": dict(points)},
        "services": [service.name for service in catalog.SERVICES],
        "operations": [
            {
                "service_name": service,
                "operation": operation,
                "requests": int(seen.count.sum()),
                "errors": int(seen.errors.sum()),
            }
            for (service, operation), seen in sorted(observed.operations.items())
        ],
        "incidents": [
            {
                "name": incident.kind.name,
                "kind": incident.kind.kind,
                "cause": incident.kind.cause,
                "start": _time(incident.start_ns),
                "end": _time(incident.end_ns),
                "ongoing": incident.ongoing,
                "effects": [_stated(effect) for effect in incident.kind.effects],
                "operations": _affected(timeline.seed, incident.kind.effects, usual),
            }
            for incident in timeline.incidents
        ],
        "deployments": [
            {
                "service_name": deployment.service,
                "time": _time(deployment.start_ns),
                "version": deployment.version,
                "previous_version": deployment.previous,
                "rolls_back": deployment.rolls_back,
                "regression": {
                    "end": _time(deployment.end_ns),
                    "effects": [_stated(effect) for effect in deployment.effects],
                    "operations": _affected(timeline.seed, deployment.effects, usual),
                }
                if deployment.effects
                else None,
            }
            for deployment in timeline.deployments
        ],
        "kpis": [
            {
                "name": relation.kpi,
                "unit": relation.unit,
                "service_name": kpis.KPI_SERVICES[relation.kpi],
                "driver": relation.driver,
                "lag_s": relation.lag_s,
                "coefficient": relation.coefficient,
                "formula": relation.reads,
            }
            for relation in kpis.RELATIONS
        ],
    }


def _affected(
    seed: int, effects: tuple[Effect, ...], usual: Mapping[Name, tuple[float, float, float]]
) -> list[dict[str, Any]]:
    """List the affected operations and how the same requests change when affected."""
    demand = float(np.prod([effect.demand for effect in effects]))
    troubled = _signals(seed, effects)
    affected = []
    for (service, operation), (rate, errors, p95_s) in sorted(usual.items()):
        new_rate, new_errors, new_p95_s = troubled[service, operation]
        signals: dict[str, float] = {}
        if new_p95_s / p95_s >= LEAST_LATENCY_RATIO:
            signals["latency_p95"] = round(new_p95_s / p95_s, 2)
        if new_errors - errors >= LEAST_ERROR_RISE:
            signals["error_ratio"] = round(new_errors - errors, 3)
        if abs(demand * new_rate / rate - 1) >= LEAST_RATE_CHANGE:
            signals["rate"] = round(demand * new_rate / rate, 2)
        if signals:
            affected.append({"service_name": service, "operation": operation, "signals": signals})
    return affected


def _signals(seed: int, effects: tuple[Effect, ...]) -> dict[Name, tuple[float, float, float]]:
    """Return requests, error ratio and p95 (s) per operation, at mean load and pace."""
    always = np.ones(TRIALS, dtype=bool)
    ones = np.ones(TRIALS)
    scene = Scene(
        load=ones,
        paces={service.name: ones for service in catalog.SERVICES},
        effects=[(effect, always) for effect in effects],
    )
    signals: dict[Name, tuple[float, float, float]] = {}
    for number, (_, journey) in enumerate(catalog.JOURNEYS):
        rng = np.random.default_rng([seed, IMPACT, number])
        for visit in walk(journey, TRIALS, scene, rng):
            if visit.call.kind in ("server", "consumer"):
                present = visit.present
                signals[visit.call.service, visit.call.name] = (
                    float(present.sum()),
                    float(visit.failed[present].mean()),
                    float(np.quantile(visit.duration[present], 0.95)) / S,
                )
    return signals


def _stated(effect: Effect) -> dict[str, Any]:
    usual = Effect()
    return {name: value for name, value in vars(effect).items() if value != getattr(usual, name)}


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns // S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
