"""Propagate the ids of a request: W3C trace context, X-Correlation-ID and X-Request-ID.

In:  headers of an incoming request.
Out: the ids in the context, on outgoing calls to our own hosts, in answers, and in every log line.

Baggage and the X-ids are sent to our own hosts only; calls to other hosts carry neither. The caller
marks a call with `calls_host` just before its headers are written.
"""

import logging
import random
import re
from collections.abc import Iterable, MutableMapping
from contextvars import ContextVar
from fnmatch import translate
from functools import lru_cache
from typing import Any

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, create_key, get_current, get_value, set_value
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import get_current_span

CORRELATION_HEADER = "x-correlation-id"
REQUEST_HEADER = "x-request-id"
BAGGAGE_HEADER = "baggage"
CORRELATION = create_key("apm-correlation-id")
REQUEST = create_key("apm-request-id")
# Log format where the application has configured none.
LOG_FORMAT = (
    "%(asctime)s %(levelname)s %(name)s [correlation_id=%(correlation_id)s "
    "request_id=%(request_id)s] %(message)s"
)

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")
_ours: ContextVar[bool] = ContextVar("apm_call_is_ours", default=False)


class OwnHosts:
    """Recognise our own hosts by globs; a name without a dot is always ours.

    Examples
    --------
    >>> hosts = OwnHosts(("*.shop.example",))
    >>> hosts.holds("cart.shop.example"), hosts.holds("cart"), hosts.holds("example.com")
    (True, True, False)
    """

    def __init__(self, globs: tuple[str, ...]) -> None:
        self._match = [re.compile(translate(glob.lower())).fullmatch for glob in globs]
        self.holds = lru_cache(maxsize=1024)(self._holds)

    def _holds(self, host: str) -> bool:
        host = host.lower().strip("[]").rstrip(".")
        if not host:
            return False
        single = "." not in host and ":" not in host
        return single or any(match(host) for match in self._match)


def calls_host(ours: bool) -> None:
    """Set whether the next headers written in this context go to a host of ours."""
    _ours.set(ours)


def correlation_id(context: Context | None = None) -> str | None:
    """Return the id shared by everything one user action caused: as received, else the trace id."""
    received = get_value(CORRELATION, context)
    if isinstance(received, str):
        return received
    span = get_current_span(context).get_span_context()
    return f"{span.trace_id:032x}" if span.is_valid else None


def request_id(context: Context | None = None) -> str | None:
    """Return the id of the current request: as received, else generated here."""
    value = get_value(REQUEST, context)
    return value if isinstance(value, str) else None


class CorrelationPropagator(TextMapPropagator):
    """Read the X-ids from requests; send them to our own hosts."""

    def extract(
        self, carrier: Any, context: Context | None = None, getter: Getter[Any] = default_getter
    ) -> Context:
        """Read the ids from a request's headers; generate a request id where there is none."""
        context = get_current() if context is None else context
        correlation, request = _received(carrier, getter)
        if correlation and _ID.fullmatch(correlation):
            context = set_value(CORRELATION, correlation, context)
        if not (request and _ID.fullmatch(request)):
            request = f"{random.getrandbits(128):032x}"
        return set_value(REQUEST, request, context)

    def inject(
        self, carrier: Any, context: Context | None = None, setter: Setter[Any] = default_setter
    ) -> None:
        """Write the ids on a call to a host of ours; remove them from other calls."""
        ours = _ours.get()
        for header, value in (
            (CORRELATION_HEADER, correlation_id(context)),
            (REQUEST_HEADER, request_id(context)),
        ):
            if value and ours:
                setter.set(carrier, header, value)
            elif value and isinstance(carrier, MutableMapping) and carrier.get(header) == value:
                del carrier[header]  # copied by a redirect

    @property
    def fields(self) -> set[str]:
        """The headers that are written."""
        return {CORRELATION_HEADER, REQUEST_HEADER}


class OwnBaggagePropagator(W3CBaggagePropagator):
    """Read baggage from every request; send it to our own hosts only."""

    def inject(
        self, carrier: Any, context: Context | None = None, setter: Setter[Any] = default_setter
    ) -> None:
        """Write baggage on a call to a host of ours; remove it from other calls."""
        if _ours.get():
            super().inject(carrier, context, setter)
        elif isinstance(carrier, MutableMapping):
            carrier.pop(BAGGAGE_HEADER, None)


def identify_answer(message: Any) -> None:
    """Add the ids to the start of an ASGI response, unless the application has set them."""
    headers = message.get("headers") or ()
    present = {bytes(name).lower() for name, _ in headers}
    added = [
        (header, value.encode())
        for header, value in (
            (CORRELATION_HEADER.encode(), correlation_id()),
            (REQUEST_HEADER.encode(), request_id()),
        )
        if value and header not in present
    ]
    # A new list: the response may reuse the old one.
    message["headers"] = [*headers, *added]


def identify_log_records() -> None:
    """Add `correlation_id` and `request_id` ("-" without) to every log record of this process."""
    made_before = logging.getLogRecordFactory()
    if getattr(made_before, "identifies", False):
        return

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = made_before(*args, **kwargs)
        try:
            record.correlation_id = correlation_id() or "-"
            record.request_id = request_id() or "-"
        except Exception:
            record.correlation_id = record.request_id = "-"
        return record

    make.identifies = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make)


def _received(carrier: Any, getter: Getter[Any]) -> tuple[str | None, str | None]:
    raw = raw_headers(carrier)
    if raw is not None:
        correlation = request = None
        for name, value in raw:
            if name == b"x-correlation-id":
                correlation = value.decode("latin-1")
            elif name == b"x-request-id":
                request = value.decode("latin-1")
        return correlation, request
    first = (getter.get(carrier, header) for header in (CORRELATION_HEADER, REQUEST_HEADER))
    correlation, request = (values[0] if values else None for values in first)
    return correlation, request


def raw_headers(carrier: Any) -> Iterable[tuple[bytes, bytes]] | None:
    """Return the headers of an ASGI scope or Starlette's `Headers`; None for other carriers."""
    if isinstance(carrier, dict):
        return carrier.get("headers") if "type" in carrier else None
    headers = getattr(carrier, "raw", None)
    return headers if isinstance(headers, list) else None


class Propagation(CompositePropagator):
    """Run the propagators in turn; one without a header in the request is skipped.

    Otherwise each would decode all headers of a request, once per header of its own.
    """

    def __init__(self, parts: list[TextMapPropagator], always: TextMapPropagator) -> None:
        super().__init__([*parts, always])
        self._parts = [(frozenset(name.encode() for name in part.fields), part) for part in parts]
        self._always = always

    def extract(
        self, carrier: Any, context: Context | None = None, getter: Getter[Any] = default_getter
    ) -> Context:
        """Extract the context by every part with a header in the request."""
        raw = raw_headers(carrier)
        names = None if raw is None else {name for name, _ in raw}
        for fields, part in self._parts:
            if names is None or not fields.isdisjoint(names):
                context = part.extract(carrier, context, getter)
        return self._always.extract(carrier, context, getter)
