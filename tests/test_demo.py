"""The demo shop for some seconds, with real servers: whole traces, true faults."""

import json
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from apm_analytics.analyze import calendar
from apm_analytics.lake import query
from demo import plan, run, servers
from demo.shop import places

REQUESTS = 12


@pytest.fixture(scope="module")
def played(
    tmp_path_factory: pytest.TempPathFactory, server_binary: Callable[[str], Path]
) -> Iterator[Path]:
    """Customers with an order each, one fault, one deployment; then everything is stopped."""
    server_binary("redis-server")
    folder = tmp_path_factory.mktemp("demo")
    lake = folder / "lake"
    log = folder / "services.log"
    noted = (folder / "requests.jsonl").open("w")
    truth = plan.Truth(folder / "truth.json")
    with (
        noted,
        run.storage(folder) as stored,
        run.receiver(lake) as endpoint,
        run.shop(endpoint, folder, stored, log, APM_SAMPLE_RATE="1") as shop,
    ):
        gateway = f"http://{places.HOST}:{shop.environment['DEMO_PORT']}"
        for number in range(REQUESTS):
            _buy(gateway, number, noted)
        truth.began("n_plus_one")
        shop.set("n_plus_one")
        time.sleep(0.3)  # services look at the faults every tenth of a second
        for number in range(REQUESTS, REQUESTS + 5):
            _buy(gateway, number, noted)
        shop.set()
        truth.ended("n_plus_one")
        shop.replace("checkout", version="9.9.9")
        _buy(gateway, REQUESTS + 5, noted)
    yield folder


def _buy(gateway: str, number: int, noted: object) -> None:
    for item in (7, 8, 9):
        _ask(gateway, "POST", "/cart/items", number, noted, {"product": item})
    _ask(gateway, "GET", "/cart", number, noted)
    _ask(gateway, "GET", "/search?q=article", number, noted)
    _ask(gateway, "POST", "/checkout", number, noted, {})
    _ask(gateway, "GET", "/calendar", number, noted)


def _ask(
    gateway: str, method: str, path: str, number: int, noted: object, body: object = None
) -> None:
    correlation = f"visit-{number}-{time.time_ns()}"
    request = urllib.request.Request(
        gateway + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            "X-Correlation-ID": correlation,
            "X-Session-ID": f"session-{number}",
            "X-User-ID": f"user-{number}",
            "X-Organization-ID": "org-01",
        },
    )
    began_ns = time.time_ns()
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()
    row = {"correlation_id": correlation, "began_ns": began_ns, "ended_ns": time.time_ns()}
    noted.write(json.dumps(row) + "\n")  # type: ignore[attr-defined]


def spans(folder: Path, sql: str) -> pl.DataFrame:
    with query.connect(folder / "lake") as con:
        return query.frame(con, sql)


def test_every_request_is_one_whole_trace(played: Path) -> None:
    requests = pl.read_ndjson(played / "requests.jsonl")
    assert len(requests) == (REQUESTS + 6) * 7
    roots = spans(
        played,
        "select attributes['correlation.id'] as correlation_id, trace_id from spans"
        " where service_name = 'gateway' and kind = 'server'",
    )
    assert requests.join(roots, on="correlation_id", how="anti").is_empty()
    assert len(roots) == len(requests) and roots["trace_id"].n_unique() == len(requests)
    orphans = spans(
        played,
        """select service_name, name from spans as child where parent_span_id is not null
        and not exists (select 1 from spans as parent where parent.trace_id = child.trace_id
        and parent.span_id = child.parent_span_id)""",
    )
    assert orphans.is_empty(), orphans


