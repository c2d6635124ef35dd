"""A lake and SLOs small enough to count by hand, for the tests on service levels."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import rows

from apm_analytics.lake import snapshots
from apm_analytics.signals.calendar import Calendar
from apm_analytics.slo.budget import Limits
from apm_analytics.slo.report import Given

MONDAY = datetime(2026, 3, 2)
LIMITS = Limits(events=10, slice_events=3)


@dataclass(frozen=True)
class Request:
    """One entry span of service shop."""

    at_s: float  # after Monday 00:00 UTC
    seconds: float
    failed: bool
    name: str = "GET /"
    service: str = "shop"


def requests(seed: int, count: int, hours: float, name: str = "GET /") -> list[Request]:
    """Draw random requests: about 1 in 20 fails, 1 in 10 is slower than 0.5 s."""
    draw = random.Random(seed)
    return [
        Request(
            draw.uniform(0, hours * 3_600),
            0.6 if draw.random() < 0.1 else 0.1,
            draw.random() < 0.05,
            name,
        )
        for _ in range(count)
    ]


def write(lake: Path, found: Iterable[Request], *, salt: int = 0) -> None:
    """Import requests; the same request with the same salt is the same span."""
    kept = list(found)
    ids = [f"{salt:04x}{round(one.at_s * 1e6) * 16 + len(one.name) % 16:012x}" for one in kept]
    snapshots.append(
        lake,
        {
            "spans": rows.table(
                "spans",
                {
                    "time": [rows.MONDAY_NS + round(one.at_s * 1e9) for one in kept],
                    "duration_ns": [round(one.seconds * 1e9) for one in kept],
                    "trace_id": [one_id * 2 for one_id in ids],
                    "span_id": ids,
                    "name": [one.name for one in kept],
                    "kind": ["server"] * len(kept),
                    "status_code": ["error" if one.failed else "unset" for one in kept],
                    "service_name": [one.service for one in kept],
                },
            )
        },
    )


def given(calendar: Calendar | None = None, **more: object) -> Given:
    """What a report needs, with the limits of these tests."""
    return Given(
        limits=LIMITS,
        max_gap_s=3_600.0,
        calendar=calendar or Calendar(),
        **more,  # type: ignore[arg-type]
    )


def moment(hours: float) -> datetime:
    """Return the time some hours after Monday."""
    return MONDAY + timedelta(hours=hours)


SOURCE = "{service: shop, operation: GET /%s}"


def slo(
    method: str = "Occurrences",
    objective: str = "target: 0.9",
    *,
    good: str = ", status: ok",
    window: str = "{duration: 1w, isRolling: true}",
    name: str = "answers",
) -> str:
    """Write one SLO on GET / of shop."""
    return f"""apiVersion: openslo/v1
kind: SLO
metadata:
  name: {name}
spec:
  service: shop
  indicator:
    metadata: {{name: good-answers}}
    spec:
      ratioMetric:
        good: {{metricSource: {{type: apm-lake, spec: {SOURCE % good}}}}}
        total: {{metricSource: {{type: apm-lake, spec: {SOURCE % ""}}}}}
  timeWindow: [{window}]
  budgetingMethod: {method}
  objectives:
    - {{{objective}}}
"""


def threshold(objective: str, *, quantile: str = "", method: str = "Occurrences") -> str:
    """Write one SLO on the duration of GET / of shop."""
    return f"""apiVersion: openslo/v1
kind: SLO
metadata:
  name: durations
spec:
  service: shop
  indicator:
    metadata: {{name: duration}}
    spec:
      thresholdMetric: {{metricSource: {{type: apm-lake, spec: {SOURCE % quantile}}}}}
  timeWindow: [{{duration: 1w, isRolling: true}}]
  budgetingMethod: {method}
  objectives:
    - {{{objective}}}
"""


def save(folder: Path, *documents: str) -> Path:
    """Write documents into a folder of SLOs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slos.yaml").write_text("---\n".join(documents))
    return folder


def tally(found: Sequence[Request], start: datetime, until: datetime) -> list[Request]:
    """Return the requests that began in [start, until)."""
    return [one for one in found if start <= MONDAY + timedelta(seconds=one.at_s) < until]
