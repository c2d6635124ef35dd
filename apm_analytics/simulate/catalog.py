"""The shop that is simulated: services, operations, what calls what, what goes wrong when.

In:  nothing; this is the specification.
Out: `JOURNEYS` (one tree of spans a kind of request), `INCIDENTS`, `DEPLOYMENTS`.
"""

from dataclasses import dataclass, field

ENVIRONMENT = "production"
NAMESPACE = "shop"
INSTANCES = 2
SERVICES = ("storefront", "catalog", "cart", "checkout", "payment", "inventory")


@dataclass(frozen=True)
class Step:
    """One span: its own time (median, without its children) and its children in order."""

    service: str
    name: str
    kind: str  # server, client, producer, consumer
    median_s: float
    children: tuple["Step", ...] = ()
    attributes: dict[str, str | int] = field(default_factory=dict)
    error_ratio: float = 0.0
    resource: str = ""  # what incidents call it; empty for an ordinary span

    @property
    def entry(self) -> bool:
        """Whether this span is where its service was entered: one of its operations."""
        return self.kind in ("server", "consumer")


@dataclass(frozen=True)
class Journey:
    """One kind of request: its share of all traffic and its tree."""

    weight: float
    root: Step
    transaction: str = ""


def _server(
    service: str, method: str, route: str, median_s: float, *children: Step, error: float = 0.001
) -> Step:
    return Step(
        service,
        f"{method} {route}",
        "server",
        median_s,
        children,
        {"http.request.method": method, "http.route": route, "url.scheme": "http"},
        error,
    )


def _call(caller: str, callee: Step) -> Step:
    """A client span around another service's operation."""
    method = str(callee.attributes["http.request.method"])
    attributes: dict[str, str | int] = {
        "http.request.method": method,
        "server.address": callee.service,
        "server.port": 8080,
        "peer.service": callee.service,
    }
    return Step(caller, method, "client", 0.0012, (callee,), attributes)


def _sql(service: str, operation: str, table: str, text: str, median_s: float) -> Step:
    return Step(
        service,
        f"{operation} {table}",
        "client",
        median_s,
        attributes={
            "db.system.name": "postgresql",
            "db.namespace": service,
            "db.operation.name": operation,
            "db.collection.name": table,
            "db.query.text": text,
            "server.address": f"{service}-db",
            "server.port": 5432,
        },
        error_ratio=0.0005,
        resource=f"{service}-db",
    )


def _redis(service: str, operation: str, median_s: float = 0.0009) -> Step:
    return Step(
        service,
        operation,
        "client",
        median_s,
        attributes={
            "db.system.name": "redis",
            "db.namespace": "0",
            "db.operation.name": operation,
            "server.address": "redis",
            "server.port": 6379,
        },
        resource="redis",
    )


def _payment_api(path: str, median_s: float) -> Step:
    return Step(
        "payment",
        "POST",
        "client",
        median_s,
        attributes={
            "http.request.method": "POST",
            "server.address": "api.payments.example",
            "server.port": 443,
            "peer.service": "card-processor",
            "url.path": path,
        },
        error_ratio=0.004,
        resource="card-processor",
    )


_PRODUCTS = _server(
    "catalog", "GET", "/catalog/products", 0.006,
    _sql("catalog", "SELECT", "products", "SELECT id, name, price FROM products ORDER BY rank LIMIT $1", 0.018),
)  # fmt: skip
_PRODUCT = _server(
    "catalog", "GET", "/catalog/products/{id}", 0.004,
    _sql("catalog", "SELECT", "products", "SELECT * FROM products WHERE id = $1", 0.006),
)  # fmt: skip
_SEARCH = _server(
    "catalog", "GET", "/catalog/search", 0.012,
    _sql("catalog", "SELECT", "products", "SELECT id FROM products WHERE tsv @@ plainto_tsquery($1) LIMIT 50", 0.055),
)  # fmt: skip
_CATEGORIES = _server("catalog", "GET", "/catalog/categories", 0.003, _redis("catalog", "GET"))
_STOCK = _server("inventory", "GET", "/stock/{sku}", 0.003, _redis("inventory", "GET"))
_RESERVE = _server(
    "inventory", "POST", "/reservations", 0.008,
    _sql("inventory", "UPDATE", "stock", "UPDATE stock SET reserved = reserved + $1 WHERE sku = $2", 0.014),
    error=0.002,
)  # fmt: skip
_PAY = _server("payment", "POST", "/payments", 0.012, _payment_api("/v2/charges", 0.16))
_CONSUME = Step(
    "inventory",
    "process order.placed",
    "consumer",
    0.02,
    (
        _sql(
            "inventory",
            "INSERT",
            "shipments",
            "INSERT INTO shipments (order_id, sku) VALUES ($1, $2)",
            0.009,
        ),
    ),
    {
        "messaging.system": "kafka",
        "messaging.destination.name": "order.placed",
        "messaging.operation.type": "process",
    },
    0.001,
)
_PUBLISH = Step(
    "checkout",
    "send order.placed",
    "producer",
    0.003,
    (_CONSUME,),
    {
        "messaging.system": "kafka",
        "messaging.destination.name": "order.placed",
        "messaging.operation.type": "send",
    },
)
_PLACE = _server(
    "checkout", "POST", "/checkouts", 0.03,
    _call("checkout", _RESERVE),
    _call("checkout", _PAY),
    _PUBLISH,
    error=0.002,
)  # fmt: skip
_CHECKOUT_STATE = _server(
    "checkout", "GET", "/checkouts/{id}", 0.004,
    _sql("checkout", "SELECT", "orders", "SELECT * FROM orders WHERE id = $1", 0.007),
)  # fmt: skip
_PAYMENT_STATE = _server(
    "payment", "GET", "/payments/{id}", 0.004,
    _sql("payment", "SELECT", "payments", "SELECT * FROM payments WHERE order_id = $1", 0.006),
)  # fmt: skip
_CART_GET = _server("cart", "GET", "/carts/{id}", 0.004, _redis("cart", "HGETALL", 0.0016))
_CART_ADD = _server("cart", "POST", "/carts/{id}/items", 0.006, _redis("cart", "HSET"))
_CART_DROP = _server("cart", "DELETE", "/carts/{id}/items/{sku}", 0.005, _redis("cart", "HDEL"))


