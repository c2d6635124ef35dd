"""Service levels and critical paths on recorded traces, compared with a recount of the raw JSON."""

import gzip
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import orjson
import pytest
import slo_shop
from crisp_reference import Node, critical_self

from apm_analytics.ingest.files import importer
from apm_analytics.lake import query
from apm_analytics.slo import specs as slo_specs
from apm_analytics.slo.report import reports
from apm_analytics.traces import critical_path

EPOCH = datetime(1970, 1, 1)
SLO = """apiVersion: openslo/v1
kind: SLO
metadata: {{name: {name}}}
spec:
  service: trains
  indicator:
    metadata: {{name: duration}}
    spec:
      thresholdMetric: {{metricSource: {{type: apm-lake, spec: {{service: {service}}}}}}}
  timeWindow: [{{duration: 1h, isRolling: true}}]
  budgetingMethod: Occurrences
  objectives:
    - {{target: 0.99, op: lte, value: {value}}}
"""


@dataclass(frozen=True)
class Raw:
    """A span as in the raw document."""

    trace: str
    span: str
    parent: str
    service: str
    name: str
    kind: int
    start_ns: int
    end_ns: int


@pytest.fixture(scope="module")
def raw(real_data: Path) -> list[Raw]:
    """Every span of the recording, read without the package."""
    return list(_raw(real_data / "train-ticket/2023-01-30/traces.jsonl.gz"))


@pytest.fixture(scope="module")
def trains(
    real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a lake with the recording."""
    lake = tmp_path_factory.mktemp("trains") / "lake"
    importer.import_files(
        [real_data / "train-ticket/2023-01-30/traces.jsonl.gz"], lake, progress=False
    )
    with query.connect(lake) as con:
        yield con


def _raw(file: Path) -> Iterator[Raw]:
    with gzip.open(file) as lines:
        for line in lines:
            for resource in orjson.loads(line)["resourceSpans"]:
                service = next(
                    one["value"]["stringValue"]
                    for one in resource["resource"]["attributes"]
                    if one["key"] == "service.name"
                )
                for scope in resource["scopeSpans"]:
                    for span in scope["spans"]:
                        yield Raw(
                            span["traceId"],
                            span["spanId"],
                            span.get("parentSpanId", ""),
                            service,
                            span["name"],
                            span.get("kind", 0),
                            int(span["startTimeUnixNano"]),
                            int(span["endTimeUnixNano"]),
                        )


@pytest.mark.parametrize(
    ("service", "value"),
    [("ts-gateway-service", 1.0), ("ts-order-service", 0.05), ("ts-seat-service", 0.2)],
)
def test_a_budget_equals_the_recount_to_the_last_event(
    raw: list[Raw],
    trains: duckdb.DuckDBPyConnection,
    tmp_path: Path,
    service: str,
    value: float,
) -> None:
    folder = slo_shop.save(tmp_path, SLO.format(name="answers", service=service, value=value))
    (slos,) = reports(trains, slo_specs.load(folder), slo_shop.given())
    budget = slos.budgets[0]

    services = {(one.trace, one.span): one.service for one in raw}
    entries = [
        one
        for one in raw
        if one.service == service
        and (
            one.kind in (2, 5)
            or not one.parent
            or (
                one.kind in (0, 1)
                and services.get((one.trace, one.parent), service) != service
            )
        )
    ]  # fmt: skip
    end_ns = (max(one.start_ns for one in raw) // 60_000_000_000 + 1) * 60_000_000_000
    assert budget.until == EPOCH + timedelta(microseconds=end_ns // 1_000)

    def recount(minutes: int) -> tuple[int, int]:
        own = [one for one in entries if one.start_ns >= end_ns - minutes * 60_000_000_000]
        return len(own), sum(one.end_ns - one.start_ns > value * 1e9 for one in own)

    total, bad = recount(60)
    assert total > 200 and bad > 0
    assert (budget.total, budget.bad) == (total, bad)
    assert budget.allowed == Decimal("0.01") * total
    for burn in slos.burns[:4]:
        seen, slow = recount({"5m": 5, "30m": 30, "1h": 60, "2h": 120}[burn.window])
        assert burn.total == seen
        if burn.rate is not None:
            assert burn.error_ratio == Decimal(slow) / seen


def test_critical_paths_agree_with_a_plain_reference_on_every_trace(
    raw: list[Raw], trains: duckdb.DuckDBPyConnection
) -> None:
    ties = dict(trains.sql("select span_id, hash(span_id) from spans").fetchall())
    traces: defaultdict[str, list[Node]] = defaultdict(list)
    for one in raw:
        traces[one.trace].append(
            Node(one.span, one.parent or None, one.start_ns, one.end_ns, ties[one.span])
        )
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    path = critical_path.spans(trains)
    for trace, span, critical_s in path.select("trace_id", "span_id", "critical_s").iter_rows():
        found[trace][span] = round(critical_s * 1e9)

    assert len(traces) == len(found) == 2_537
    wrong = [trace for trace, nodes in traces.items() if critical_self(nodes) != found[trace]]
    assert wrong == []
