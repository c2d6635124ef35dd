"""Charge a total.

Faults: cpu_burn (it computes for long), error_burst (it fails), retry_storm (it fails more often).
"""

import asyncio
import random
from typing import Any

from fastapi import HTTPException
from pydantic import BaseModel

from demo.shop.faults import burn
from demo.shop.service import application, faults, log

USUAL_S = 0.012  # how long the bank takes
BURN_S = 0.06
FAILING = {"error_burst": 0.5, "retry_storm": 0.7}

app = application("payment")


class Charge(BaseModel):
    """How much."""

    eur: float


@app.post("/charges")
async def charge(charge: Charge) -> Any:
    """Charge a total."""
    await asyncio.sleep(USUAL_S * random.uniform(0.7, 1.5))
    if faults.on("cpu_burn"):
        burn(BURN_S)
    failing = max((share for name, share in FAILING.items() if faults.on(name)), default=0.0)
    if random.random() < failing:
        log.error("the bank refused %.2f EUR", charge.eur)
        raise HTTPException(503, "the bank refuses")
    return {"charged_eur": charge.eur}
