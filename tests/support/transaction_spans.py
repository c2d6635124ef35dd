"""Write spans of three business transactions into a lake.

In:  spans, with times in seconds after Monday 00:00 UTC.
Out: a lake that holds them; `SPECS` is the transactions file that describes them.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import rows

from apm_analytics.lake import snapshots

MONDAY = datetime(2026, 3, 2)
SPECS = """calendars:
  office: {zone: Europe/Berlin, hours: [mon-fri 09:00-17:00]}
transactions:
  checkout:
    title: Checkout
    owner: shop
    steps: [{service: shop, operation: POST /checkout}]
    sla: {threshold_s: 0.5, objective: 0.5, calendar: office}
    value: {amount: 10, currency: EUR}
  order:
    title: Order
    owner: shop
    steps:
      - {service: orders, operation: POST /orders}
      - {service: bank, operation: POST /charges}
    sla: {threshold_s: 1.0, objective: 0.9}
  buying:
    title: Buying
    owner: shop
    across: session
    timeout_s: 600
    steps:
      - {name: look, service: shop, operation: [GET /, GET /search]}
      - {name: take, service: shop, operation: POST /cart}
      - {name: pay, service: shop, operation: POST /checkout}
    sla: {threshold_s: 1.0, objective: 0.9}
"""


@dataclass(frozen=True)
class Span:
    """One span; times in s after Monday 00:00 UTC."""

    at: float
    name: str
    seconds: float = 0.1
    failed: bool = False
    service: str = "shop"
    trace: str = ""
    span: str = ""
    parent: str | None = None
    session: str | None = None
    organization: str | None = None
    segment: str | None = None


def write(lake: Path, spans: list[Span]) -> None:
    ids = [one.span or f"{number:016x}" for number, one in enumerate(spans)]
    snapshots.append(
        lake,
        {
            "spans": rows.table(
                "spans",
                {
                    "time": [rows.MONDAY_NS + round(one.at * 1e9) for one in spans],
                    "duration_ns": [round(one.seconds * 1e9) for one in spans],
                    "trace_id": [
                        one.trace or f"t{own}" for one, own in zip(spans, ids, strict=True)
                    ],
                    "span_id": ids,
                    "parent_span_id": [one.parent for one in spans],
                    "name": [one.name for one in spans],
                    "kind": ["server"] * len(spans),
                    "status_code": ["error" if one.failed else "unset" for one in spans],
                    "service_name": [one.service for one in spans],
                    "session_id": [one.session for one in spans],
                    "organization_id": [one.organization for one in spans],
                    "attributes": [
                        {"user.segment": one.segment} if one.segment else {} for one in spans
                    ],
                },
            )
        },
    )


def noon(minutes: float) -> float:
    """Noon in Berlin on Monday, in s after 00:00 UTC."""
    return 11 * 3_600 + minutes * 60
