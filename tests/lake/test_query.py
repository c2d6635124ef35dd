"""Queries return their result in the requested format, or an error that says what to do."""

import io
import json
from pathlib import Path

import polars as pl
import pytest
from rows import spans, table

from apm_analytics.foundation.errors import BadInput, BadParameter, NotFound
from apm_analytics.lake import answers, query, snapshots
from apm_analytics.lake.schema import COMPUTED, TABLES


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    rows = spans([0, 1.5, 3700])
    snapshots.append(tmp_path, {"spans": rows})
    return tmp_path


def test_every_table_is_a_view_also_without_rows(lake: Path) -> None:
    con = query.connect(lake)
    for name, schema in TABLES.items():
        computed = COMPUTED.get(name, ())
        found = query.frame(con, f"select * from {name} limit 1")
        assert found.columns == [*schema.names, *computed]


def test_no_lake_is_an_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="apm import"):
        query.connect(tmp_path / "nowhere")


def test_answers_come_as_table_csv_json_and_parquet(lake: Path) -> None:
    sql = "select service_name, count(*) as n from spans group by all"
    assert "shop" in answers.answer(lake, sql).decode()
    assert answers.answer(lake, sql, form="csv") == b"service_name,n\nshop,3\n"
    assert json.loads(answers.answer(lake, sql, form="json")) == [{"service_name": "shop", "n": 3}]
    parquet = pl.read_parquet(io.BytesIO(answers.answer(lake, sql, form="parquet")))
    assert parquet.rows() == [("shop", 3)]


def test_nested_columns_survive_every_form(tmp_path: Path) -> None:
    rows = table(
        "logs",
        {"time": [1], "service_name": ["shop"], "attributes": [[("key", 'va"lue')]]},
    )
    snapshots.append(tmp_path, {"logs": rows})
    sql = "select attributes from logs"
    assert "va" in answers.answer(tmp_path, sql).decode()
    assert b'va\\""lue' in answers.answer(tmp_path, sql, form="csv")
    assert "va" in json.dumps(json.loads(answers.answer(tmp_path, sql, form="json")))
    assert pl.read_parquet(io.BytesIO(answers.answer(tmp_path, sql, form="parquet"))).height == 1


def test_a_long_table_says_how_many_rows_it_left_out(lake: Path) -> None:
    said = answers.answer(lake, "select range from range(1000)").decode()
    assert "800 more rows" in said


def test_a_wrong_statement_names_the_tables(lake: Path) -> None:
    with pytest.raises(BadInput, match="tables are spans"):
        answers.answer(lake, "select * from span")


def test_parameters_fill_in_and_a_missing_one_is_named(lake: Path) -> None:
    sql = "select count(*) as n from spans where duration_ns > $least"
    filled = answers.parameters(["least=5"])
    assert answers.answer(lake, sql, form="csv", parameters=filled) == b"n\n3\n"
    with pytest.raises(BadParameter, match="least"):
        answers.answer(lake, sql)
    with pytest.raises(BadParameter, match="NAME=VALUE"):
        answers.parameters(["least"])


def test_every_named_query_opens_with_a_comment_that_says_what_comes_out() -> None:
    for name in query.names():
        assert query.text(name).startswith("-- "), name


def test_an_unknown_named_query_lists_those_there_are(lake: Path) -> None:
    with pytest.raises(NotFound, match="no named query"):
        query.named(query.connect(lake), "no_such_query")


def test_an_answer_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "answer.csv"
    answers.save(b"one\n", file)
    assert file.read_bytes() == b"one\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["answer.csv"]


def test_entry_spans_are_servers_roots_and_what_another_service_called(tmp_path: Path) -> None:
    kinds = ["server", "internal", "internal", "client", "internal", "consumer"]
    services = ["web", "web", "cart", "cart", "web", "mail"]
    parents = [None, "s0", "s1", "s2", None, "s3"]
    rows = table(
        "spans",
        {
            "time": [1] * 6,
            "duration_ns": [1] * 6,
            "trace_id": ["t"] * 4 + ["u", "t"],
            "span_id": [f"s{number}" for number in range(6)],
            "parent_span_id": parents,
            "name": ["entry", "inside", "entry", "inside", "entry", "entry"],
            "kind": kinds,
            "service_name": services,
        },
    )
    snapshots.append(tmp_path, {"spans": rows})
    found = query.frame(query.connect(tmp_path), "select span_id from entry_spans order by 1")
    assert found["span_id"].to_list() == ["s0", "s2", "s4", "s5"]


def test_a_named_query_takes_what_it_is_not_told_as_null(lake: Path) -> None:
    told: dict[str, object] = {"count": 5, "min_requests": 1}
    said = answers.answer(lake, "slowest_operations", form="csv", parameters=told).decode()
    assert said.splitlines()[1].startswith("shop,GET /,3,")
