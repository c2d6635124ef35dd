"""The simulated shop: its services and the requests that it gets. Data, no behaviour.

In:  nothing.
Out: `SERVICES`, and `JOURNEYS`, one call tree per kind of request.

Request rates are closer together than in a real shop, because every operation needs some requests
in each window of 5 minutes and the number of spans is limited.
"""

from dataclasses import dataclass

from apm_analytics.simulate.calls import Call, http, postgres, redis, server

ENVIRONMENT = "production"
USERS = 6000
ORGANIZATIONS = 12


@dataclass(frozen=True)
class Service:
    """One service: its first version, and what its processes use."""

    name: str
    version: str
    cpu_idle: float  # share of its limit without requests
    cpu_load: float  # added at the mean load
    memory_mb: float


_PROVIDER = Call(
    service="payment",
    name="POST /v1/charges",
    kind="client",
    scope="opentelemetry.instrumentation.httpx",
    own_ms=120.0,
    attributes={
        "http.request.method": "POST",
        "url.template": "/v1/charges",
        "http.response.status_code": 201,
        "server.address": "api.pay.example",
        "server.port": 443,
        "peer.service": "pay-provider",
    },
    load=0.05,
    failing=0.002,
    error_type="httpx.ReadTimeout",
    error_text="the payment provider did not answer in time",
    peer="pay-provider",
)
_MESSAGE = {"messaging.system": "kafka", "messaging.destination.name": "orders"}
_PROCESS_ORDERS = Call(
    service="inventory",
    name="process orders",
    kind="consumer",
    scope="opentelemetry.instrumentation.aiokafka",
    own_ms=22.0,
    attributes={
        **_MESSAGE,
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.consumer.group.name": "inventory",
        "business.operation": "allocate stock",
    },
    children=(
        postgres(
            "inventory",
            "UPDATE",
            "stock",
            "UPDATE stock SET allocated = allocated + $1 WHERE sku = $2",
            6.0,
            share=0.4,
        ),
    ),
    failing=0.003,
    error_type="UnknownSku",
    error_text="the order names a product that the warehouse does not know",
)
_SEND_ORDERS = Call(
    service="checkout",
    name="send orders",
    kind="producer",
    scope="opentelemetry.instrumentation.aiokafka",
    own_ms=1.6,
    attributes={**_MESSAGE, "messaging.operation.type": "send", "messaging.operation.name": "send"},
    then=_PROCESS_ORDERS,
    failing=0.0004,
    error_type="KafkaTimeoutError",
    error_text="no acknowledgement from the broker",
)
_RENDER = Call(
    service="storefront",
    name="render home",
    kind="internal",
    scope="shop.storefront",
    own_ms=6.0,
    attributes={"code.function.name": "shop.storefront.pages.home"},
    share=0.1,
)
# A checkout passes many services; it should fail in about 1 of 100 requests at most.
_ONE_OF_MANY = 0.001
_BUY = {"business.transaction": "purchase", "organization.id": "<organization>"}

# --- internal operations ----------------------------------------------------------------------
_LIST_PRODUCTS = server(
    "catalog",
    "GET",
    "/catalog/products",
    11.0,
    postgres(
        "catalog",
        "SELECT",
        "products",
        "SELECT id, name, price FROM products WHERE category = $1 ORDER BY rank LIMIT 40",
        9.0,
        share=0.5,
    ),
)
_ONE_PRODUCT = server(
    "catalog",
    "GET",
    "/catalog/products/{id}",
    7.0,
    postgres(
        "catalog",
        "SELECT",
        "products",
        "SELECT id, name, price, text FROM products WHERE id = $1",
        5.0,
        share=0.5,
    ),
    path="/catalog/products/<product>",
)
_SEARCH = server(
    "catalog",
    "GET",
    "/catalog/search",
    24.0,
    postgres(
        "catalog",
        "SELECT",
        "products",
        "SELECT id, name FROM products WHERE terms @@ plainto_tsquery($1) LIMIT 20",
        18.0,
        share=0.7,
    ),
)
_RECOMMEND = server("catalog", "GET", "/catalog/recommendations", 28.0)
_READ_CART = server(
    "cart",
    "GET",
    "/carts/{id}",
    4.0,
    redis("cart", "HGETALL", "HGETALL cart:?", 1.2, share=0.8),
    path="/carts/<cart>",
)
_ADD_TO_CART = server(
    "cart",
    "POST",
    "/carts/{id}/items",
    6.0,
    redis("cart", "HSET", "HSET cart:? ? ?", 1.4),
    path="/carts/<cart>/items",
    status=201,
    attributes={"business.operation": "add to cart"},
)
_EMPTY_CART = server(
    "cart", "DELETE", "/carts/{id}", 5.0, path="/carts/<cart>", status=204, failing=_ONE_OF_MANY
)
_STOCK = server(
    "inventory",
    "GET",
    "/stock/{sku}",
    5.0,
    postgres(
        "inventory", "SELECT", "stock", "SELECT free FROM stock WHERE sku = $1", 3.0, share=0.4
    ),
    path="/stock/<product>",
)
_RESERVE = server(
    "inventory",
    "POST",
    "/reservations",
    9.0,
    postgres(
        "inventory",
        "INSERT",
        "reservations",
        "INSERT INTO reservations (sku, amount, order_id) VALUES ($1, $2, $3)",
        7.0,
        share=0.5,
    ),
    status=201,
    attributes={"business.operation": "reserve stock"},
    failing=_ONE_OF_MANY,
    error=("OutOfStock", "nothing left to reserve"),
)
_CHARGE = server(
    "payment",
    "POST",
    "/charges",
    9.0,
    _PROVIDER,
    status=201,
    attributes={**_BUY, "business.operation": "charge card"},
    failing=_ONE_OF_MANY,
)
_PLACE_ORDER = server(
    "checkout",
    "POST",
    "/orders",
    18.0,
    http("checkout", _RESERVE),
    http("checkout", _CHARGE),
    postgres(
        "checkout",
        "INSERT",
        "orders",
        "INSERT INTO orders (user_id, total) VALUES ($1, $2) RETURNING id",
        6.0,
    ),
    _SEND_ORDERS,
    http("checkout", _EMPTY_CART),
    status=201,
    attributes={**_BUY, "business.operation": "place order", "user.id": "<user>"},
    log_event="shop.order.placed",
    failing=_ONE_OF_MANY,
)
_READ_ORDER = server(
    "checkout",
    "GET",
    "/orders/{id}",
    8.0,
    postgres("checkout", "SELECT", "orders", "SELECT * FROM orders WHERE id = $1", 4.0, share=0.7),
    path="/orders/<order>",
)

