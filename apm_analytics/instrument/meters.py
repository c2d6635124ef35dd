"""Keep contrib's metrics off the path of a request where they can be read later, or by nobody.

In:  the SDK's meter provider.
Out: one for an instrumentation, without some instruments; SQLAlchemy's pools, read when collected.

A measurement of the SDK costs 15 to 30 microseconds, contrib's FastAPI and SQLAlchemy
instrumentations make eight a request.
"""

import weakref
from collections.abc import Iterable
from functools import partialmethod
from typing import Any

from opentelemetry.metrics import (
    CallbackOptions,
    Meter,
    MeterProvider,
    NoOpMeter,
    Observation,
)

# Body sizes and the number of running requests: no question of ours reads them.
LEFT_OUT_HTTP = (
    "http.server.active_requests",
    "http.server.request.body.size",
    "http.server.response.body.size",
)
POOLS = "db.client.connections.usage"  # counted up and down by contrib, read from the pool by us


class FewerMeters(MeterProvider):
    """A meter provider whose meters make some instruments that record nothing."""

    def __init__(self, meters: MeterProvider, left_out: tuple[str, ...]) -> None:
        self._meters = meters
        self._left_out = left_out

    def get_meter(self, name: str, *args: Any, **kwargs: Any) -> Meter:
        """Give a meter that leaves some instruments out."""
        return _FewerMeter(self._meters.get_meter(name, *args, **kwargs), self._left_out)


class _FewerMeter(NoOpMeter):
    """Hands on what is asked of it, but for what is left out."""

    def __init__(self, meter: Meter, left_out: tuple[str, ...]) -> None:
        super().__init__(meter.name)
        self._meter = meter
        self._left_out = left_out

    def _create(self, kind: str, name: str, *args: Any, **kwargs: Any) -> Any:
        maker = NoOpMeter(self.name) if name in self._left_out else self._meter
        return getattr(maker, kind)(name, *args, **kwargs)

    create_counter = partialmethod(_create, "create_counter")
    create_up_down_counter = partialmethod(_create, "create_up_down_counter")
    create_histogram = partialmethod(_create, "create_histogram")
    create_gauge = partialmethod(_create, "create_gauge")
    create_observable_counter = partialmethod(_create, "create_observable_counter")
    create_observable_gauge = partialmethod(_create, "create_observable_gauge")
    create_observable_up_down_counter = partialmethod(_create, "create_observable_up_down_counter")


class Pools:
    """SQLAlchemy's connection pools, as engines are used."""

    def __init__(self, meter: Meter) -> None:
        self._engines: weakref.WeakSet[Any] = weakref.WeakSet()
        meter.create_observable_up_down_counter(
            POOLS, [self._observe], "{connection}", "Connections of a pool by state"
        )

    def saw(self, connection: Any) -> None:
        """Remember the engine of a connection; SQLAlchemy calls it for each one handed out."""
        self._engines.add(connection.engine)

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        for engine in list(self._engines):
            used, idle = _state(engine.pool)
            url = engine.url
            name = f"{engine.name}://{url.host or ''}/{url.database or ''}"
            yield Observation(used, {"pool.name": name, "state": "used"})
            yield Observation(idle, {"pool.name": name, "state": "idle"})


def _state(pool: Any) -> tuple[int, int]:
    """Give the connections in use and at rest; pools that hold none say nothing."""
    used, idle = getattr(pool, "checkedout", None), getattr(pool, "checkedin", None)
    return (used() if used else 0, idle() if idle else 0)
