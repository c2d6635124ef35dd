"""KPIs from every kind of source on one grid, and errors of wrong sources.

Tests `business.kpis`, `business.specs` and `business.kpi_files`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
from rows import MONDAY_NS, NS_PER_S, table

from apm_analytics.business import executive, kpis, technical
from apm_analytics.business import specs as kpi_specs
from apm_analytics.business.association import associate
from apm_analytics.foundation.errors import BadInput, BadParameter, NotFound
from apm_analytics.lake import query, snapshots

HOUR_NS = 3_600 * NS_PER_S
START = datetime(2026, 3, 2)
SAMPLED = "ot=th:8"  # one of two is kept


def spans() -> dict[str, list[object]]:
    """Six hours with one request per 10 min; none in hour 3; half of hour 5 is sampled."""
    rows: dict[str, list[object]] = {
        name: []
        for name in (
            "time",
            "duration_ns",
            "trace_id",
            "span_id",
            "service_name",
            "name",
            "kind",
            "status_code",
            "session_id",
            "organization_id",
            "trace_state",
        )
    }
    for number in range(37):
        hour, slot = divmod(number, 6)
        if hour == 3:
            continue
        buys = slot in (1, 4)
        values = (
            MONDAY_NS + number * 600 * NS_PER_S,
            (100 if slot < 3 else 300 if slot < 5 else 3_000) * 10**6,
            f"{number + 1:032x}",
            f"{number + 1:016x}",
            "shop",
            "POST /checkout" if buys else "GET /",
            "server",
            "error" if slot == 4 and hour == 1 else "unset",
            f"session-{hour}-{slot // 2}",
            "north" if buys and hour % 2 else None,
            SAMPLED if hour == 5 and slot == 0 else None,
        )
        for name, value in zip(rows, values, strict=True):
            rows[name].append(value)
    return rows


def points() -> dict[str, list[object]]:
    """Orders as deltas and as a counter that restarts in hour 2; points are of the past hour."""
    counter = [10.0, 14.0, 1.0, 4.0, 9.0, 9.0]
    hours = range(1, 7)
    return {
        "time": [MONDAY_NS + hour * HOUR_NS for hour in hours for _ in range(2)],
        "name": ["orders", "orders.total"] * 6,
        "value": [value for hour in hours for value in (float(hour), counter[hour - 1])],
        "kind": ["sum"] * 12,
        "temporality": ["delta", "cumulative"] * 6,
        "service_name": ["shop"] * 12,
    }


def logs() -> dict[str, list[object]]:
    """Two answers of a survey, in hours 0 and 2."""
    return {
        "time": [MONDAY_NS + 1, MONDAY_NS + 2, MONDAY_NS + 2 * HOUR_NS],
        "event_name": ["survey.answered"] * 3,
        "attributes_num": [[("score", 4.0)], [("score", 2.0)], [("score", 5.0)]],
        "service_name": ["shop"] * 3,
    }


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    lake = tmp_path_factory.mktemp("kpis") / "lake"
    snapshots.append(
        lake,
        {
            "spans": table("spans", spans()),
            "metric_points": table("metric_points", points()),
            "logs": table("logs", logs()),
        },
    )
    with query.connect(lake) as opened:
        yield opened


def kpi(source: str, folder: Path, *, better: str = "up") -> kpi_specs.Kpi:
    file = folder / "kpis.yaml"
    file.write_text(
        f"kpis:\n- {{name: one, title: one, unit: '1', better: {better}, source: {{{source}}}}}\n"
    )
    return kpi_specs.load(folder)["one"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("kind: metric, name: orders, aggregate: sum", [1, 2, 3, 4, 5, 6]),
        ("kind: metric, name: orders.total, aggregate: increase", [None, 4, 1, 3, 5, 0]),
        ("kind: spans, aggregate: count", [6, 6, 6, None, 6, 7]),
        ("kind: spans, aggregate: sessions", [3, 3, 3, None, 3, 3]),
        ("kind: spans, where: name = 'POST /checkout', aggregate: count", [2, 2, 2, None, 2, 2]),
        (
            "kind: spans, where: organization_id = 'north', aggregate: count",
            [0, 2, 0, None, 0, 2],
        ),
        ("kind: spans, aggregate: error_ratio", [0, 1 / 6, 0, None, 0, 0]),
        ("kind: share, of: name = 'POST /checkout'", [2 / 3, 2 / 3, 2 / 3, None, 2 / 3, 2 / 3]),
        ("kind: apdex, threshold_s: 0.2", [4 / 6, 3.5 / 6, 4 / 6, None, 4 / 6, 5 / 7]),
        ("kind: logs, event: survey.answered, aggregate: mean, attribute: score",
         [3, None, 5, None, None, None]),
        (
            "kind: sql, aggregate: sum, query: 'select time, 2 as value from logs'",
            [4, None, 2, None, None, None],
        ),
    ],
)  # fmt: skip
def test_a_figure_is_measured_from_its_source(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, source: str, expected: list[float | None]
) -> None:
    measured = kpis.measure(con, kpi(source, tmp_path), window_s=3600)
    assert measured["time"].to_list() == [START.replace(hour=hour) for hour in range(6)]
    assert measured["value"].to_list() == pytest.approx(expected, abs=1e-9)


def test_segments_add_up_to_the_whole_and_an_absent_one_had_none(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    one = kpi(
        "kind: spans, where: name = 'POST /checkout', aggregate: count, segment: organization.id",
        tmp_path,
    )
    whole = kpis.measure(con, one, window_s=3600)
    split = kpis.measure(con, one, window_s=3600, split=True)
    assert split["segment"].unique().sort().to_list() == ["north", "unknown"]
    summed = split.group_by("time").agg(pl.col("value").sum()).sort("time")["value"]
    assert summed.to_list() == whole["value"].fill_null(0).to_list()
    north = split.filter(segment="north").sort("time")["value"].to_list()
    assert north == [0, 2, 0, None, 0, 2]


def test_local_times_of_a_file_are_placed_by_their_zone(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    (tmp_path / "money.csv").write_text(
        "when,euros\n2026-03-02 01:30,5\n2026-03-02T02:10,7\n2026-03-02 03:00,1\n"
    )
    one = kpi(
        "kind: file, path: money.csv, time: when, value: euros, zone: Europe/Berlin,"
        " aggregate: sum",
        tmp_path,
    )
    measured = kpis.measure(con, one, window_s=3600)
    assert measured["value"].to_list() == [5, 7, 1, None, None, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,value\n2026-03-29 02:30,5\n", r"row 2: .*does not exist or exists twice"),
        ("time,value\n2026-10-25 02:30,5\n", r"does not exist or exists twice in Europe/Berlin"),
        ("time,value\n2026-03-02 02:30,many\n", r"row 2: \['many'\] is not a number"),
        ("time,value\nyesterday,1\n", r"row 2: \['yesterday'\] is not a time"),
        ("time,value\n2026-03-02 02:30,1\n2026-03-02T02:30Z,1\n", "some have none"),
        ("day,value\n2026-03-02,1\n", r"no column time; it has \['day', 'value'\]"),
    ],
)
def test_a_file_that_cannot_be_placed_is_refused_with_its_row(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "f.csv").write_text(text)
    one = kpi("kind: file, path: f.csv, zone: Europe/Berlin, aggregate: sum", tmp_path)
    with pytest.raises(BadInput, match=message):
        kpis.measure(con, one, window_s=3600)


def test_what_the_lake_does_not_have_is_named_and_the_rest_is_measured(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    sources = {
        "gone": "kind: metric, name: nope, aggregate: sum",
        "file": "kind: file, path: no.csv, aggregate: sum",
        "requests": "kind: spans, aggregate: count",
    }
    lines = [
        f"- {{name: {name}, title: a, unit: '1', better: up, source: {{{source}}}}}\n"
        for name, source in sources.items()
    ]
    (tmp_path / "kpis.yaml").write_text("kpis:\n" + "".join(lines))
    measured = kpis.measure_all(con, kpi_specs.load(tmp_path), window_s=3600)
    assert list(measured.kpis) == ["requests"] and measured.values.columns == ["time", "requests"]
    assert "the lake has nothing for the metric nope" in measured.missing["gone"]
    assert "no.csv" in measured.missing["file"]
    assert kpis.summary(measured).filter(kpi="requests")["missing_windows"].item() == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("kind: spans, where: no_such = 1, aggregate: count", "no_such"),
        ("kind: spans, where: 'name =', aggregate: count", "does not fit the lake"),
        ("kind: sql, query: select 1 as one, aggregate: sum", "does not fit the lake"),
    ],
)
def test_sql_that_does_not_fit_names_the_kpi(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(BadParameter, match=message) as caught:
        kpis.measure(con, kpi(source, tmp_path), window_s=3600)
    assert "KPI one" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("source: {kind: metric, name: x, aggregate: summ}", "kpis.yaml:3: .*aggregate"),
        ("source: {kind: metrics, name: x}", "kpis.yaml:3: .*found"),
        ("source: {kind: logs, event: x, aggregate: sum}", "needs an attribute"),
        ("source: {kind: file, path: a, aggregate: sum, zone: Mars}", "not a time zone"),
        ("money: true\n  source: {kind: spans, aggregate: error_ratio}", "money needs"),
        ("sauce: {}", "kpis.yaml:3: kpis.0.sauce"),
    ],
)
def test_a_spec_with_a_typo_is_refused_with_its_line(
    tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "kpis.yaml").write_text(
        f"kpis:\n- name: a\n  {line}\n  title: a\n  unit: '1'\n  better: up\n"
    )
    with pytest.raises(BadParameter, match=message):
        kpi_specs.load(tmp_path)


def test_the_projects_kpis_load(workspace: Path) -> None:
    known = kpi_specs.load(workspace / "specs")
    assert [name for name, one in known.items() if one.money] == ["revenue"]
    assert kpi_specs.technical_names(known) == ["apdex"]
    assert "shop.revenue" in kpi_specs.metric_names(known)


def test_a_grid_between_given_times_has_only_whole_windows(
    con: duckdb.DuckDBPyConnection,
) -> None:
    grid = kpis.grid(
        con,
        window_s=3600,
        since=datetime(2026, 3, 2, 0, 30, tzinfo=UTC),
        until=datetime(2026, 3, 2, 3, 59),
    )
    assert grid["time"].to_list() == [START.replace(hour=1), START.replace(hour=2)]
    with pytest.raises(NotFound, match="no whole window"):
        kpis.grid(con, window_s=86_400 * 7)


def test_a_lake_without_a_whole_window_has_no_figure_and_says_why(
    con: duckdb.DuckDBPyConnection, workspace: Path
) -> None:
    known = kpi_specs.load(workspace / "specs")
    measured = kpis.measure_all(con, known, window_s=86_400 * 7)
    assert not measured.kpis and set(measured.missing) == set(known)
    assert all("no whole window" in reason for reason in measured.missing.values())
    metrics, demand = technical.measure(con, window_s=86_400 * 7, min_requests=3)
    assert associate(measured.values, metrics, demand, max_lag=1).is_empty()
    assert executive.periods(measured).is_empty()
