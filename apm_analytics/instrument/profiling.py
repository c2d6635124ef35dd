"""Profile requests per function with pyinstrument, and memory growth per allocation site.

In:  the local roots of requests, the share of time in which one may be profiled.
Out: log records: `profile.samples` with folded stacks ("a;b;c 1500", microseconds of wall time) and
     the trace and span id of the request; `memory.growth`, one per place in the code.

One request at a time is profiled, then none until the duty cycle allows it. pyinstrument follows
the request's context in the event loop; a handler that is not a coroutine is profiled in its
thread.
"""

import logging
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanKind, set_span_in_context

from apm_analytics.instrument.sampling import Live

SAMPLES = "profile.samples"
GROWTH = "memory.growth"
INTERVAL_S = 0.005  # at least the coarse clock's 4 ms; reading that clock is cheap
ABANDONED_S = 60.0  # a profile whose request never ended
DEEPEST = 128  # frames kept per stack, from the leaf
MOST_STACKS = 500  # kept per profile
SCOPE = "apm_analytics.instrument.profiling"

_log = logging.getLogger(__name__)


class _Run:
    """The profile of one request: the event loop's profiler, and the sessions of its threads."""

    def __init__(self, span_id: int, profiler: Any) -> None:
        self.span_id = span_id
        self.profiler = profiler
        self.sessions: list[Any] = []
        self.started_s = time.monotonic()


_present: ContextVar[_Run | None] = ContextVar("apm_profile", default=None)