# --- external requests, with their rate relative to a checkout --------------------------------
JOURNEYS: tuple[tuple[float, Call], ...] = (
    (
        1.4,
        server(
            "storefront",
            "GET",
            "/",
            12.0,
            redis("storefront", "GET", "GET page:home", 0.8, share=0.3),
            _RENDER,
        ),
    ),
    (1.4, server("storefront", "GET", "/products", 14.0, http("storefront", _LIST_PRODUCTS, 0.76))),
    (
        1.7,
        server(
            "storefront",
            "GET",
            "/products/{id}",
            12.0,
            http("storefront", _ONE_PRODUCT, 0.62),
            path="/products/<product>",
        ),
    ),
    (1.15, server("storefront", "GET", "/search", 11.0, http("storefront", _SEARCH, 0.93))),
    (
        1.15,
        server("storefront", "GET", "/recommendations", 9.0, http("storefront", _RECOMMEND, 0.93)),
    ),
    (1.15, server("storefront", "GET", "/cart", 10.0, http("storefront", _READ_CART, 0.93))),
    (
        1.05,
        server(
            "storefront",
            "POST",
            "/cart/items",
            11.0,
            http("storefront", _STOCK),
            http("storefront", _ADD_TO_CART),
            status=201,
            attributes={"business.operation": "add to cart"},
        ),
    ),
    (
        1.05,
        server(
            "storefront",
            "POST",
            "/checkout",
            20.0,
            http("storefront", _PLACE_ORDER),
            status=201,
            attributes={**_BUY, "business.operation": "checkout"},
            failing=_ONE_OF_MANY,
        ),
    ),
    (
        1.05,
        server(
            "storefront",
            "POST",
            "/signup",
            35.0,
            postgres(
                "storefront",
                "INSERT",
                "users",
                "INSERT INTO users (mail_hash) VALUES ($1) RETURNING id",
                6.0,
            ),
            status=201,
            attributes={"business.transaction": "signup", "business.operation": "sign up"},
        ),
    ),
    (
        1.05,
        server(
            "storefront",
            "GET",
            "/orders/{id}",
            10.0,
            http("storefront", _READ_ORDER),
            path="/orders/<order>",
        ),
    ),
    (
        1.05,
        server(
            "checkout", "POST", "/quotes", 16.0, attributes={"business.operation": "quote delivery"}
        ),
    ),
    (
        1.05,
        server(
            "payment",
            "POST",
            "/webhooks/provider",
            8.0,
            postgres(
                "payment",
                "UPDATE",
                "charges",
                "UPDATE charges SET state = $1 WHERE id = $2",
                5.0,
                share=0.4,
            ),
            status=204,
        ),
    ),
)

SERVICES: tuple[Service, ...] = (
    Service("storefront", "3.8.0", 0.12, 0.30, 420.0),
    Service("catalog", "2.4.1", 0.10, 0.26, 610.0),
    Service("cart", "1.9.3", 0.06, 0.14, 260.0),
    Service("checkout", "4.1.0", 0.08, 0.20, 380.0),
    Service("payment", "2.0.6", 0.05, 0.10, 240.0),
    Service("inventory", "1.3.2", 0.09, 0.22, 330.0),
)
INSTANCES = 2  # of every service

# When each kind of page is requested within a visit, in s after its begin: people browse, fill the
# cart, then pay.
STAGES_S: dict[str, float] = {
    "GET /": 0.0,
    "GET /search": 60.0,
    "GET /products": 90.0,
    "GET /products/{id}": 150.0,
    "GET /recommendations": 150.0,
    "POST /cart/items": 240.0,
    "GET /cart": 330.0,
    "POST /signup": 380.0,
    "POST /checkout": 420.0,
    "GET /orders/{id}": 540.0,
}
STAGE_SPREAD_S = 180.0  # each time varies by half of this, either way
VISITS = 2.5  # visits per checkout
