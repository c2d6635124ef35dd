"""`traces.waterfall`: the slowest operations, the choice of a trace, and its layout."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import rows
import small_run

from apm_analytics.foundation.errors import NotFound
from apm_analytics.lake import query, snapshots
from apm_analytics.traces import waterfall

MS = 10**6


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    run = small_run.write(tmp_path_factory.mktemp("run"), trained=False)
    with query.connect(run.lake) as con:
        yield con


def lake_of(folder: Path, spans: list[dict[str, Any]]) -> duckdb.DuckDBPyConnection:
    """A lake of one trace; times in ms."""
    filled = [
        {
            "time": rows.MONDAY_NS + span["start"] * MS,
            "duration_ns": span["took"] * MS,
            "trace_id": "t1",
            "span_id": span["id"],
            "parent_span_id": span.get("parent"),
            "name": span["id"],
            "kind": "server",
            "status_code": "unset",
            "service_name": "shop",
        }
        for span in spans
    ]
    columns = {name: [span[name] for span in filled] for name in filled[0]}
    snapshots.append(folder, {"spans": rows.table("spans", columns)})
    return query.connect(folder)


def test_operations_are_ranked_by_their_p95(shop: duckdb.DuckDBPyConnection) -> None:
    ranked = waterfall.slowest_operations(shop)
    assert ranked.row(0)[:2] == small_run.SLOW
    assert ranked["latency_p95_s"].is_sorted(descending=True)
    assert ranked["requests"].sum() == 2 * 2304 * 2 + 1152  # both sides of checkout and cart


def test_operations_with_few_requests_are_not_ranked(shop: duckdb.DuckDBPyConnection) -> None:
    names = waterfall.slowest_operations(shop, min_requests=1000)["operation"].to_list()
    assert "GET /legacy" not in names and "GET /cart" in names


def test_a_slow_trace_shows_the_whole_request(shop: duckdb.DuckDBPyConnection) -> None:
    spans = waterfall.waterfall(shop, waterfall.slow_trace(shop))
    assert spans["name"].to_list() == [
        "POST /checkout",
        "charge",
        "POST /charge",
        "INSERT payments",
        "POST bank.example",
    ]
    assert spans["depth"].to_list() == [0, 1, 2, 3, 3]
    assert spans["duration_s"][0] > 1


def test_an_operation_without_requests_is_an_error_that_says_where_to_look(
    shop: duckdb.DuckDBPyConnection,
) -> None:
    with pytest.raises(NotFound, match="slowest_operations"):
        waterfall.slow_trace(shop, "storefront", "GET /nowhere")
    with pytest.raises(NotFound, match="no trace 'abc'"):
        waterfall.waterfall(shop, "abc")


def test_self_time_is_what_no_child_covers(tmp_path: Path) -> None:
    spans = [
        {"id": "root", "start": 0, "took": 100},
        {"id": "a", "parent": "root", "start": 10, "took": 30},
        {"id": "b", "parent": "root", "start": 20, "took": 30},  # overlaps a
        {"id": "late", "parent": "root", "start": 90, "took": 50},  # ends after its parent
    ]
    with lake_of(tmp_path, spans) as con:
        frame = waterfall.waterfall(con, "t1")
    found = dict(zip(frame["name"], frame["self_s"], strict=True))
    assert found["root"] == pytest.approx(0.100 - 0.040 - 0.010)
    assert found["late"] == pytest.approx(0.050)


def test_orphans_and_circles_become_roots_of_their_own(tmp_path: Path) -> None:
    spans = [
        {"id": "root", "start": 0, "took": 10},
        {"id": "orphan", "parent": "gone", "start": 1, "took": 5},
        {"id": "self", "parent": "self", "start": 2, "took": 5},
        {"id": "x", "parent": "y", "start": 3, "took": 5},
        {"id": "y", "parent": "x", "start": 4, "took": 5},
        {"id": "below", "parent": "orphan", "start": 5, "took": 1},
    ]
    with lake_of(tmp_path, spans) as con:
        frame = waterfall.waterfall(con, "t1")
    assert sorted(frame["name"]) == ["below", "orphan", "root", "self", "x", "y"]
    depths = dict(zip(frame["name"], frame["depth"], strict=True))
    assert depths == {"root": 0, "orphan": 0, "self": 0, "x": 0, "y": 0, "below": 1}


def test_a_span_that_arrived_twice_is_drawn_once(tmp_path: Path) -> None:
    with lake_of(tmp_path, [{"id": "root", "start": 0, "took": 10}] * 2) as con:
        assert waterfall.waterfall(con, "t1").height == 1


def test_of_a_huge_trace_the_longest_spans_stay_with_their_parents(tmp_path: Path) -> None:
    chain = [
        {"id": f"c{n}", "parent": f"c{n - 1}" if n else None, "start": n, "took": 500 - n}
        for n in range(50)
    ]
    leaves = [{"id": f"l{n}", "parent": "c0", "start": n, "took": 1} for n in range(200)]
    with lake_of(tmp_path, chain + leaves) as con:
        frame = waterfall.waterfall(con, "t1", max_rows=60)
    assert frame.height == 60 and frame["hidden"][0] == 190
    assert {f"c{n}" for n in range(50)} <= set(frame["name"])
    assert frame["row"].to_list() == list(range(60))
