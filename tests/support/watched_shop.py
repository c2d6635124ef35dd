"""A small service that tests watch, run by uvicorn: `python watched_shop.py PORT [watched]`.

It keeps orders in SQLite through SQLAlchemy, calls the hosts it is told to, and misbehaves on
request. Without `watched` it is the same service, bare.
"""

import asyncio
import logging
import os
import sys
from typing import Any

import httpx
import sqlalchemy
import uvicorn
from fastapi import FastAPI, HTTPException

from apm_analytics import instrument

log = logging.getLogger("shop")
app = FastAPI()
if "watched" in sys.argv:
    assert instrument.setup(app) is not None
logging.getLogger().setLevel(logging.INFO)
engine = sqlalchemy.create_engine(os.environ.get("SHOP_DATABASE", "sqlite://"))
client = httpx.AsyncClient(follow_redirects=True, timeout=5)


@app.get("/products/{product}")
def product(product: int) -> dict[str, Any]:
    with engine.connect() as connection:
        found = connection.execute(
            sqlalchemy.text("SELECT :id AS id, 'for anna@example.com' AS note"), {"id": product}
        )
        row = found.one()
    log.info("product %s was looked at", row.id)
    return {"id": row.id}


@app.post("/checkout")
async def checkout(user: str = "u1", password: str = "") -> dict[str, Any]:
    with instrument.transaction("checkout", user_id=user, organization_id="o1") as tx:
        tx.set("cart.items", 2)
        for url in os.environ.get("SHOP_CALLS", "").split():
            await client.get(url)
        instrument.kpi("shop.revenue", 42.0, unit="EUR", segment="retail")
        instrument.event("order.placed", total=42.0)
        log.info("order of %s with password=%s", user, password)
    return {"ok": True}


@app.get("/slow")
async def slow() -> dict[str, Any]:
    await asyncio.sleep(0.3)
    return {"ok": True}


@app.get("/busy")
def busy() -> dict[str, Any]:
    return {"sum": _adds_up(400_000)}


@app.get("/fails")
async def fails() -> dict[str, Any]:
    raise RuntimeError("no luck for anna@example.com with token=hunter2")


@app.get("/refuses")
async def refuses() -> dict[str, Any]:
    raise HTTPException(418, "a teapot")


def _adds_up(count: int) -> int:
    total = 0
    for number in range(count):
        total += _square(number)
    return total


def _square(number: int) -> int:
    return number * number % 7


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
