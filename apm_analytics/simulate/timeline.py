"""Plan one recording: demand, the services' pace, deployments and incidents.

In:  days, seed and the end of the recording, `catalog`, `troubles`.
Out: `Timeline`: values per 5-minute window, instants in ns.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from apm_analytics.simulate import catalog, troubles
from apm_analytics.simulate.troubles import Effect

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

S = 1_000_000_000  # ns
WINDOW_NS = 300 * S
DAY_NS = 86_400 * S
WINDOWS_PER_DAY = DAY_NS // WINDOW_NS
# Demand per hour (UTC), mean about 1: a flat night and two peaks. The peak is 2.4 times the night,
# so that every operation has a few requests in each window of the night.
HOURLY = (
    *(0.64, 0.61, 0.60, 0.60, 0.61, 0.66, 0.78, 0.94, 1.12, 1.27, 1.36, 1.36),
    *(1.28, 1.22, 1.22, 1.25, 1.28, 1.33, 1.40, 1.42, 1.33, 1.12, 0.89, 0.72),
)
WEEKEND = 0.78  # relative to a working day
GROWTH = 0.10  # in 28 days
DEMAND_NOISE = (0.95, 0.05)  # AR(1) coefficient, standard deviation of the logarithm
PACE_NOISE = (0.97, 0.06)  # the same for each service's own times
QUIET_NS = 2 * DAY_NS  # without incidents at the start
SLOT_NS = 3 * 3600 * S  # shortest time slot of an incident
ROLLOUT_NS = 120 * S  # time between the deployments of two instances
PLACES, DEMAND, PACES, SPANS, METRICS, LOGS, IMPACT = range(7)  # streams of random numbers


@dataclass(frozen=True)
class Incident:
    """One incident, [start, end) in ns UTC."""

    kind: troubles.IncidentKind
    start_ns: int
    end_ns: int
    ongoing: bool


@dataclass(frozen=True)
class Deployment:
    """One deployment; its effects, if any, last until `end_ns`."""

    service: str
    version: str
    previous: str
    start_ns: int
    end_ns: int
    effects: tuple[Effect, ...]
    rolls_back: bool


@dataclass(frozen=True)
class Timeline:
    """The plan of a recording. Arrays hold one value per window of 5 minutes."""

    seed: int
    days: int
    start_ns: int
    end_ns: int
    demand: Floats  # mean 1
    paces: dict[str, Floats]  # a service -> factor on its own times
    deployments: tuple[Deployment, ...]
    incidents: tuple[Incident, ...]

    @property
    def windows(self) -> int:
        """Windows in the recording."""
        return self.demand.size

    def effects(self) -> list[tuple[Effect, int, int]]:
        """List every effect with its [start, end) in ns."""
        planned = [
            *((i.kind.effects, i.start_ns, i.end_ns) for i in self.incidents),
            *((d.effects, d.start_ns, d.end_ns) for d in self.deployments),
        ]
        return [(effect, begins, ends) for effects, begins, ends in planned for effect in effects]

    def random(self, stream: int, part: int = 0) -> np.random.Generator:
        """Return the generator of one stream and part, independent of the others."""
        return np.random.default_rng([self.seed, stream, part])


def plan(*, days: int, seed: int, end: datetime) -> Timeline:
    """Lay out a recording of `days` days before `end`."""
    end_ns = int(end.timestamp()) * S + end.microsecond * 1000
    start_ns = end_ns - days * DAY_NS
    windows = int(days * WINDOWS_PER_DAY)
    demand = _season(start_ns, windows)
    noise = _walks(np.random.default_rng([seed, DEMAND]), 1, windows, *DEMAND_NOISE)[0]
    paces = _walks(
        np.random.default_rng([seed, PACES]), len(catalog.SERVICES), windows, *PACE_NOISE
    )
    demand = demand * np.exp(noise)
    return Timeline(
        seed=seed,
        days=days,
        start_ns=start_ns,
        end_ns=end_ns,
        demand=demand / demand.mean(),
        paces={
            service.name: np.exp(pace)
            for service, pace in zip(catalog.SERVICES, paces, strict=True)
        },
        deployments=_deployments(start_ns, end_ns),
        incidents=_incidents(np.random.default_rng([seed, PLACES]), start_ns, end_ns),
    )


def _season(start_ns: int, windows: int) -> Floats:
    seconds = (start_ns + WINDOW_NS // 2) / S + np.arange(windows) * (WINDOW_NS / S)
    hours = seconds / 3600
    # Each value applies to the middle of its hour.
    daily = np.interp((hours - 0.5) % 24, np.arange(25), [*HOURLY, HOURLY[0]])
    weekday = (np.floor(hours / 24) + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    weekly = np.where(weekday >= 5, WEEKEND, 1.0)
    growth = 1 + GROWTH * np.arange(windows) / (28 * WINDOWS_PER_DAY)
    season: Floats = daily * weekly * growth
    return season


def _walks(
    rng: np.random.Generator, series: int, windows: int, memory: float, deviation: float
) -> Floats:
    steps = rng.normal(0, deviation * np.sqrt(1 - memory**2), (windows, series))
    walks = np.empty_like(steps)
    level = rng.normal(0, deviation, series)
    for window in range(windows):
        level = memory * level + steps[window]
        walks[window] = level
    return walks.T


def _deployments(start_ns: int, end_ns: int) -> tuple[Deployment, ...]:
    versions = {service.name: service.version for service in catalog.SERVICES}
    deployments: list[Deployment] = []
    releases = [
        (release, start_ns + _whole_minutes((end_ns - start_ns) * release.at))
        for release in troubles.RELEASES
    ]
    # A recording too short for a regression has neither the regression nor its roll-back.
    troubled = {
        release.service for release, at in releases if release.effects and at < start_ns + QUIET_NS
    }
    releases = [
        (release, at)
        for release, at in releases
        if release.service not in troubled or not (release.effects or release.rolls_back)
    ]
    for release, at in releases:
        until = min(
            (
                later_at
                for later, later_at in releases
                if later.service == release.service and later_at > at
            ),
            default=end_ns,
        )
        deployments.append(
            Deployment(
                release.service,
                release.version,
                versions[release.service],
                at,
                until,
                release.effects,
                release.rolls_back,
            )
        )
        versions[release.service] = release.version
    return tuple(deployments)


def _incidents(rng: np.random.Generator, start_ns: int, end_ns: int) -> tuple[Incident, ...]:
    ongoing_ns = troubles.ONGOING.minutes * 60 * S
    last = Incident(troubles.ONGOING, end_ns - ongoing_ns, end_ns, True)
    # A quiet time before the ongoing incident.
    first_ns, last_ns = start_ns + QUIET_NS, end_ns - 4 * ongoing_ns
    number = max(3, round(len(troubles.INCIDENTS) * (end_ns - start_ns) / (28 * DAY_NS)))
    number = min(number, max(0, last_ns - first_ns) // SLOT_NS)
    incidents: list[Incident] = []
    for index in range(number):
        kind = troubles.INCIDENTS[index % len(troubles.INCIDENTS)]
        slot_ns = (last_ns - first_ns) // number
        lasts_ns = min(kind.minutes * 60 * S, slot_ns - 600 * S)
        begins = first_ns + _whole_minutes(index * slot_ns + rng.random() * (slot_ns - lasts_ns))
        incidents.append(Incident(kind, begins, begins + lasts_ns, False))
    return (*incidents, last)


def _whole_minutes(ns: float) -> int:
    return int(ns // (60 * S)) * 60 * S
