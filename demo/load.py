"""Simulate customers of the shop with locust: journeys with a daily shape.

In:  the gateway's URL; DEMO_SECONDS, the length of a "day"; DEMO_REQUESTS, a file for requests.
Out: requests, each with a correlation id; what the client measured, one JSON line per request.
"""

import atexit
import json
import math
import os
import random
import time
import uuid
from typing import Any

from locust import HttpUser, LoadTestShape, between, events, task

DAY_S = float(os.environ.get("DEMO_SECONDS", "180"))
MOST_USERS = int(os.environ.get("DEMO_USERS", "14"))
WORDS = ("article 1", "books", "garden", "toys", "kitchen")
_noted = open(os.environ["DEMO_REQUESTS"], "a") if "DEMO_REQUESTS" in os.environ else None  # noqa: SIM115
if _noted:
    atexit.register(_noted.close)


class Day(LoadTestShape):
    """A day in `DAY_S`: few customers at night, most in the afternoon."""

    def tick(self) -> tuple[int, float] | None:
        """Return the current number of customers; None at the end of the day."""
        passed = self.get_run_time()
        if passed > DAY_S:
            return None
        share = 0.65 - 0.35 * math.cos(2 * math.pi * passed / DAY_S)
        return max(2, round(MOST_USERS * share)), 20.0


class Customer(HttpUser):
    """A customer with a session, an account and an organization."""

    wait_time = between(0.05, 0.4)

    def on_start(self) -> None:
        """Open a session."""
        self.begin()

    def begin(self) -> None:
        """Start a session as another customer."""
        number = random.randrange(2_000)
        self.who = {
            "X-Session-ID": f"session-{uuid.uuid4().hex[:12]}",
            "X-User-ID": f"user-{number}",
            "X-Organization-ID": f"org-{number % 12:02d}",
        }

    def ask(self, method: str, path: str, name: str, **more: Any) -> Any:
        """Send one request and record what the client measured."""
        correlation = uuid.uuid4().hex
        headers = {**self.who, "X-Correlation-ID": correlation}
        began_ns = time.time_ns()
        with self.client.request(
            method, path, name=name, headers=headers, catch_response=True, **more
        ) as answer:
            ended_ns = time.time_ns()
            if answer.status_code in (409, 503):
                answer.success()  # an empty cart, a throttled third party: expected
        if _noted:
            _noted.write(
                json.dumps(
                    {
                        "correlation_id": correlation,
                        "name": name,
                        "status": answer.status_code,
                        "began_ns": began_ns,
                        "ended_ns": ended_ns,
                    }
                )
                + "\n"
            )
        return answer

    @task(5)
    def browse(self) -> None:
        """Look at products."""
        self.ask("GET", "/products?category=" + random.choice(("", "books", "toys")), "browse")
        self.ask("GET", f"/products/{random.randint(1, 400)}", "product")

    @task(2)
    def search(self) -> None:
        """Search."""
        self.ask("GET", f"/search?q={random.choice(WORDS)}", "search")

    @task(3)
    def buy(self) -> None:
        """Fill a cart and buy it."""
        for _ in range(random.randint(1, 6)):
            self.ask("POST", "/cart/items", "add", json={"product": random.randint(1, 400)})
        self.ask("GET", "/cart", "cart")
        if random.random() < 0.7:
            self.ask("POST", "/checkout", "checkout")
        self.begin()

    @task(2)
    def look_back(self) -> None:
        """View old orders and the delivery calendar."""
        self.ask("GET", "/orders", "orders")
        self.ask("GET", "/calendar", "calendar")

    @task(1)
    def sign_up(self) -> None:
        """Become a customer."""
        self.ask("POST", "/signup", "signup")


@events.quitting.add_listener
def _close(**_: Any) -> None:
    if _noted:
        _noted.flush()
