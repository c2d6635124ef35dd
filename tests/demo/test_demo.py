"""The demo shop for some seconds, with real servers: whole traces, true faults."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from apm_analytics.lake import query, snapshots
from apm_analytics.signals import calendar
from demo import completeness, plan, run, servers

VISITS = 12


@pytest.fixture(scope="module")
def played(
    tmp_path_factory: pytest.TempPathFactory, server_binary: Callable[[str], Path]
) -> Iterator[Path]:
    """Customers with one order each, one fault, one deployment; then everything is stopped."""
    server_binary("redis-server")
    folder = tmp_path_factory.mktemp("demo")
    lake = folder / "lake"
    log = folder / "services.log"
    truth = plan.Truth(folder / "truth.json")
    with (
        run.storage(folder) as stored,
        run.receiver(lake) as endpoint,
        run.shop(endpoint, folder, stored, log, APM_SAMPLE_RATE="1") as shop,
    ):
        with closing(completeness.Client(shop, "1-0")) as customer:
            for number in range(VISITS):
                customer.visit(number)
            truth.began("n_plus_one")
            shop.set("n_plus_one")
            time.sleep(0.3)  # services look at the faults every tenth of a second
            for number in range(VISITS, VISITS + 5):
                customer.visit(number)
        shop.set()
        truth.ended("n_plus_one")
        shop.replace("checkout", version="9.9.9")
        with closing(completeness.Client(shop, "1-0")) as another:
            another.visit(VISITS + 5)
    pl.DataFrame(customer.seen + another.seen).write_ndjson(folder / "requests.jsonl")
    yield folder


@pytest.fixture(scope="module")
def complete(played: Path) -> completeness.Completeness:
    """The results of the customers' requests."""
    seen = pl.read_ndjson(played / "requests.jsonl")
    return completeness.check(played / "lake", seen)


def spans(folder: Path, sql: str) -> pl.DataFrame:
    with query.connect(folder / "lake") as con:
        return query.frame(con, sql)


def test_every_request_is_one_whole_trace(complete: completeness.Completeness) -> None:
    assert complete.requests == (VISITS + 6) * len(completeness.VISIT)
    assert complete.whole == complete.requests
    assert complete.orphans == 0 and complete.spans > 3 * complete.requests


def test_a_trace_that_lacks_its_root_or_a_span_between_is_not_whole(
    played: Path, tmp_path: Path
) -> None:
    seen = pl.read_ndjson(played / "requests.jsonl").head(len(completeness.VISIT))
    for lost in ("gateway", "cart"):
        where = f"service_name = '{lost}' and kind = 'server'"
        lake = tmp_path / lost
        with query.connect(played / "lake") as con:
            left = con.sql(f"select * exclude sample_weight from spans where not ({where})")
            snapshots.append(lake, {"spans": left.to_arrow_table()})
        found = completeness.check(lake, seen)
        assert found.whole < found.requests


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
    assert len(found) == VISITS + 6
    wanted = ["cart", "checkout", "gateway", "payment", "worker"]
    assert [one for one in found["services"].to_list() if one != wanted] == []
    assert found["sessions"].drop_nulls().to_list() == []
    assert found["purchases"].drop_nulls().to_list() == []


def test_one_id_finds_the_trace_its_log_lines_and_the_session(played: Path) -> None:
    with query.connect(played / "lake") as con:
        found = query.named(con, "find_id", id="1-0-3-7")  # a checkout's X-Correlation-ID
        again = query.named(con, "find_id", id=found["trace_id"][0])
        session = query.named(con, "find_id", id=found["session"].drop_nulls()[0])
    assert set(found["service"]) == {"gateway", "cart", "checkout", "payment", "worker"}
    assert "shop.order.placed" in found.filter(what="log")["text"].to_list()
    assert found.equals(again)
    assert session["trace_id"].n_unique() == len(completeness.VISIT)


def test_durations_are_right_to_a_millisecond_against_the_clock_of_the_client(
    complete: completeness.Completeness,
) -> None:
    more_ms = complete.more_ms
    assert float(complete.there_ms.min() or 0) > -0.1  # type: ignore[arg-type]
    assert abs(float(more_ms.quantile(0.1) or 0)) < 1.0  # without other load on the machine
    assert complete.within(1.0, less_no_core=True) > 0.9
    assert complete.within(1.0) < complete.within(20.0) > 0.9  # none waits for an acknowledgement


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
    assert orders["total"].item() == VISITS + 6


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
    assert counts["queries"].head(2 * VISITS).to_list() == [1] * (2 * VISITS)
    assert counts["queries"].slice(2 * VISITS, 10).to_list() == [3] * 10
    released = spans(played, "select distinct service_version as v from spans order by v")
    assert released["v"].to_list() == ["1.4.0", "9.9.9"]


def test_a_plan_gives_every_fault_its_own_time() -> None:
    steps = plan.plan(180, tuple(plan.FAULTS))
    assert len(steps) == 12 and steps[0].begins_s > 20
    for one, following in pairwise(steps):
        assert one.begins_s < one.ends_s < following.begins_s
    assert steps[-1].ends_s < 180


def test_the_truth_of_a_second_run_is_added_to_that_of_the_first(tmp_path: Path) -> None:
    for fault in ("lock", "leak"):
        truth = plan.Truth(tmp_path / "truth.json")
        truth.began(fault)
        truth.ended(fault)
    entries = calendar.from_truth(tmp_path / "truth.json").entries(kind="incident")
    assert {entry.name for entry in entries} == {"lock", "leak"}
