"""Compute the shop's business figures from demand and, with a lag, checkout's health.

In:  `Observed` spans.
Out: one value per KPI and window, by the relations in the truth file.
"""

from dataclasses import dataclass

import numpy as np

from apm_analytics.simulate.observed import Observed, Operation
from apm_analytics.simulate.timeline import METRICS, WINDOW_NS, Floats, Ints, S, Timeline

CHECKOUT = ("storefront", "POST /checkout")
SIGNUP = ("storefront", "POST /signup")
BASKET_SHAPE = 2.5  # of the gamma distribution
KPI_SERVICES = {
    "shop.cart.abandonment": "cart",
    "shop.orders": "checkout",
    "shop.revenue": "checkout",
    "shop.signups": "storefront",
}


@dataclass(frozen=True)
class Relation:
    """How a business figure depends on the shop's technical state, in windows of 5 minutes."""

    kpi: str
    unit: str
    driver: str
    lag_s: int
    coefficient: float
    reads: str


ABANDONMENT_BASE = 0.66
ABANDONMENT_NOISE = 0.01
CONFIRMED_BASE = 0.92  # share of successful checkouts that become orders
BASKET_EUR = 42.0
RELATIONS: tuple[Relation, ...] = (
    Relation(
        "shop.cart.abandonment",
        "1",
        "checkout latency",
        3600,
        0.12,
        "0.66 + 0.12 x(t - 3600 s) + normal noise of 0.01; x = ln(mean duration of storefront "
        "POST /checkout in the window / its median over the recording)",
    ),
    Relation(
        "shop.orders",
        "{order}",
        "checkout errors",
        600,
        -0.5,
        "binomial(successful storefront POST /checkout in the window, 0.92 - 0.5 e(t - 600 s)); "
        "e = error ratio of storefront POST /checkout in the window",
    ),
    Relation(
        "shop.revenue",
        "EUR",
        "orders",
        0,
        BASKET_EUR,
        "gamma-distributed baskets of 42 EUR on average, one per order of the same window",
    ),
    Relation(
        "shop.signups",
        "{signup}",
        "demand",
        0,
        1.0,
        "successful storefront POST /signup in the window; follows demand, never latency",
    ),
)


def figures(timeline: Timeline, observed: Observed) -> dict[str, Floats]:
    """Compute every KPI on the timeline's windows."""
    rng = timeline.random(METRICS, 0)
    relations = {relation.kpi: relation for relation in RELATIONS}
    checkout = observed.operations[CHECKOUT]
    signup = observed.operations[SIGNUP]
    slow = relations["shop.cart.abandonment"]
    abandonment = (
        ABANDONMENT_BASE
        + slow.coefficient * _later(latency_driver(checkout), slow.lag_s)
        + rng.normal(0, ABANDONMENT_NOISE, timeline.windows)
    )
    broken = relations["shop.orders"]
    confirmed = CONFIRMED_BASE + broken.coefficient * _later(error_driver(checkout), broken.lag_s)
    orders: Ints = rng.binomial(checkout.count - checkout.errors, np.clip(confirmed, 0, 1))
    mean_basket = relations["shop.revenue"].coefficient
    revenue = rng.gamma(orders * BASKET_SHAPE + 1e-12, mean_basket / BASKET_SHAPE)
    return {
        "shop.cart.abandonment": np.clip(abandonment, 0.0, 1.0),
        "shop.orders": orders.astype(np.float64),
        "shop.revenue": np.where(orders > 0, np.round(revenue, 2), 0.0),
        "shop.signups": (signup.count - signup.errors).astype(np.float64),
    }


def latency_driver(operation: Operation) -> Floats:
    """Return ln(mean duration / its median over the recording), 0 in windows without requests."""
    seen = operation.count > 0
    mean = np.where(seen, operation.seconds / np.maximum(operation.count, 1), np.nan)
    typical = np.nanmedian(mean) if seen.any() else 1.0
    driver: Floats = np.where(seen, np.log(mean / typical), 0.0)
    return driver


def error_driver(operation: Operation) -> Floats:
    """Return the error ratio, 0 in windows without requests."""
    driver: Floats = operation.errors / np.maximum(operation.count, 1)
    return driver


def _later(driver: Floats, lag_s: int) -> Floats:
    windows = lag_s * S // WINDOW_NS
    if windows == 0:
        return driver
    return np.concatenate([np.zeros(min(windows, driver.size)), driver[:-windows]])
