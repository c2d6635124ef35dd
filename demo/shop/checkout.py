"""Orders: read the cart, charge it, write the order, queue it for the worker.

Faults: missing_index (orders of a user need a full scan), lock (another transaction holds the
stock), bad_deployment (a release that is slow and fails), retry_storm (payment is retried again and
again, without a pause).
"""

import json
import os
import random
import threading
import time
from datetime import UTC, datetime
from typing import Any

import httpx
from fastapi import HTTPException, Request
from opentelemetry import propagate
from pydantic import BaseModel
from sqlalchemy import insert, select, text, update
from starlette.concurrency import run_in_threadpool

from apm_analytics.instrument import event, kpi
from demo.shop import places, store
from demo.shop.cache import cache
from demo.shop.service import application, faults, log

ATTEMPTS, STORM_ATTEMPTS = 2, 8
HELD_S = 0.4  # how long the other transaction holds the stock
BAD_S, BAD_SHARE = 0.25, 0.15  # what the bad release adds, and how many of its orders fail
LATEST = 20

app = application("checkout")
_engine = store.engine()
_cache = cache()
_bad_release = os.environ.get("DEMO_BAD_RELEASE") == "1"
_holding = threading.Lock()


class Order(BaseModel):
    """Whose cart to buy."""

    session: str
    user: str


@app.post("/orders")
async def order(request: Request, order: Order) -> Any:
    """Buy a cart."""
    client: httpx.AsyncClient = request.app.state.client
    cart = (await client.get(f"{places.url('cart')}/carts/{order.session}")).json()
    if not cart["items"]:
        raise HTTPException(409, "the cart is empty")
    await _pay(client, cart["total_eur"])
    number = await run_in_threadpool(_write, order, cart)
    await client.delete(f"{places.url('cart')}/carts/{order.session}")
    context: dict[str, str] = {}
    propagate.inject(context)
    _cache.push("orders", json.dumps({"order": number, "context": context}))
    kpi("shop.orders", 1, unit="{order}")
    kpi("shop.revenue", cart["total_eur"], unit="EUR")
    kpi("shop.basket", cart["total_eur"], unit="EUR", kind="histogram")
    event("shop.order.placed", total_eur=cart["total_eur"])
    return {"order": number, "total_eur": cart["total_eur"]}


@app.get("/orders")
def listed(user: str) -> Any:
    """List the latest orders of a user."""
    query = select(store.orders).where(store.orders.c.user_id == user)
    with _engine.connect() as con:
        rows = con.execute(query.order_by(store.orders.c.at.desc()).limit(LATEST))
        return [{"order": row.id, "total_eur": row.total_eur, "state": row.state} for row in rows]


async def _pay(client: httpx.AsyncClient, total_eur: float) -> None:
    """Have payment charge a total; try again where it fails."""
    for _ in range(STORM_ATTEMPTS if faults.on("retry_storm") else ATTEMPTS):
        answer = await client.post(f"{places.url('payment')}/charges", json={"eur": total_eur})
        if answer.status_code < 500:
            return
    log.error("payment refused %.2f EUR", total_eur)
    raise HTTPException(502, "the payment was not taken")


def _write(order: Order, cart: Any) -> int:
    """Write the order and take its items out of the stock, in one transaction."""
    if _bad_release:
        time.sleep(BAD_S)
        if random.random() < BAD_SHARE:
            raise RuntimeError("the new release cannot read this cart")
    if faults.on("lock"):
        _hold_stock()
    with _engine.begin() as con:
        for item in sorted(cart["items"], key=lambda one: int(one["id"])):
            taken = update(store.products).where(store.products.c.id == item["id"])
            con.execute(taken.values(stock=store.products.c.stock - item["count"]))
        made = con.execute(
            insert(store.orders).values(
                user_id=order.user,
                total_eur=cart["total_eur"],
                state="new",
                at=datetime.now(UTC).replace(tzinfo=None),
            )
        )
        return int(made.inserted_primary_key[0])  # type: ignore[index]


def _hold_stock() -> None:
    """Let another transaction hold all of the stock for a while, one at a time."""
    if not _holding.acquire(blocking=False):
        return
    begun = threading.Event()

    def hold() -> None:
        try:
            with _engine.begin() as con:
                con.execute(update(store.products).values(stock=store.products.c.stock))
                begun.set()
                time.sleep(HELD_S)
        finally:
            _holding.release()

    threading.Thread(target=hold, daemon=True).start()
    begun.wait(HELD_S)


def _index(missing: bool) -> None:
    """Drop the index of orders by user, or make it again."""
    with _engine.begin() as con:
        if missing:
            con.execute(text("drop index if exists orders_by_user"))
        else:
            con.execute(text("create index if not exists orders_by_user on orders (user_id)"))


faults.changed("missing_index", _index)
