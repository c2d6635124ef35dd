"""Instrument a service with one call; no error of ours is raised into it.

In:  a FastAPI application (or none, for a worker), `InstrumentSettings`.
Out: OpenTelemetry's providers and propagators set, contrib's instrumentations of the
     installed libraries switched on, the application's requests instrumented.
"""

import asyncio
import atexit
import gc
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import wrapt
from opentelemetry import _logs, metrics, propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from apm_analytics.instrument import profiling
from apm_analytics.instrument.business import limit_series, transaction
from apm_analytics.instrument.calls import CallHooks
from apm_analytics.instrument.config import InstrumentSettings
from apm_analytics.instrument.correlation import (
    LOG_FORMAT,
    CorrelationPropagator,
    OwnBaggagePropagator,
    OwnHosts,
    Propagation,
    identify_log_records,
)
from apm_analytics.instrument.engines import Engines
from apm_analytics.instrument.meters import LEFT_OUT_HTTP, POOLS, FewerMeters, Pools
from apm_analytics.instrument.pipeline import Pipeline
from apm_analytics.instrument.remote import RemoteSettings
from apm_analytics.instrument.requests import watch_requests

# Current names of HTTP and database attributes, as in the lake's columns.
STABLE_NAMES = ("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")
PROCESS_METRICS: dict[str, list[str] | None] = {
    "process.cpu.time": ["user", "system"],
    "process.cpu.utilization": ["user", "system"],
    "process.memory.usage": None,
    "process.memory.virtual": None,
    "process.open_file_descriptor.count": None,
    "process.thread.count": None,
    "process.context_switches": ["involuntary", "voluntary"],
    "cpython.gc.collections": None,
    "cpython.gc.collected_objects": None,
    "system.cpu.utilization": ["idle", "user", "system", "iowait"],
    "system.memory.utilization": ["used", "free", "cached"],
}
# Default thresholds of young collections: up to 3.12, since 3.13. Others are left as they are.
PYTHONS_THRESHOLDS = ((700, 10), (2000, 10))
YOUNG_OBJECTS = 10_000  # those of a few requests, about a megabyte
# Contrib's instrumentations that are switched on at once, and those of libraries, switched on when
# the application imports the library: none is loaded for them.
AT_ONCE = ("logging", "system_metrics")
LIBRARIES = ("sqlalchemy", "psycopg", "redis", "httpx")

_log = logging.getLogger(__name__)
_pipeline: Pipeline | None = None
_switched_on: set[str] = set()


def setup(app: Any = None, settings: InstrumentSettings | None = None) -> Pipeline | None:
    """Instrument a service; call once before the first request, again per further application.

    Parameters
    ----------
    app : a FastAPI application; None for a process without one.
    settings : by default those of the environment.

    Returns
    -------
    The pipeline. None when APM_ENABLED or OTEL_SDK_DISABLED switches it off, or when the set-up
    fails: the failure is logged, and the application runs without instrumentation.
    """
    try:
        pipeline = start(settings)
        if pipeline is not None:
            for name in (*AT_ONCE, *LIBRARIES):
                instrument_library(name, pipeline)
            if app is not None:
                watch_application(app, pipeline)
        return pipeline
    except Exception:
        _log.exception("this service is not instrumented: the set-up failed")
        return None


def start(
    settings: InstrumentSettings | None = None, resource_attributes: dict[str, Any] | None = None
) -> Pipeline | None:
    """Set the providers and propagators of this process, once; return the pipeline."""
    global _pipeline
    settings = settings or InstrumentSettings.from_environment()
    if not settings.enabled or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if _pipeline is not None:
        return _pipeline
    os.environ.setdefault(*STABLE_NAMES)
    pipeline = Pipeline(settings, Resource.create(resource_attributes or {}))
    trace.set_tracer_provider(pipeline.traces)
    metrics.set_meter_provider(FewerMeters(pipeline.meters, LEFT_OUT_HTTP))
    _logs.set_logger_provider(pipeline.logs)
    propagate.set_global_textmap(_propagator())
    identify_log_records()
    limit_series(settings.kpi_max_series)
    transaction.live = pipeline.live
    profiling.watch_heap(pipeline.meters.get_meter(profiling.SCOPE))
    if settings.sampling_source:
        RemoteSettings(
            settings.sampling_source,
            pipeline.live,
            poll_s=settings.sampling_poll_s,
            on_memory=lambda seconds: _watch_memory(seconds, pipeline),
        ).begin()
    atexit.register(pipeline.close, settings.shutdown_s)
    _flush_where_workers_end(pipeline)
    _pipeline = pipeline
    return pipeline


