"""Keep metrics off the path of a request: drop unused ones, record others in batches.

In:  the SDK's meter provider.
Out: a meter provider for instrumentations, without some instruments and with batched others;
     SQLAlchemy's pools, read when metrics are collected.

The first measurement in a request costs 20 to 40 microseconds, because the SDK's code is not in the
caches; further ones in a row take 5.
"""

import weakref
from collections import deque
from collections.abc import Iterable
from functools import partialmethod
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    NoOpMeter,
    Observation,
)

# Body sizes and the number of active requests: no query of this project reads them.
LEFT_OUT_HTTP = (
    "http.server.active_requests",
    "http.server.request.body.size",
    "http.server.response.body.size",
)
POOLS = "db.client.connections.usage"  # contrib counts it per connection, we read it from the pool
BATCHED = ("http.server.request.duration",)
BATCH = 16  # measurements: 0.1 ms for the request that records them


class FewerMeters(MeterProvider):
    """A meter provider whose instruments may record nothing, or in batches."""

    def __init__(self, meters: MeterProvider, left_out: tuple[str, ...]) -> None:
        self._meters = meters
        self._left_out = left_out

    def get_meter(self, name: str, *args: Any, **kwargs: Any) -> Meter:
        """Return a meter that leaves some instruments out."""
        return _FewerMeter(self._meters.get_meter(name, *args, **kwargs), self._left_out)


class _FewerMeter(NoOpMeter):
    """Creates instruments of another meter, except those that are left out."""

    def __init__(self, meter: Meter, left_out: tuple[str, ...]) -> None:
        super().__init__(meter.name)
        self._meter = meter
        self._left_out = left_out

    def _create(self, kind: str, name: str, *args: Any, **kwargs: Any) -> Any:
        maker = NoOpMeter(self.name) if name in self._left_out else self._meter
        return getattr(maker, kind)(name, *args, **kwargs)

    def create_histogram(self, name: str, *args: Any, **kwargs: Any) -> Histogram:
        made: Histogram = self._create("create_histogram", name, *args, **kwargs)
        return BatchedHistogram(made, self._meter) if name in BATCHED else made

    create_counter = partialmethod(_create, "create_counter")
    create_up_down_counter = partialmethod(_create, "create_up_down_counter")
    create_gauge = partialmethod(_create, "create_gauge")
    create_observable_counter = partialmethod(_create, "create_observable_counter")
    create_observable_gauge = partialmethod(_create, "create_observable_gauge")
    create_observable_up_down_counter = partialmethod(_create, "create_observable_up_down_counter")


class BatchedHistogram(Histogram):
    """A histogram that records in batches; a collection records what is waiting.

    Parameters
    ----------
    histogram : the SDK's histogram.
    meter : its callbacks run when metrics are collected.
    """

    def __init__(self, histogram: Histogram, meter: Meter) -> None:
        self._record = histogram.record
        self._waiting: deque[tuple[float, Any, Context]] = deque()
        meter.create_observable_gauge("apm.batched", [self._collected])

    def record(self, amount: float, attributes: Any = None, context: Context | None = None) -> None:
        """Queue a measurement with the context that its exemplar names."""
        waiting = self._waiting
        waiting.append((amount, attributes, get_current() if context is None else context))
        if len(waiting) >= BATCH:
            self._hand_over()

    def _collected(self, _: CallbackOptions) -> Iterable[Observation]:
        self._hand_over()
        return ()

    def _hand_over(self) -> None:
        try:
            while True:
                self._record(*self._waiting.popleft())
        except IndexError:
            return


class Pools:
    """SQLAlchemy's connection pools."""

    def __init__(self, meter: Meter) -> None:
        self._engines: weakref.WeakSet[Any] = weakref.WeakSet()
        meter.create_observable_up_down_counter(
            POOLS, [self._observe], "{connection}", "Connections of a pool by state"
        )

    def add(self, engine: Any) -> None:
        """Report the pool of an engine from now on."""
        self._engines.add(engine)

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        for engine in list(self._engines):
            used, idle = _state(engine.pool)
            url = engine.url
            name = f"{engine.name}://{url.host or ''}/{url.database or ''}"
            yield Observation(used, {"pool.name": name, "state": "used"})
            yield Observation(idle, {"pool.name": name, "state": "idle"})


def _state(pool: Any) -> tuple[int, int]:
    """Return the connections in use and idle; 0 for pools that hold none."""
    used, idle = getattr(pool, "checkedout", None), getattr(pool, "checkedin", None)
    return (used() if used else 0, idle() if idle else 0)