def _page(method: str, route: str, median_s: float, *callees: Step, error: float = 0.001) -> Step:
    return _server(
        "storefront",
        method,
        route,
        median_s,
        *(_call("storefront", c) for c in callees),
        error=error,
    )


# 25 operations. Weights keep every one of them above a few requests in five minutes at night.
JOURNEYS = (
    Journey(10, _page("GET", "/", 0.02, _CATEGORIES), "browse"),
    Journey(11, _page("GET", "/products", 0.025, _PRODUCTS), "browse"),
    Journey(13, _page("GET", "/products/{id}", 0.03, _PRODUCT, _STOCK), "browse"),
    Journey(9, _page("GET", "/search", 0.03, _SEARCH), "search"),
    Journey(9, _page("GET", "/cart", 0.018, _CART_GET), "cart"),
    Journey(9, _page("POST", "/cart/items", 0.022, _CART_ADD, _STOCK, error=0.002), "cart"),
    Journey(6, _page("DELETE", "/cart/items/{sku}", 0.016, _CART_DROP), "cart"),
    Journey(8, _page("POST", "/checkout", 0.045, _PLACE, error=0.003), "checkout"),
    Journey(7, _page("GET", "/orders/{id}", 0.02, _CHECKOUT_STATE, _PAYMENT_STATE), "order"),
    Journey(
        8,
        Step(
            "storefront",
            "POST /login",
            "server",
            0.09,
            (_redis("storefront", "SETEX"),),
            {"http.request.method": "POST", "http.route": "/login", "url.scheme": "http"},
            0.004,
        ),
        "login",
    ),
    Journey(5, _server("payment", "POST", "/refunds", 0.02, _payment_api("/v2/refunds", 0.2)), "refund"),
)  # fmt: skip
CHECKOUT_JOURNEY = 7


@dataclass(frozen=True)
class Incident:
    """Something that goes wrong, at a share of the whole period."""

    name: str
    at: float  # 0 to 1 of the period
    hours: float
    cause: str
    resource: str = ""  # the spans it hits: a resource, or
    service: str = ""  # the server spans of a service, or all traffic when both are empty
    latency_factor: float = 1.0
    error_ratio: float = 0.0
    traffic_factor: float = 1.0
    cpu: float = 0.0


INCIDENTS = (
    Incident("catalog-db-slow", 0.17, 1.5, "missing index after a migration",
             resource="catalog-db", latency_factor=7),
    Incident("card-processor-errors", 0.31, 0.75, "outside payment API answers 503",
             resource="card-processor", error_ratio=0.35),
    Incident("traffic-drop", 0.44, 1.0, "DNS outage at the edge", traffic_factor=0.2),
    Incident("cart-saturated", 0.55, 2.0, "connection pool exhausted",
             service="cart", latency_factor=5, error_ratio=0.06, cpu=0.35),
    Incident("redis-failover", 0.68, 0.4, "failover of the primary",
             resource="redis", latency_factor=30, error_ratio=0.1),
    Incident("inventory-db-locks", 0.83, 2.5, "lock contention in a batch job",
             resource="inventory-db", latency_factor=12, error_ratio=0.02),
)  # fmt: skip
# Goes on at the end, so that a first report has something to show.
ONGOING = Incident(
    "card-processor-slow", 1.0, 2 / 3, "outside payment API is slow",
    resource="card-processor", latency_factor=6, error_ratio=0.08,
)  # fmt: skip


@dataclass(frozen=True)
class Deployment:
    """A new version of a service, at a share of the whole period."""

    service: str
    version: str
    at: float
    operation: str = ""
    latency_factor: float = 1.0  # of its own time, until the next deployment of the service


FIRST_VERSION = "1.4.0"
DEPLOYMENTS = (
    Deployment("catalog", "1.5.0", 0.12),
    Deployment("checkout", "1.5.0", 0.36, "POST /checkouts", 2.7),
    Deployment("checkout", "1.5.1", 0.42),
    Deployment("storefront", "1.5.0", 0.61),
    Deployment("payment", "1.5.0", 0.76),
)
