"""Watch SQLAlchemy engines that contrib's instrumentation cannot see being made.

In:  every connection that an engine hands out, by SQLAlchemy's own event.
Out: the engine watched by contrib's `EngineTracer`, and its pool reported, once.

Contrib wraps `sqlalchemy.create_engine`. An application that has imported the function before
`setup` was called, as most do, makes its engines by the function that is not wrapped.
"""

import logging
import weakref
from typing import Any

from opentelemetry.metrics import NoOpUpDownCounter
from opentelemetry.trace import Tracer

from apm_analytics.instrument.meters import POOLS, Pools

_log = logging.getLogger(__name__)


class Engines:
    """The engines of this process."""

    def __init__(self, tracer: Tracer, pools: Pools) -> None:
        self._tracer = tracer
        self._pools = pools
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def saw(self, connection: Any) -> None:
        """Watch the engine of a connection from its first statement on; never raises."""
        engine = connection.engine
        if engine in self._known:
            return
        self._known.add(engine)
        try:
            self._pools.add(engine)
            self._watch(engine)
        except Exception:
            _log.exception("the engine %s is not watched", engine)

    def _watch(self, engine: Any) -> None:
        from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer

        listeners = engine.dispatch.before_cursor_execute
        if any(isinstance(getattr(one, "__self__", None), EngineTracer) for one in listeners):
            return
        # Pools are counted by `meters.Pools`.
        usage = NoOpUpDownCounter(POOLS)
        EngineTracer(self._tracer, engine, usage)  # type: ignore[no-untyped-call]
