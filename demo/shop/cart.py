"""Carts, by session, and what is in them.

Faults: n_plus_one (one query per item instead of one for all), leak (shown carts are never freed).
"""

import json
from typing import Any

from pydantic import BaseModel
from sqlalchemy import select

from apm_analytics.instrument import kpi
from demo.shop import store
from demo.shop.cache import cache
from demo.shop.service import application, faults

KEPT_S = 3_600
LEAKED_BYTES = 200_000
MOST_LEAKED = 2_000  # 400 MB: a leak, not the end of the machine

app = application("cart")
_engine = store.engine()
_cache = cache()
_leaked: list[bytearray] = []


class Item(BaseModel):
    """A product and how many."""

    product: int
    count: int = 1


@app.get("/carts/{session}")
def show(session: str) -> Any:
    """Show a cart with names and prices."""
    items = _items(session)
    ids = list(items)
    query = select(store.products.c.id, store.products.c.name, store.products.c.price_eur)
    with _engine.connect() as con:
        if faults.on("n_plus_one"):
            rows = [con.execute(query.where(store.products.c.id == item)).one() for item in ids]
        else:
            rows = list(con.execute(query.where(store.products.c.id.in_(ids))))
    if faults.on("leak") and len(_leaked) < MOST_LEAKED:
        _leaked.append(bytearray(LEAKED_BYTES))
    lines = [{**row._mapping, "count": items[row.id]} for row in rows]
    return {"items": lines, "total_eur": round(sum(x["price_eur"] * x["count"] for x in lines), 2)}


@app.post("/carts/{session}/items")
def add(session: str, item: Item) -> Any:
    """Put something in."""
    items = _items(session)
    if not items:
        kpi("shop.carts", 1, unit="{cart}")
    items[item.product] = items.get(item.product, 0) + item.count
    _cache.set(f"cart:{session}", json.dumps(items), KEPT_S)
    return {"items": len(items)}


@app.delete("/carts/{session}")
def empty(session: str) -> Any:
    """Empty a cart that was bought."""
    _cache.set(f"cart:{session}", "{}", KEPT_S)
    return {"items": 0}


def _items(session: str) -> dict[int, int]:
    held = json.loads(_cache.get(f"cart:{session}") or "{}")
    return {int(product): int(count) for product, count in held.items()}
