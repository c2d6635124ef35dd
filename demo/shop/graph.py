"""A third party: an API like Microsoft Graph, which is not instrumented.

Fault: throttling (most calls get 429 with Retry-After).
"""

import asyncio
import random
from typing import Any

from fastapi.responses import JSONResponse

from demo.shop.service import application, faults

USUAL_S, THROTTLED_SHARE, RETRY_AFTER_S = 0.03, 0.8, 10

app = application("graph", watched=False)


@app.get("/v1.0/users/{user}/calendar/events")
async def events(user: str) -> Any:
    """List what a calendar holds."""
    if faults.on("throttling") and random.random() < THROTTLED_SHARE:
        return JSONResponse(
            {"error": {"code": "TooManyRequests"}},
            status_code=429,
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )
    await asyncio.sleep(USUAL_S * random.uniform(0.5, 2.0))
    return {"value": [{"subject": f"delivery {number}"} for number in range(3)]}