def instrument_library(name: str, pipeline: Pipeline) -> None:
    """Switch on contrib's instrumentation, once, if it is installed; of a library when it loads."""

    def switch_on(_: Any = None) -> None:
        if name in _switched_on:
            return
        try:
            _LIBRARIES[name](pipeline)
            _switched_on.add(name)
        except ImportError:
            pass
        except Exception:
            _log.exception("%s is not instrumented: it could not be switched on", name)

    if name in LIBRARIES:
        wrapt.register_post_import_hook(switch_on, name)
    else:
        switch_on()


def watch_application(app: Any, pipeline: Pipeline) -> None:
    """Instrument the requests of a FastAPI application; flush its telemetry when it ends."""
    watch_requests(app, pipeline)
    _follow_lifespan(app, pipeline)


def _follow_lifespan(app: Any, pipeline: Pipeline) -> None:
    """Freeze long-lived objects when the application starts; flush telemetry when it ends.

    A server that is stopped by a signal ends without running the interpreter's exit handlers.
    """
    router = getattr(app, "router", None)
    inside = getattr(router, "lifespan_context", None)
    if router is None or inside is None:
        return

    @asynccontextmanager
    async def lifespan(application: Any) -> AsyncIterator[Any]:
        _freeze_long_lived()  # before the application reports that it is ready
        async with inside(application) as state:
            yield state
        await asyncio.to_thread(pipeline.flush, pipeline.settings.shutdown_s)

    router.lifespan_context = lifespan


def _flush_where_workers_end(pipeline: Pipeline) -> None:
    """Flush when a worker process ends that does not run the interpreter's exit handlers.

    They are those of multiprocessing (also concurrent.futures), and of Celery, whose
    `--max-tasks-per-child 1` ends one after each task.
    """

    def flush(**_: Any) -> None:
        pipeline.flush(pipeline.settings.shutdown_s)

    def in_celery(signals: Any) -> None:
        signals.worker_process_shutdown.connect(flush, weak=False)

    def in_multiprocessing(util: Any) -> None:
        def at_its_end(_: Any = None) -> None:
            util.Finalize(None, flush, exitpriority=0)

        util.register_after_fork(pipeline, at_its_end)
        at_its_end()

    wrapt.register_post_import_hook(in_celery, "celery.signals")
    wrapt.register_post_import_hook(in_multiprocessing, "multiprocessing.util")


def _freeze_long_lived() -> None:
    """Exclude the modules, classes and routes of a service from garbage collection.

    They are about 300,000 objects that live as long as the process; each full collection would
    walk them in the middle of a request, for a tenth of a second. Young objects are collected
    less often, too: Python's default of 700 is less than one request has live.
    """
    if not gc.isenabled():
        return
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
        # Otherwise nothing of it is freed at exit, and libraries that count objects report leaks.
        atexit.register(gc.unfreeze)
    young, middle, old = gc.get_threshold()
    if (young, middle) in PYTHONS_THRESHOLDS:
        gc.set_threshold(YOUNG_OBJECTS, middle, old)


def _propagator() -> Propagation:
    """Return the propagators of OTEL_PROPAGATORS, and ours for baggage and the X-ids."""
    names = os.environ.get("OTEL_PROPAGATORS", "tracecontext,baggage").split(",")
    known: dict[str, Callable[[], TextMapPropagator]] = {
        "tracecontext": TraceContextTextMapPropagator,
        "baggage": OwnBaggagePropagator,
    }
    propagators: list[TextMapPropagator] = []
    for name in (name.strip().lower() for name in names):
        if name in known:
            propagators.append(known[name]())
        elif name not in ("", "none"):
            _log.warning(
                "OTEL_PROPAGATORS: found %r, needs some of tracecontext, baggage; it is ignored",
                name,
            )
    return Propagation(propagators, CorrelationPropagator())


