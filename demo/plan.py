"""Plan the faults, and record what was true.

In:  the duration of the demo and the chosen faults.
Out: a plan of faults, and truth.json in the form that `signals.calendar.from_truth` reads.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from apm_analytics.foundation.atomic import write_atomic

# Fault -> its cause, and the operations that it affects.
FAULTS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "slow_query": ("the search waits in the database", (("catalogue", "GET /search"),)),
    "missing_index": (
        "the index of orders by user is gone",
        (("checkout", "GET /orders"), ("gateway", "GET /orders")),
    ),
    "n_plus_one": ("one query per item of the cart", (("cart", "GET /carts/{session}"),)),
    "cache_loss": (
        "the cache of products is emptied all the time",
        (("catalogue", "GET /products"), ("catalogue", "GET /products/{product}")),
    ),
    "lock": ("another transaction holds the stock", (("checkout", "POST /orders"),)),
    "leak": ("carts that were shown are never freed", ()),
    "cpu_burn": ("payment computes for a long time", (("payment", "POST /charges"),)),
    "network_delay": (
        "calls of the cart take longer",
        (("gateway", "GET /cart"), ("gateway", "POST /cart/items")),
    ),
    "error_burst": (
        "the bank refuses half of the charges",
        (("payment", "POST /charges"), ("gateway", "POST /checkout")),
    ),
    "bad_deployment": (
        "a release of checkout is slow and fails",
        (("checkout", "POST /orders"), ("gateway", "POST /checkout")),
    ),
    "retry_storm": (
        "payment fails and checkout retries again and again",
        (("payment", "POST /charges"), ("checkout", "POST /orders")),
    ),
    "throttling": ("the third party throttles", (("gateway", "GET /calendar"),)),
}
# A fault that changes no operation by much still has a service.
SERVICES_OF = {"leak": ("cart",)}
ON_SHARE = 0.6  # share of its slot in which a fault is on; the rest shows normal operation
QUIET_SHARE = 0.15  # share of the run without faults, at its start


@dataclass(frozen=True)
class Planned:
    """One fault: when it begins and ends, in seconds after the start of the load."""

    fault: str
    begins_s: float
    ends_s: float


def plan(seconds: float, faults: tuple[str, ...]) -> list[Planned]:
    """Schedule faults one after the other, after a time without any."""
    if not faults:
        return []
    first = QUIET_SHARE * seconds
    slot = (seconds - first) / len(faults)
    return [
        Planned(fault, first + number * slot, first + number * slot + ON_SHARE * slot)
        for number, fault in enumerate(faults)
    ]


class Truth:
    """The truth file, rewritten after every change; entries of earlier runs stay."""

    def __init__(self, file: Path) -> None:
        self._file = file
        held = json.loads(file.read_text()) if file.exists() else {}
        self._incidents: list[dict[str, object]] = held.get("incidents", [])
        self._deployments: list[dict[str, object]] = held.get("deployments", [])

    def began(self, fault: str) -> None:
        """Record that a fault begins now."""
        cause, operations = FAULTS[fault]
        self._incidents.append(
            {
                "name": fault,
                "kind": fault,
                "cause": cause,
                "start": _now(),
                "end": _now(),
                "ongoing": True,
                "effects": [{"service": service} for service in SERVICES_OF.get(fault, ())],
                "operations": [
                    {"service_name": service, "operation": operation, "signals": {}}
                    for service, operation in operations
                ],
            }
        )
        self._write()

    def ended(self, fault: str) -> None:
        """Record that a fault ends now."""
        for incident in self._incidents:
            if incident["name"] == fault and incident["ongoing"]:
                incident.update(end=_now(), ongoing=False)
        self._write()

    def deployed(self, service: str, version: str, before: str) -> None:
        """Record that a service has another version from now on."""
        self._deployments.append(
            {
                "service_name": service,
                "time": _now(),
                "version": version,
                "previous_version": before,
                "regression": None,  # a bad release also counts as an incident
            }
        )
        self._write()

    def _write(self) -> None:
        content = {"incidents": self._incidents, "deployments": self._deployments}
        write_atomic(self._file, json.dumps(content, indent=1).encode() + b"\n")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
