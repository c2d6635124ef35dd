"""What all services share: an instrumented application and an HTTP client.

In:  the name of the service.
Out: a FastAPI application; `instrument.setup` is the only line that instrumentation needs.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from apm_analytics import instrument
from demo.shop import places
from demo.shop.faults import Faults

TIMEOUT_S = 8.0

log = logging.getLogger("demo.shop")
faults = Faults()


def application(name: str, *, watched: bool = True) -> FastAPI:
    """Make the application of a service.

    Parameters
    ----------
    watched : whether it is instrumented; the third party is not.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            app.state.client = client
            places.say_ready()
            yield

    app = FastAPI(title=name, lifespan=lifespan)
    if watched:
        instrument.setup(app)

    return app
