"""Build the calls of a request, with attributes of OpenTelemetry's conventions.

In:  caller, callee and typical duration.
Out: `Call` trees.

Placeholders such as `<user>` in attribute values stand for values of the request (`SLOTS`, fixed
width). Times are medians in milliseconds; ratios are per call.
"""

from collections.abc import Mapping
from dataclasses import dataclass

NAMESPACE = "shop"
# Values that differ between requests, and their width in bytes.
SLOTS: dict[str, int] = {
    "user": 10,
    "session": 16,
    "organization": 6,
    "product": 4,
    "order": 8,
    "cart": 8,
    "client": 14,
}
EDGE = "storefront"  # the service that browsers call
FAILED_STATUS = 500


@dataclass(frozen=True)
class Call:
    """One span of a request with the calls below it, which run one after the other."""

    service: str
    name: str
    kind: str  # server, client, internal, producer, consumer
    scope: str
    own_ms: float  # without its children
    attributes: Mapping[str, str | int | float]
    children: tuple["Call", ...] = ()
    then: "Call | None" = None  # consumes the message of this one, in a separate trace
    share: float = 1.0  # share of its parent's requests that make this call
    spread: float = 0.3  # sigma of the log-normal own time
    load: float = 0.2  # increase of the own time at twice the mean load
    failing: float = 0.0
    error_type: str = "RuntimeError"
    error_text: str = "unexpected state"
    peer: str = ""
    log_event: str = ""  # event name of a log record on success


def server(
    service: str,
    method: str,
    route: str,
    own_ms: float,
    *children: Call,
    path: str = "",
    status: int = 200,
    attributes: Mapping[str, str] | None = None,
    failing: float = 0.002,
    error: tuple[str, str] = ("RuntimeError", "unexpected state"),
    log_event: str = "",
) -> Call:
    """Return a request that a service answers."""
    edge = service == EDGE
    person = {"user.id": "<user>", "session.id": "<session>", "client.address": "<client>"}
    return Call(
        service=service,
        name=f"{method} {route}",
        kind="server",
        scope="opentelemetry.instrumentation.fastapi",
        own_ms=own_ms,
        attributes={
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "url.path": path or route,
            "url.scheme": "https" if edge else "http",
            "server.address": "shop.example" if edge else f"{service}.{NAMESPACE}.svc",
            "server.port": 443 if edge else 8080,
            **(person if edge else {}),
            **(attributes or {}),
        },
        children=children,
        failing=failing,
        error_type=error[0],
        error_text=error[1],
        log_event=log_event,
    )


def http(caller: str, callee: Call, share: float = 1.0) -> Call:
    """Return a service's call to an operation of another one."""
    return Call(
        service=caller,
        name=callee.name,
        kind="client",
        scope="opentelemetry.instrumentation.httpx",
        own_ms=0.9,
        attributes={
            "http.request.method": callee.attributes["http.request.method"],
            "url.template": callee.attributes["http.route"],
            "http.response.status_code": callee.attributes["http.response.status_code"],
            "server.address": callee.attributes["server.address"],
            "server.port": callee.attributes["server.port"],
            "peer.service": callee.service,
        },
        children=(callee,),
        share=share,
        peer=callee.service,
    )


def postgres(
    service: str, operation: str, table: str, text: str, own_ms: float, share: float = 1.0
) -> Call:
    """Return a query of a service's own database."""
    return Call(
        service=service,
        name=f"{operation} {table}",
        kind="client",
        scope="opentelemetry.instrumentation.psycopg",
        own_ms=own_ms,
        attributes={
            "db.system.name": "postgresql",
            "db.namespace": service,
            "db.operation.name": operation,
            "db.collection.name": table,
            "db.query.text": text,
            "db.query.summary": f"{operation} {table}",
            "server.address": f"{service}-db.{NAMESPACE}.svc",
            "server.port": 5432,
        },
        share=share,
        load=0.3,
        failing=0.0008,
        error_type="psycopg.errors.QueryCanceled",
        error_text="canceling statement due to statement timeout",
        peer=f"{service}-db",
    )


def redis(service: str, operation: str, text: str, own_ms: float, share: float = 1.0) -> Call:
    """Return a command to a service's own cache."""
    return Call(
        service=service,
        name=operation,
        kind="client",
        scope="opentelemetry.instrumentation.redis",
        own_ms=own_ms,
        attributes={
            "db.system.name": "redis",
            "db.namespace": "0",
            "db.operation.name": operation,
            "db.query.text": text,
            "server.address": f"{service}-cache.{NAMESPACE}.svc",
            "server.port": 6379,
        },
        share=share,
        failing=0.0004,
        error_type="redis.exceptions.TimeoutError",
        error_text="Timeout reading from socket",
        peer=f"{service}-cache",
    )
