"""The processes that emit telemetry, as OTLP resources that change with each deployment.

In:  `Timeline` (deployments), `catalog` (services).
Out: `Fleet`: all resources, and which one serves at a given time.
"""

import hashlib
import uuid
from dataclasses import dataclass

import numpy as np
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage

from apm_analytics.simulate import catalog
from apm_analytics.simulate.calls import NAMESPACE
from apm_analytics.simulate.fields import add_attributes
from apm_analytics.simulate.timeline import ROLLOUT_NS, Ints, Timeline

# The "instance" that reports for the whole service, as a Collector aggregates it.
TOGETHER = catalog.INSTANCES
SDK = {
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.language": "python",
    "telemetry.sdk.version": "1.45.1",
}


@dataclass(frozen=True)
class Resource:
    """One process (or a service as a whole) between two deployments."""

    service: str
    version: str
    instance: int
    start_ns: int
    message: ResourceMessage
    encoded: bytes


class Fleet:
    """All resources of a recording."""

    def __init__(self, timeline: Timeline) -> None:
        self.resources: list[Resource] = []
        self._starts: dict[tuple[str, int], Ints] = {}
        self._first: dict[tuple[str, int], int] = {}
        for service in catalog.SERVICES:
            for instance in range(catalog.INSTANCES + 1):
                key = (service.name, instance)
                # All start before the recording, at different times.
                starts = [timeline.start_ns - (instance + 1) * 3 * 3600 * 10**9]
                versions = [service.version]
                for deployment in timeline.deployments:
                    if deployment.service == service.name:
                        starts.append(deployment.start_ns + instance % TOGETHER * ROLLOUT_NS)
                        versions.append(deployment.version)
                self._first[key] = len(self.resources)
                self._starts[key] = np.array(starts, dtype=np.int64)
                self.resources += [
                    _resource(service.name, version, instance, epoch, start)
                    for epoch, (version, start) in enumerate(zip(versions, starts, strict=True))
                ]

    def serving(self, service: str, instance: int, times: Ints) -> Ints:
        """Return the index in `resources` of the one that serves at each time (ns)."""
        key = (service, instance)
        place: Ints = self._first[key] + np.searchsorted(self._starts[key], times, side="right") - 1
        return place


def _resource(service: str, version: str, instance: int, epoch: int, start: int) -> Resource:
    attributes: dict[str, str | int | float] = {
        "service.name": service,
        "service.namespace": NAMESPACE,
        "service.version": version,
        "deployment.environment.name": catalog.ENVIRONMENT,
        **SDK,
    }
    if instance != TOGETHER:
        digest = hashlib.sha256(f"{service} {epoch}".encode()).hexdigest()
        pod = f"{service}-{digest[:8]}-{digest[8 + 5 * instance : 13 + 5 * instance]}"
        attributes |= {
            "service.instance.id": str(uuid.uuid5(uuid.NAMESPACE_DNS, pod)),
            "host.name": f"node-{instance + 1}",
            "k8s.namespace.name": NAMESPACE,
            "k8s.deployment.name": service,
            "k8s.pod.name": pod,
        }
    message = ResourceMessage()
    add_attributes(message.attributes, attributes)
    return Resource(service, version, instance, start, message, message.SerializeToString())