def _watch_memory(seconds: float, pipeline: Pipeline) -> None:
    profiling.memory_growth(seconds, pipeline.logs)


def _logging(pipeline: Pipeline) -> None:
    from opentelemetry.instrumentation.logging import LoggingInstrumentor

    if not logging.getLogger().handlers:
        logging.basicConfig(format=LOG_FORMAT)
    LoggingInstrumentor().instrument(tracer_provider=pipeline.traces)


def _sqlalchemy(pipeline: Pipeline) -> None:
    import sqlalchemy.event
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
    from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer
    from opentelemetry.instrumentation.utils import unwrap
    from sqlalchemy.engine import Engine

    _leave_pools_alone(EngineTracer)
    SQLAlchemyInstrumentor().instrument(
        tracer_provider=pipeline.traces, meter_provider=FewerMeters(pipeline.meters, (POOLS,))
    )
    unwrap(Engine, "connect")  # a span for every connection that the pool hands out
    sqlalchemy.event.listen(Engine, "do_connect", _connect_unwatched)
    engines = Engines(
        pipeline.traces.get_tracer("opentelemetry.instrumentation.sqlalchemy"),
        Pools(pipeline.meters.get_meter(__name__)),
    )
    sqlalchemy.event.listen(Engine, "engine_connect", engines.saw)


def _leave_pools_alone(tracer: Any) -> None:
    """Remove contrib's four calls per request that count connections: `Pools` reads them."""
    register = getattr(tracer, "_register_event_listener", None)
    if register is None or getattr(tracer, "leaves_pools_alone", False):
        return

    def register_others(target: Any, identifier: str, *args: Any, **kwargs: Any) -> None:
        if identifier not in ("connect", "close", "checkin", "checkout"):
            register(target, identifier, *args, **kwargs)

    tracer._register_event_listener = staticmethod(register_others)
    tracer.leaves_pools_alone = True


def _connect_unwatched(dialect: Any, record: Any, arguments: Any, options: Any) -> Any:
    """Let SQLAlchemy bypass psycopg's instrumentation; otherwise each query has two spans."""
    if dialect.driver != "psycopg":
        return None
    import psycopg

    connect = psycopg.AsyncConnection.connect if dialect.is_async else psycopg.connect
    plain = getattr(connect, "__wrapped__", None)
    if plain is None:
        return None
    if not dialect.is_async:
        return plain(*arguments, **options)
    options.setdefault("async_creator_fn", plain)
    return None


def _psycopg(pipeline: Pipeline) -> None:
    import psycopg  # noqa: F401
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor

    PsycopgInstrumentor().instrument(tracer_provider=pipeline.traces)


def _redis(pipeline: Pipeline) -> None:
    import redis  # noqa: F401
    from opentelemetry.instrumentation.redis import RedisInstrumentor

    RedisInstrumentor().instrument(tracer_provider=pipeline.traces)


def _httpx(pipeline: Pipeline) -> None:
    import httpx  # noqa: F401
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    hooks = CallHooks(OwnHosts(pipeline.settings.own_hosts), pipeline.settings.graph_hosts)
    HTTPXClientInstrumentor().instrument(
        tracer_provider=pipeline.traces,
        meter_provider=pipeline.meters,
        request_hook=hooks.request,
        response_hook=hooks.response,
        async_request_hook=hooks.request_later,
        async_response_hook=hooks.response_later,
    )


def _system_metrics(pipeline: Pipeline) -> None:
    from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor

    SystemMetricsInstrumentor(config=PROCESS_METRICS).instrument(meter_provider=pipeline.meters)


_LIBRARIES: dict[str, Callable[[Pipeline], None]] = {
    "logging": _logging,
    "sqlalchemy": _sqlalchemy,
    "psycopg": _psycopg,
    "redis": _redis,
    "httpx": _httpx,
    "system_metrics": _system_metrics,
}
