"""The simulated shop is valid OTLP, the same for the same seed, and does what its truth says."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from apm_analytics.errors import BadParameter
from apm_analytics.ingest.files import import_files
from apm_analytics.lake import query, snapshots
from apm_analytics.simulate import shop

END = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAYS, SPANS, SEED = 5, 60_000, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("otlp")
    shop.write(out, days=DAYS, spans=SPANS, seed=SEED, end=END, progress=False)
    return out


@pytest.fixture(scope="module")
def truth(folder: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((folder / "truth.json").read_text())
    return held


@pytest.fixture(scope="module")
def lake(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lake")
    summary = import_files(sorted(folder.glob("*.pb.zst")), made, workers=1, progress=False)
    assert summary.ok and not any(file.rejected for file in summary.files)
    return made


@pytest.fixture(scope="module")
def con(lake: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with query.connect(lake) as opened:
        yield opened


def ask(con: duckdb.DuckDBPyConnection, sql: str) -> Any:
    found = con.execute(sql).fetchone()
    assert found
    return found[0] if len(found) == 1 else found


def test_every_record_is_valid_and_counted(lake: Path, truth: dict[str, Any]) -> None:
    rows = {row["table"]: row["rows"] for row in snapshots.status(lake).to_dicts()}
    assert rows == truth["counts"]
    assert abs(rows["spans"] - SPANS) < 0.05 * SPANS


def test_the_same_arguments_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for seed, same in ((SEED, True), (SEED + 1, False)):
        out = tmp_path / str(seed)
        shop.write(out, days=DAYS, spans=SPANS, seed=seed, end=END, progress=False)
        for name in ("traces-000.pb.zst", "metrics-003.pb.zst", "logs-002.pb.zst"):
            digests = [hashlib.sha256((f / name).read_bytes()).digest() for f in (folder, out)]
            assert (digests[0] == digests[1]) is same, name


def test_spans_form_trees_without_repeated_ids(con: duckdb.DuckDBPyConnection) -> None:
    assert ask(con, "select count(*) - count(distinct (trace_id, span_id)) from spans") == 0
    orphans, early, late = ask(
        con,
        """
        select count(*) filter (p.span_id is null),
               count(*) filter (c.time < p.time),
               count(*) filter (c.kind <> 'consumer' and epoch_ns(c.time) + c.duration_ns
                                > epoch_ns(p.time) + p.duration_ns)
        from spans c left join spans p
          on c.trace_id = p.trace_id and c.parent_span_id = p.span_id
        where c.parent_span_id is not null
        """,
    )
    assert (orphans, early, late) == (0, 0, 0)


def test_there_are_six_services_and_25_operations(
    con: duckdb.DuckDBPyConnection, truth: dict[str, Any]
) -> None:
    found = con.execute(
        "select distinct service_name, name from spans where kind in ('server', 'consumer')"
    ).fetchall()
    named = {(entry["service"], entry["operation"]) for entry in truth["operations"]}
    assert set(found) == named and len(named) == 25
    assert len({service for service, _ in found}) == 6


def test_days_have_seasons(con: duckdb.DuckDBPyConnection) -> None:
    day, night = ask(
        con,
        "select count(*) filter (hour(time) between 13 and 16),"
        " count(*) filter (hour(time) between 2 and 5) from spans",
    )
    assert 2 < day / night < 4


def test_the_period_ends_just_before_its_end(con: duckdb.DuckDBPyConnection) -> None:
    last = ask(con, "select max(time)::timestamp from spans")
    assert 0 < (END.replace(tzinfo=None) - last).total_seconds() < 300


def test_an_incident_shows_in_its_operations_and_in_no_other(
    con: duckdb.DuckDBPyConnection, truth: dict[str, Any]
) -> None:
    (incident,) = [entry for entry in truth["incidents"] if entry["name"] == "inventory-db-locks"]
    start, end = incident["start"][:19], incident["end"][:19]
    rows = con.execute(
        f"""
        with labelled as (
            select service_name, name, duration_ns,
                   time between timestamp '{start}' and timestamp '{end}' as inside,
                   time between timestamp '{start}' - interval 1 day
                            and timestamp '{end}' - interval 1 day as before
            from spans where kind in ('server', 'consumer')
        )
        select service_name, name,
               quantile_cont(duration_ns, 0.5) filter (inside)
               / quantile_cont(duration_ns, 0.5) filter (before)
        from labelled group by all
        """
    ).fetchall()
    hit = {(entry["service"], entry["operation"]) for entry in incident["operations"]}
    assert ("storefront", "POST /checkout") in hit
    for service, name, ratio in rows:
        if (service, name) in hit:
            assert ratio > 1.4, (service, name, ratio)
        else:
            assert 0.6 < ratio < 1.5, (service, name, ratio)


def test_the_last_incident_is_still_going_on(truth: dict[str, Any]) -> None:
    last = truth["incidents"][-1]
    assert last["ongoing"] and last["end"] == truth["end"]


def test_deployments_change_the_version(
    con: duckdb.DuckDBPyConnection, truth: dict[str, Any]
) -> None:
    assert len(truth["deployments"]) >= 4
    for deployment in truth["deployments"]:
        first = ask(
            con,
            "select min(time)::timestamp from spans"
            f" where service_name = '{deployment['service']}'"
            f" and service_version = '{deployment['version']}'",
        )
        planned = datetime.fromisoformat(deployment["time"]).replace(tzinfo=None)
        assert 0 <= (first - planned).total_seconds() < 3600


def test_orders_are_the_checkouts_that_succeeded(con: duckdb.DuckDBPyConnection) -> None:
    orders = ask(con, "select sum(value) from metric_points where name = 'shop.orders'")
    placed = ask(
        con,
        "select count(*) from spans where service_name = 'storefront'"
        " and name = 'POST /checkout' and status_code <> 'error'",
    )
    assert orders == placed > 0


def test_errors_are_logged_with_their_trace(con: duckdb.DuckDBPyConnection) -> None:
    logged, matched = ask(
        con,
        "select count(*), count(s.span_id) from logs l left join spans s"
        " on l.trace_id = s.trace_id and l.span_id = s.span_id and s.status_code = 'error'"
        " where severity_text = 'ERROR'",
    )
    assert logged == matched > 0


def test_a_counter_restarts_and_histograms_add_up(con: duckdb.DuckDBPyConnection) -> None:
    assert (
        ask(con, "select count(*) from histogram_points where list_sum(bucket_counts) <> count")
        == 0
    )
    starts = ask(
        con,
        "select count(distinct start_time) from metric_points"
        " where name = 'http.server.requests' and service_name = 'storefront'",
    )
    assert starts == 1


def test_senseless_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="at least 1 day"):
        shop.write(tmp_path, days=0, spans=5000, seed=1, end=END)
    with pytest.raises(BadParameter, match="time zone"):
        shop.write(tmp_path, days=1, spans=5000, seed=1, end=END.replace(tzinfo=None))
