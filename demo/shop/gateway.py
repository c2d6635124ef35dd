"""The gateway for browsers: sessions, business transactions, calls to the other services.

In:  requests of customers with X-Session-ID, X-User-ID and X-Organization-ID.
Out: answers of the services; sessions, sign-ups and feature use as KPIs.
"""

import asyncio
import itertools
from typing import Any

import httpx
from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse

from apm_analytics.instrument import event, kpi, transaction
from demo.shop import places
from demo.shop.service import application, faults

DELAY_S = 0.2  # of the fault network_delay
WHO = {
    "session_id": "x-session-id",
    "user_id": "x-user-id",
    "organization_id": "x-organization-id",
}

app = application("gateway")
_seen: set[str] = set()
_signups = itertools.count()


def _who(request: Request) -> dict[str, str]:
    """Return the business context of a request, from its headers."""
    headers = request.headers
    return {name: headers[header] for name, header in WHO.items() if header in headers}


def _count_session(session: str | None) -> None:
    if session and session not in _seen:
        _seen.add(session)
        kpi("shop.sessions", 1, unit="{session}")


async def _call(request: Request, method: str, service: str, path: str, **more: Any) -> Any:
    """Call a service; pass on its error status."""
    client: httpx.AsyncClient = request.app.state.client
    if service == "cart" and faults.on("network_delay"):
        await asyncio.sleep(DELAY_S)
    try:
        answer = await client.request(method, f"{places.url(service)}{path}", **more)
    except httpx.HTTPError as error:
        raise HTTPException(504, f"{service} does not answer: {type(error).__name__}") from error
    if answer.status_code >= 400:
        raise HTTPException(answer.status_code, f"{service} answered {answer.status_code}")
    return answer.json()


@app.get("/products")
async def products(request: Request, category: str = "") -> Any:
    """List products of a category."""
    _count_session(request.headers.get("x-session-id"))
    with transaction("browse", **_who(request)):
        return await _call(request, "GET", "catalogue", "/products", params={"category": category})


@app.get("/products/{product}")
async def product(request: Request, product: int) -> Any:
    """Show one product."""
    with transaction("browse", **_who(request)):
        return await _call(request, "GET", "catalogue", f"/products/{product}")


@app.get("/search")
async def search(request: Request, q: str) -> Any:
    """Search for products."""
    kpi("shop.feature.use", 1, unit="{use}", feature="search")
    with transaction("browse", **_who(request)):
        return await _call(request, "GET", "catalogue", "/search", params={"q": q})


@app.get("/cart")
async def cart(request: Request) -> Any:
    """Show the cart of this session."""
    with transaction("cart", **_who(request)):
        return await _call(request, "GET", "cart", f"/carts/{request.headers['x-session-id']}")


@app.post("/cart/items")
async def add(request: Request) -> Any:
    """Put a product into the cart of this session."""
    with transaction("cart", **_who(request)):
        path = f"/carts/{request.headers['x-session-id']}/items"
        return await _call(request, "POST", "cart", path, json=await request.json())


@app.post("/checkout")
async def checkout(request: Request) -> Any:
    """Buy what is in the cart."""
    with transaction("purchase", critical=True, **_who(request)):
        body = {
            "session": request.headers["x-session-id"],
            "user": request.headers.get("x-user-id", "user-0"),
        }
        return await _call(request, "POST", "checkout", "/orders", json=body)


@app.get("/orders")
async def orders(request: Request) -> Any:
    """List the orders of this user."""
    kpi("shop.feature.use", 1, unit="{use}", feature="order history")
    with transaction("orders", **_who(request)):
        user = request.headers.get("x-user-id", "user-0")
        return await _call(request, "GET", "checkout", "/orders", params={"user": user})


@app.get("/calendar")
async def calendar(request: Request) -> Any:
    """Show possible deliveries from the third party's calendar."""
    kpi("shop.feature.use", 1, unit="{use}", feature="delivery calendar")
    with transaction("delivery", **_who(request)):
        client: httpx.AsyncClient = request.app.state.client
        path = "/v1.0/users/3f2504e0-4f89-11d3-9a0c-0305e82c3301/calendar/events"
        answer = await client.get(f"{places.url('graph')}{path}")
        if answer.status_code == 429:
            return JSONResponse({"events": [], "try_again_s": answer.headers["retry-after"]}, 503)
        return answer.json()


@app.post("/signup")
async def signup(request: Request) -> Any:
    """Register a new customer."""
    with transaction("signup", **_who(request)):
        kpi("shop.signups", 1, unit="{signup}")
        event("shop.signed_up")
        return {"user": f"new-{next(_signups)}"}
