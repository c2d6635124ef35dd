"""Record business transactions, events and KPIs.

In:  calls in the application: `with transaction("checkout")`, `kpi(...)`, `event(...)`.
Out: spans with the business context, baggage for the services downstream, metrics, log records.
"""

import functools
import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Literal, TypeVar, cast

from opentelemetry import baggage, metrics, trace
from opentelemetry._logs import LogRecord, SeverityNumber, get_logger
from opentelemetry.context import Context, attach, detach, get_current, set_value
from opentelemetry.trace import Status, StatusCode

from apm_analytics.instrument.correlation import CORRELATION, REQUEST
from apm_analytics.instrument.sampling import CRITICAL, Live, Policy
from apm_analytics.instrument.spans import LightSpan

SCOPE = "apm_analytics.instrument"
TRANSACTION = "business.transaction"
OPERATION = "business.operation"
# What travels as baggage and is added to every span below, under the lake's column names.
CARRIED = (TRANSACTION, OPERATION, "user.id", "organization.id", "session.id")
LONGEST_VALUE = 128  # characters of a baggage value
# Attributes with about as many values as requests: never on a metric.
UNBOUNDED = ("user.id", "organization.id", "session.id", "order.id", "cart.id", "request.id")
UNBOUNDED_PARTS = ("uuid", "email", "correlation", "trace_id", "timestamp")
OVERFLOW = {"otel.metric.overflow": True}  # OpenTelemetry's attribute for what a limit cuts off
Kind = Literal["counter", "histogram", "gauge"]
Function = TypeVar("Function", bound=Callable[..., Any])

_log = logging.getLogger(__name__)


def add_business_context(span: LightSpan) -> None:
    """Add to a span what baggage carried when it began, and the ids of a local root.

    Only spans that are sent get it: nine in ten are not. Attributes that the span has are kept.
    """
    context: dict[str, Any] = {}
    carried = baggage.get_all(span.within)
    if carried:
        context = {key: str(carried[key])[:LONGEST_VALUE] for key in CARRIED if key in carried}
    if span.above is None:
        if correlation := span.within.get(CORRELATION):
            context["correlation.id"] = str(correlation)
        if request := span.within.get(REQUEST):
            context["request.id"] = str(request)
    if context:
        span.add_missing(context)


