"""When things happen: seasons, incidents and deployments on the axis of time.

In:  the specification, the period.
Out: arrays over time: demand, and for any span its latency factor and error ratio.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from apm_analytics.simulate.catalog import (
    DEPLOYMENTS,
    FIRST_VERSION,
    INCIDENTS,
    ONGOING,
    SERVICES,
    Deployment,
    Incident,
    Step,
)

Array = np.ndarray[Any, np.dtype[Any]]
DAY_S = 86_400
GROWTH = 0.1  # over the whole period
WEEKEND = 0.78
NIGHT_TO_DAY = 0.36
PEAK_HOUR = 15.0
# The first days stay quiet, so that there is always a normal to compare with.
QUIET_DAYS = 2.0


@dataclass(frozen=True)
class Occurrence:
    """An incident at its place in time, seconds since 1970 UTC."""

    incident: Incident
    start_s: float
    end_s: float


class Timeline:
    """The period from `start_s` to `end_s`, seconds since 1970 UTC."""

    def __init__(self, end: datetime, days: int) -> None:
        self.end = end
        self.start = end - timedelta(days=days)
        self.start_s, self.end_s = self.start.timestamp(), end.timestamp()
        self.days = days
        self.occurrences = [
            Occurrence(incident, at, at + incident.hours * 3600)
            for incident in INCIDENTS
            if (at := self._at(incident.at)) >= self.start_s + min(QUIET_DAYS, days / 3) * DAY_S
            and at + incident.hours * 3600 < self.end_s - ONGOING.hours * 7200
        ]
        self.occurrences.append(Occurrence(ONGOING, self.end_s - ONGOING.hours * 3600, self.end_s))

    def _at(self, share: float) -> float:
        whole = self.start_s + share * (self.end_s - self.start_s)
        return whole - whole % 300

    def demand(self, times_s: Array) -> Array:
        """Give relative demand, 1 on average over a working day's peak, before incidents."""
        hour = times_s / 3600 % 24
        day = np.floor(times_s / DAY_S).astype(int)
        # 1970-01-01 was a Thursday.
        weekend = np.isin((day + 4) % 7, (0, 6))
        wave = 0.5 + 0.5 * np.cos((hour - PEAK_HOUR) / 24 * 2 * np.pi)
        evening = 0.12 * np.exp(-(((hour - 20.5) / 1.5) ** 2))
        shape = NIGHT_TO_DAY + (1 - NIGHT_TO_DAY) * wave + evening
        growth = 1 + GROWTH * (times_s - self.start_s) / (self.end_s - self.start_s)
        return shape * np.where(weekend, WEEKEND, 1.0) * growth

    def traffic(self, times_s: Array) -> Array:
        """Give demand as incidents let it through."""
        factor = np.ones(len(times_s))
        for at in self.occurrences:
            factor[_within(times_s, at)] *= at.incident.traffic_factor
        return self.demand(times_s) * factor

    def latency_factor(self, step: Step, times_s: Array) -> Array:
        """Give how much slower a span's own time is than its median."""
        load = self.demand(times_s)
        factor = 1 + 0.25 * load**2 if not step.resource else 1 + 0.12 * load**2
        for at in self.occurrences:
            if _hits(at.incident, step):
                factor[_within(times_s, at)] *= at.incident.latency_factor
        for deployment in self.deployments(step.service):
            if deployment.operation == step.name and step.entry:
                since, until = self.lifetime(deployment)
                inside = (times_s >= since) & (times_s < until)
                factor[inside] *= deployment.latency_factor
        return factor

    def error_ratio(self, step: Step, times_s: Array) -> Array:
        """Give the share of a span's calls that fail by themselves."""
        ratio = np.full(len(times_s), step.error_ratio)
        for at in self.occurrences:
            if _hits(at.incident, step):
                ratio[_within(times_s, at)] += at.incident.error_ratio
        return ratio

    def cpu(self, service: str, times_s: Array) -> Array:
        """Give a service's CPU utilisation, a ratio."""
        used = 0.12 + 0.35 * self.traffic(times_s)
        for at in self.occurrences:
            if at.incident.service == service:
                used[_within(times_s, at)] += at.incident.cpu
        return used

    def deployments(self, service: str) -> list[Deployment]:
        """Give a service's deployments in order."""
        return [deployment for deployment in DEPLOYMENTS if deployment.service == service]

    def lifetime(self, deployment: Deployment) -> tuple[float, float]:
        """Give from when to when a deployment ran."""
        later = [d.at for d in self.deployments(deployment.service) if d.at > deployment.at]
        return self._at(deployment.at), self._at(min(later)) if later else self.end_s

    def versions(self, service: str) -> list[tuple[str, float]]:
        """Give (version, since) in order; the first ran from the start."""
        return [(FIRST_VERSION, self.start_s)] + [
            (deployment.version, self._at(deployment.at))
            for deployment in self.deployments(service)
        ]

    def truth(self, affected: "dict[str, list[dict[str, str]]]") -> dict[str, Any]:
        """Write down what happened when; `affected` names the operations of each incident."""
        return {
            "incidents": [
                {
                    **asdict(at.incident),
                    "start": _text(at.start_s),
                    "end": _text(at.end_s),
                    "ongoing": at.incident is ONGOING,
                    "operations": affected[at.incident.name],
                    "signals": _signals(at.incident),
                }
                for at in self.occurrences
            ],
            "deployments": [
                {**asdict(deployment), "time": _text(self._at(deployment.at))}
                for service in SERVICES
                for deployment in self.deployments(service)
            ],
        }


def _within(times_s: Array, at: Occurrence) -> Array:
    return (times_s >= at.start_s) & (times_s < at.end_s)


def _hits(incident: Incident, step: Step) -> bool:
    if incident.resource:
        return step.resource == incident.resource
    return bool(incident.service) and step.entry and step.service == incident.service


def _signals(incident: Incident) -> list[str]:
    found = {
        "latency_p95": incident.latency_factor > 1,
        "error_ratio": incident.error_ratio > 0,
        "rate": incident.traffic_factor < 1,
    }
    return [signal for signal, hit in found.items() if hit]


def _text(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat()
