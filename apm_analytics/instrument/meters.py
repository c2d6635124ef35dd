"""Keep metrics off the path of a request where they can be recorded later, or are read by nobody.

In:  the SDK's meter provider.
Out: one for an instrumentation, without some instruments and with others that record in batches;
     SQLAlchemy's pools, read when collected.

A measurement of the SDK costs a request 20 to 40 microseconds, because its code is cold then; the
next ones in a row take 5.
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

# Body sizes and the number of running requests: no question of ours reads them.
LEFT_OUT_HTTP = (
    "http.server.active_requests",
    "http.server.request.body.size",
    "http.server.response.body.size",
)
POOLS = "db.client.connections.usage"  # counted up and down by contrib, read from the pool by us
BATCHED = ("http.server.request.duration",)
BATCH = 16  # measurements: a tenth of a millisecond for the request that hands them over


class FewerMeters(MeterProvider):
    """A meter provider whose meters make some instruments that record nothing, or in batches."""

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
    """A histogram whose measurements wait for each other; none waits when metrics are collected.

    Parameters
    ----------
    histogram : of the SDK.
    meter : tells when metrics are collected.
    """

    def __init__(self, histogram: Histogram, meter: Meter) -> None:
        self._record = histogram.record
        self._waiting: deque[tuple[float, Any, Context]] = deque()
        meter.create_observable_gauge("apm.batched", [self._collected])

    def record(self, amount: float, attributes: Any = None, context: Context | None = None) -> None:
        """Keep a measurement, and the context that its exemplar would name."""
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
    """Give the connections in use and at rest; pools that hold none say nothing."""
    used, idle = getattr(pool, "checkedout", None), getattr(pool, "checkedin", None)
    return (used() if used else 0, idle() if idle else 0)
