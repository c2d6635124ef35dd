"""Instrument SQLAlchemy engines whose creation contrib's instrumentation does not see.

In:  every connection that an engine hands out, through SQLAlchemy's own event.
Out: the engine is instrumented by contrib's `EngineTracer` and its pool reported, once.

Contrib wraps `sqlalchemy.create_engine`. An application that imports the function before it
calls `setup`, as most do, creates its engines with the unwrapped function.
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
        """Instrument the engine of a connection from its first statement on; never raises."""
        engine = connection.engine
        if engine in self._known:
            return
        self._known.add(engine)
        try:
            self._pools.add(engine)
            self._watch(engine)
        except Exception:
            _log.exception("the engine %s is not instrumented", engine)

    def _watch(self, engine: Any) -> None:
        from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer

        listeners = engine.dispatch.before_cursor_execute
        if any(
            isinstance(getattr(listener, "__self__", None), EngineTracer) for listener in listeners
        ):
            return
        # Pools are counted by `meters.Pools`.
        usage = NoOpUpDownCounter(POOLS)
        EngineTracer(self._tracer, engine, usage)  # type: ignore[no-untyped-call]