class RequestProfiler(SpanProcessor):
    """Profile requests on a duty cycle while the policy enables it.

    Parameters
    ----------
    live : the current policy; its `profiling_enabled` may change.
    logs : receives the profiles as log records.
    duty : share of time in which a request is profiled.
    """

    def __init__(self, live: Live, logs: LoggerProvider, duty: float) -> None:
        self._live = live
        self._logger = logs.get_logger(SCOPE)
        self._duty = max(duty, 0.001)
        self._run: _Run | None = None
        self._next_s = 0.0
        self._lock = threading.Lock()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Start a profile with a request, when the duty cycle allows it."""
        if not self._live.policy.profiling_enabled or span.kind is not SpanKind.SERVER:
            return
        now = time.monotonic()
        if now < self._next_s or not self._lock.acquire(blocking=False):
            return
        try:
            if self._run is not None and now - self._run.started_s < ABANDONED_S:
                return
            from pyinstrument import Profiler

            profile_in_threads()
            profiler = Profiler(interval=INTERVAL_S, async_mode="enabled")
            run = _Run(span.get_span_context().span_id, profiler)
            profiler.start()
            self._run = run
            _present.set(run)
        except Exception:
            self._next_s = now + ABANDONED_S
            _log.debug("no profile", exc_info=True)
        finally:
            self._lock.release()

    def on_end(self, span: ReadableSpan) -> None:
        """End the profile of this request and send it."""
        run = self._run
        if run is None or span.context is None or run.span_id != span.context.span_id:
            return
        try:
            self._run = None
            _present.set(None)
            spent_s = time.monotonic() - run.started_s
            self._next_s = time.monotonic() + spent_s * (1 / self._duty - 1)
            session = run.profiler.stop()
            self._emit(span, fold(run.sessions or [session]))
        except Exception:
            _log.debug("a profile is lost", exc_info=True)

    def _emit(self, span: ReadableSpan, stacks: Counter[str]) -> None:
        if not stacks or span.context is None:
            return
        lines = [f"{stack} {value}" for stack, value in stacks.most_common(MOST_STACKS)]
        self._logger.emit(
            LogRecord(
                timestamp=span.end_time,
                context=set_span_in_context(NonRecordingSpan(span.context), Context()),
                severity_number=SeverityNumber.INFO,
                severity_text="INFO",
                body="\n".join(lines),
                event_name=SAMPLES,
                attributes={
                    "profile.type": "wall",
                    "profile.unit": "us",
                    "profile.operation": span.name,
                },
            )
        )


def fold(sessions: Iterable[Any]) -> Counter[str]:
    """Return the wall time in microseconds per folded stack of pyinstrument sessions."""
    stacks: Counter[str] = Counter()
    for session in sessions:
        for frames, seconds in session.frame_records:
            names = [_name(frame) for frame in frames[-DEEPEST:]]
            stacks[";".join(name for name in names if name)] += round(seconds * 1e6)
    return Counter({stack: value for stack, value in stacks.items() if stack and value > 0})


def profile_in_threads() -> None:
    """Wrap FastAPI's thread pool, so that handlers in its threads are profiled too."""
    routing = sys.modules.get("fastapi.routing")
    run = getattr(routing, "run_in_threadpool", None)
    if run is None or getattr(run, "profiles", False):
        return

    async def run_profiled(handler: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        present = _present.get()
        if present is not None:
            handler = _profiled(handler, present)
        return await run(handler, *args, **kwargs)

    run_profiled.profiles = True  # type: ignore[attr-defined]
    routing.run_in_threadpool = run_profiled  # type: ignore[union-attr]


def _profiled(function: Callable[..., Any], run: _Run) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        profiler = None
        try:
            from pyinstrument import Profiler

            profiler = Profiler(interval=INTERVAL_S, async_mode="disabled")
            profiler.start()
        except Exception:
            profiler = None
        try:
            return function(*args, **kwargs)
        finally:
            if profiler is not None:
                try:
                    run.sessions.append(profiler.stop())
                except Exception:
                    _log.debug("a thread's profile is lost", exc_info=True)

    return call


def _name(frame: str) -> str:
    """Return `package/module.py:function` of a pyinstrument frame, without spaces or semicolons."""
    function, _, rest = frame.partition("\x00")
    path = rest.partition("\x00")[0]
    if path.startswith("<") or not path:
        return function.strip("<>").replace(" ", "_").replace(";", ",")
    parts = path.replace("\\", "/").split("/")
    return f"{'/'.join(parts[-2:])}:{function}".replace(" ", "_").replace(";", ",")


def watch_heap(meter: Meter) -> None:
    """Report the blocks that Python's allocator holds; contrib reports the resident memory."""

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(sys.getallocatedblocks())

    meter.create_observable_gauge(
        "cpython.allocated_blocks", [observe], "{block}", "Memory blocks of Python's allocator"
    )


def memory_growth(seconds: float, logs: LoggerProvider, *, top: int = 20) -> threading.Thread:
    """Trace allocations for a while and send where memory grew, one log record per place.

    Parameters
    ----------
    seconds : duration; tracing slows the process by about a third meanwhile.
    logs : receives the records.
    top : number of places, the largest growth first.

    Returns
    -------
    The thread that does it, started.
    """

    def watch() -> None:
        began_here = not tracemalloc.is_tracing()
        try:
            if began_here:
                tracemalloc.start(1)
            before = tracemalloc.take_snapshot()
            time.sleep(seconds)
            grown = tracemalloc.take_snapshot().compare_to(before, "lineno")
            logger = logs.get_logger(SCOPE)
            for growth in [site for site in grown if site.size_diff > 0][:top]:
                place = growth.traceback[0]
                logger.emit(
                    LogRecord(
                        timestamp=time.time_ns(),
                        severity_number=SeverityNumber.INFO,
                        severity_text="INFO",
                        body=f"{growth.size_diff} bytes at {place.filename}:{place.lineno}",
                        event_name=GROWTH,
                        attributes={
                            "code.file.path": place.filename,
                            "code.line.number": place.lineno,
                            "memory.growth.bytes": growth.size_diff,
                            "memory.growth.blocks": growth.count_diff,
                            "memory.seconds": seconds,
                        },
                    )
                )
        except Exception:
            _log.debug("memory was not watched", exc_info=True)
        finally:
            if began_here:
                tracemalloc.stop()

    thread = threading.Thread(target=watch, name="apm-memory", daemon=True)
    thread.start()
    return thread
