"""Products: from the cache, else from the database.

Faults: slow_query (the search waits in the database), cache_loss (the cache is emptied constantly).
"""

import json
from typing import Any

from fastapi import HTTPException
from sqlalchemy import bindparam, func, select, text

from demo.shop import store
from demo.shop.cache import cache
from demo.shop.service import application, faults

KEPT_S = 60
SLOW_S = 0.3

app = application("catalogue")
_engine = store.engine()
_cache = cache()


@app.get("/products")
def products(category: str = "") -> Any:
    """List products of a category, or the first ones of all."""
    return _cached(f"products:{category}", lambda: _listed(category))


@app.get("/products/{product}")
def product(product: int) -> Any:
    """Show one product."""
    details = _cached(f"product:{product}", lambda: _details(product))
    if details is None:
        raise HTTPException(404, f"no product {product}")
    return details


@app.get("/search")
def search(q: str) -> Any:
    """Search in the names of products."""
    query = select(store.products).where(store.products.c.name.contains(q)).limit(20)
    with _engine.connect() as con:
        if faults.on("slow_query"):
            con.execute(_slow(), {"seconds": SLOW_S})
        return [dict(row._mapping) for row in con.execute(query)]


def _slow() -> Any:
    """Return a slow statement, for either database."""
    if _engine.dialect.name == "postgresql":
        return text("select pg_sleep(:seconds)").bindparams(bindparam("seconds"))
    return text(
        "with recursive n(i) as"
        " (select 1 union all select i + 1 from n where i < 3000000 * :seconds)"
        " select count(*) from n"
    ).bindparams(bindparam("seconds"))


def _listed(category: str) -> Any:
    query = select(store.products).order_by(store.products.c.price_eur).limit(20)
    if category:
        query = query.where(store.products.c.category == category)
    with _engine.connect() as con:
        return [dict(row._mapping) for row in con.execute(query)]


def _details(product: int) -> Any:
    with _engine.connect() as con:
        row = con.execute(select(store.products).where(store.products.c.id == product)).first()
        popular = select(func.count()).select_from(store.products)
        return None if row is None else {**row._mapping, "of": con.execute(popular).scalar_one()}


def _cached(key: str, load: Any) -> Any:
    if faults.on("cache_loss"):
        _cache.lose()
    held = _cache.get(key)
    if held is not None:
        return json.loads(held)
    value = load()
    _cache.set(key, json.dumps(value), KEPT_S)
    return value