class transaction:
    """A business transaction: a span, and a context for everything below it.

    It is a context manager and a decorator, both for plain and async code. An exception of the
    application passes through and marks the transaction as failed; errors of ours never reach
    the application.

    Parameters
    ----------
    name : name of the process, as in specs/transactions.yaml: few names, no ids.
    user_id, organization_id, session_id : propagated to the services downstream.
    operation : the step within the transaction.
    critical : always keep its trace; APM_CRITICAL_TRANSACTIONS does the same by name.
    attributes : further attributes of its span, by their full names.

    Examples
    --------
    >>> with transaction("checkout", user_id="u1", organization_id="o1") as tx:
    ...     tx.set("cart.items", 3)
    >>> @transaction("refund")
    ... async def refund(order: str) -> None: ...
    """

    live = Live(Policy())  # replaced by the wiring, so that critical names can change

    def __init__(
        self,
        name: str,
        *,
        user_id: str | None = None,
        organization_id: str | None = None,
        session_id: str | None = None,
        operation: str | None = None,
        critical: bool = False,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self._name = name
        given = zip(CARRIED, (name, operation, user_id, organization_id, session_id), strict=True)
        self._carried = {key: str(value) for key, value in given if value is not None}
        self._critical = critical
        self._attributes = dict(attributes or {})
        self._span: trace.Span = trace.INVALID_SPAN
        self._token: Token[Context] | None = None

    def set(self, key: str, value: Any) -> None:
        """Set an attribute of the transaction's span."""
        self._span.set_attribute(key, value)

    def fail(self, reason: str) -> None:
        """Mark the transaction as failed without an exception."""
        self._span.set_status(Status(StatusCode.ERROR, reason))

    def __enter__(self) -> "transaction":
        try:
            self._begin()
        except Exception:
            _log.debug("transaction %s is not recorded", self._name, exc_info=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, Exception):
                self._span.record_exception(error)
                self._span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
            self._span.end()
            if self._token is not None:
                detach(self._token)
        except Exception:
            _log.debug("transaction %s could not be ended", self._name, exc_info=True)

    async def __aenter__(self) -> "transaction":
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: Function) -> Function:
        """Make every call of a function a transaction of its own."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def traced_async(*args: Any, **kwargs: Any) -> Any:
                with self._copy():
                    return await function(*args, **kwargs)

            return cast(Function, traced_async)

        @functools.wraps(function)
        def traced(*args: Any, **kwargs: Any) -> Any:
            with self._copy():
                return function(*args, **kwargs)

        return cast(Function, traced)

    def _copy(self) -> "transaction":
        other = transaction(self._name, critical=self._critical, attributes=self._attributes)
        other._carried = self._carried
        return other

    def _begin(self) -> None:
        above = trace.get_current_span()
        context = get_current()
        outermost = TRANSACTION not in baggage.get_all(context)
        for key, value in self._carried.items():
            context = baggage.set_baggage(key, value, context)
        if self._critical or self._name in self.live.policy.critical_transactions:
            context = set_value(CRITICAL, True, context)
        self._span = trace.get_tracer(SCOPE).start_span(
            self._name, context, attributes=self._attributes
        )
        self._token = attach(trace.set_span_in_context(self._span, context))
        if outermost and above.is_recording():  # the span of its request
            above.set_attributes(self._carried)


def event(name: str, body: str = "", **attributes: Any) -> None:
    """Record a business event as a log record with an event name, tied to the current span.

    Examples
    --------
    >>> event("order.placed", order_total=42.0)
    """
    try:
        carried = baggage.get_all()
        context = {key: str(carried[key])[:LONGEST_VALUE] for key in CARRIED if key in carried}
        get_logger(SCOPE).emit(
            LogRecord(
                context=get_current(),
                severity_number=SeverityNumber.INFO,
                severity_text="INFO",
                body=body or name,
                event_name=name,
                attributes={**context, **attributes},
            )
        )
    except Exception:
        _log.debug("event %s is lost", name, exc_info=True)


class _Kpis:
    """The instruments of this process's KPIs; warns once per problem."""

    def __init__(self) -> None:
        self.max_series = 100
        self._instruments: dict[str, tuple[Kind, str, Any]] = {}
        self._series: dict[str, set[Any]] = {}
        self._values: dict[tuple[str, str], set[Any]] = {}
        self._warned: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def record(
        self, name: str, value: float, unit: str, kind: Kind, attributes: dict[str, Any]
    ) -> None:
        made_as, made_unit, instrument = self._instrument(name, unit, kind)
        if (made_as, made_unit) != (kind, unit):
            self._warn(
                name,
                "unit",
                f"KPI {name} is a {made_as} in {made_unit!r}, found a {kind} in {unit!r}: this "
                "value is not recorded; use one kind and unit per KPI, or another name",
            )
            return
        if kind == "counter" and not value >= 0:
            self._warn(
                name,
                "negative",
                f"KPI {name}: found {value}, a counter needs values >= 0: it is not recorded; "
                'use kind="histogram", or a separate KPI for refunds and the like',
            )
            return
        bounded = self._bounded(name, attributes)
        write = {"counter": "add", "histogram": "record", "gauge": "set"}[kind]
        getattr(instrument, write)(value, bounded)

    def _instrument(self, name: str, unit: str, kind: Kind) -> tuple[Kind, str, Any]:
        known = self._instruments.get(name)
        if known is None:
            with self._lock:
                known = self._instruments.get(name)
                if known is None:
                    meter = metrics.get_meter(SCOPE)
                    make: Any = {
                        "counter": meter.create_counter,
                        "histogram": meter.create_histogram,
                        "gauge": meter.create_gauge,
                    }[kind]
                    known = self._instruments[name] = (kind, unit, make(name, unit))
        return known

    def _bounded(self, name: str, attributes: dict[str, Any]) -> dict[str, Any]:
        """Return the attributes that may be put on a metric, or the overflow set."""
        for key in [key for key in attributes if _is_unbounded(key)]:
            del attributes[key]
            self._warn(
                name,
                key,
                f"KPI {name}: attribute {key} has about as many values as requests and is left "
                "out; put it on an event() or a transaction",
            )
        series = self._series.setdefault(name, set())
        attribute_set = tuple(sorted((key, str(value)) for key, value in attributes.items()))
        if attribute_set in series:
            return attributes
        with self._lock:
            if len(series) < self.max_series:
                series.add(attribute_set)
                for key, text in attribute_set:
                    self._values.setdefault((name, key), set()).add(text)
                return attributes
        counts = {key: len(self._values.get((name, key), ())) for key in attributes}
        worst = max(counts, key=lambda key: counts[key], default="")
        self._warn(
            name,
            "",
            f"KPI {name} has {self.max_series} attribute sets, the limit: further ones are "
            f"recorded together as otel.metric.overflow; attribute {worst!r} has {counts[worst]} "
            "values, choose a coarser one or raise APM_KPI_MAX_SERIES",
        )
        return dict(OVERFLOW)

    def _warn(self, name: str, about: str, text: str) -> None:
        if (name, about) not in self._warned:
            self._warned.add((name, about))
            _log.warning(text)


_kpis = _Kpis()


def kpi(
    name: str, value: float, *, unit: str = "1", kind: Kind = "counter", **attributes: Any
) -> None:
    """Record a business figure as a metric.

    Parameters
    ----------
    name : name of the metric, as in specs/kpis.yaml; always with the same unit and kind.
    value : >= 0 for a counter.
    unit : UCUM or a currency: "EUR", "{order}", "1".
    kind : "counter" adds up (revenue, orders), "histogram" keeps the distribution (basket size),
        "gauge" the last value (open carts).
    attributes : with few values each (currency, segment); `_` in a name becomes `.`. Ids are left
        out with a warning; sets beyond APM_KPI_MAX_SERIES are recorded together.

    Examples
    --------
    >>> kpi("revenue", 42.0, unit="EUR", segment="retail")
    """
    try:
        dotted = {key.replace("_", "."): value for key, value in attributes.items()}
        _kpis.record(name, value, unit, kind, dotted)
    except Exception:
        _log.debug("KPI %s is lost", name, exc_info=True)


def limit_series(count: int) -> None:
    """Set how many attribute sets a KPI may have."""
    _kpis.max_series = count


def _is_unbounded(key: str) -> bool:
    dotted = key.lower().replace("_", ".")
    return dotted in UNBOUNDED or any(part in key.lower() for part in UNBOUNDED_PARTS)
