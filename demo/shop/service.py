"""What all services share: an application that is watched, a client, errors in JSON.

In:  the name of the service.
Out: a FastAPI application; `instrument.setup` is the only line that watching it takes.
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
    watched : a third party's service is not ours to watch.
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
