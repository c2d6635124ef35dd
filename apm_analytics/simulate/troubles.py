"""The deployments and incidents of the simulated shop. Data, no behaviour.

In:  nothing.
Out: `INCIDENTS` in order of time, `ONGOING`, and `RELEASES`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effect:
    """A temporary change; it applies to every call that matches all given selectors."""

    service: str = ""
    operation: str = ""  # the entry operation that makes the call
    peer: str = ""  # the callee
    own: bool = False  # only the entry operation itself, not its calls
    slower: float = 1.0  # factor on the call's own time
    failing: float = 0.0  # additional share of calls that fail
    demand: float = 1.0  # factor on external requests
    cpu: float = 0.0  # additional share of the limit that the service uses


@dataclass(frozen=True)
class IncidentKind:
    """A kind of incident: cause, duration and effects."""

    name: str
    kind: str  # latency, errors, traffic, saturation
    cause: str
    minutes: int
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class Release:
    """A deployment, at a share of the recording; a regression lasts until its roll-back."""

    at: float
    service: str
    version: str
    effects: tuple[Effect, ...] = ()
    rolls_back: bool = False


INCIDENTS: tuple[IncidentKind, ...] = (
    IncidentKind(
        "catalog-db-locks",
        "latency",
        "a long migration holds locks in the catalog's database",
        75,
        (Effect(service="catalog", peer="catalog-db", slower=12.0),),
    ),
    IncidentKind(
        "payment-provider-errors",
        "errors",
        "the payment provider refuses a third of the charges",
        45,
        (Effect(service="payment", peer="pay-provider", failing=0.35),),
    ),
    IncidentKind(
        "edge-unreachable",
        "traffic",
        "a wrong DNS record sends most visitors elsewhere",
        50,
        (Effect(demand=0.25),),
    ),
    IncidentKind(
        "inventory-saturated",
        "saturation",
        "a stock export uses all of the inventory's CPU",
        120,
        (Effect(service="inventory", slower=14.0, failing=0.08, cpu=0.62),),
    ),
    IncidentKind(
        "search-index-rebuild",
        "latency",
        "the search index is rebuilt beside the traffic",
        170,
        (Effect(service="catalog", operation="GET /catalog/search", slower=4.0),),
    ),
    IncidentKind(
        "cart-items-broken",
        "errors",
        "a feature flag breaks adding to the cart for some users",
        30,
        (Effect(service="cart", operation="POST /carts/{id}/items", own=True, failing=0.3),),
    ),
    IncidentKind(
        "cart-cache-stalls",
        "latency",
        "the cart's Redis writes its log to a failing disk",
        60,
        (Effect(service="cart", peer="cart-cache", slower=60.0),),
    ),
    IncidentKind(
        "order-consumer-slow",
        "latency",
        "the order consumer waits for a remote warehouse",
        100,
        (Effect(service="inventory", operation="process orders", slower=7.0),),
    ),
)
# Ongoing at the end of the recording, so that "now" has something to show.
ONGOING = IncidentKind(
    "payment-provider-slow",
    "latency",
    "the payment provider answers slowly and refuses some charges",
    40,
    (Effect(service="payment", peer="pay-provider", slower=5.0, failing=0.12),),
)
RELEASES: tuple[Release, ...] = (
    Release(0.12, "checkout", "4.2.0"),
    Release(0.30, "storefront", "3.9.0"),
    Release(0.48, "inventory", "1.4.0"),
    Release(
        0.80,
        "catalog",
        "2.5.0",
        (Effect(service="catalog", operation="GET /catalog/search", slower=1.2),),
    ),
    Release(0.845, "catalog", "2.4.1", rolls_back=True),
    Release(0.90, "payment", "2.1.0"),
)