def test_an_order_crosses_all_services_and_carries_its_business_context(played: Path) -> None:
    found = spans(
        played,
        """select trace_id, list(distinct service_name order by service_name) as services,
        list(distinct service_name || ' ' || name) filter (session_id is null) as sessions,
        list(distinct service_name || ' ' || name) filter (business_transaction <> 'purchase')
        as purchases from spans
        where trace_id in (select trace_id from spans where name = 'POST /checkout')
        group by trace_id""",
    )
    assert len(found) == REQUESTS + 6
    wanted = ["cart", "checkout", "gateway", "payment", "worker"]
    assert [one for one in found["services"].to_list() if one != wanted] == []
    assert found["sessions"].drop_nulls().to_list() == []
    assert found["purchases"].drop_nulls().to_list() == []


def test_durations_are_right_to_a_millisecond_against_the_clock_of_the_client(
    played: Path,
) -> None:
    requests = pl.read_ndjson(played / "requests.jsonl")
    seen = spans(
        played,
        "select attributes['correlation.id'] as correlation_id, epoch_ns(time) as start_ns,"
        " duration_ns from spans where service_name = 'gateway' and kind = 'server'",
    ).join(requests, on="correlation_id")
    more_ms = (seen["ended_ns"] - seen["began_ns"] - seen["duration_ns"]) / 1e6
    # What a client sees besides is the way there and back: never less, at best under 1 ms.
    assert more_ms.quantile(0.02) is not None and -1.0 < float(more_ms.quantile(0.02) or 9) < 1.0
    starts_ms = (seen["start_ns"] - seen["began_ns"]) / 1e6
    assert float(starts_ms.min() or 0) > -1.0  # type: ignore[arg-type]
    assert statistics.median(starts_ms.to_list()) < 20


def test_the_third_party_gets_no_baggage_and_its_path_no_person(played: Path) -> None:
    found = spans(
        played,
        "select distinct name, url_path, attributes['graph.resource'] as resource from spans"
        " where name like '%calendar/events'",
    )
    assert found["name"].to_list() == ["GET /users/{id}/calendar/events"]
    assert spans(played, "select 1 from spans where service_name = 'graph'").is_empty()
    texts = spans(played, "select attributes::varchar || coalesce(url_path, '') as t from spans")
    assert not texts["t"].str.contains("3f2504e0").any()


def test_databases_queues_and_figures_are_there(played: Path) -> None:
    systems = spans(played, "select distinct db_system_name as s from spans where s is not null")
    wanted = {"redis", "postgresql" if servers.postgres_program("postgres") else "sqlite"}
    assert set(systems["s"]) == wanted
    orders = spans(
        played,
        "select sum(value) as total from (select max(value) as value from metric_points"
        " where name = 'shop.orders' group by service_instance_id)",
    )
    assert orders["total"].item() == REQUESTS + 6


def test_the_fault_shows_in_the_trace_and_in_the_truth(played: Path) -> None:
    counts = spans(
        played,
        """select server.time, count(query.span_id) as queries from spans as server
        left join spans as query on query.trace_id = server.trace_id
        and query.parent_span_id = server.span_id and query.db_system_name in
        ('postgresql', 'sqlite')
        where server.name = 'GET /carts/{session}' and server.kind = 'server'
        group by server.span_id, server.time order by server.time""",
    )
    [entry] = calendar.from_truth(played / "truth.json").entries(kind="incident")
    assert entry.name == "n_plus_one" and entry.end >= entry.start
    assert counts["queries"].head(2 * REQUESTS).to_list() == [1] * (2 * REQUESTS)
    assert counts["queries"].slice(2 * REQUESTS, 10).to_list() == [3] * 10
    released = spans(played, "select distinct service_version as v from spans order by v")
    assert released["v"].to_list() == ["1.4.0", "9.9.9"]


def test_a_plan_gives_every_fault_its_own_time() -> None:
    steps = plan.plan(180, tuple(plan.FAULTS))
    assert len(steps) == 12 and steps[0].begins_s > 20
    for one, following in pairwise(steps):
        assert one.begins_s < one.ends_s < following.begins_s
    assert steps[-1].ends_s < 180
