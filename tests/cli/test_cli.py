"""The command line: what a user types, what comes back, and which exit code."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from otlp_requests import as_json, traces

from apm_analytics import cli
from apm_analytics.signals import calendar


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    file = tmp_path / "traces.jsonl"
    file.write_text(json.dumps(as_json(traces(3))))
    done = CliRunner().invoke(cli.apm, ["import", str(file), "--lake", str(tmp_path / "lake")])
    assert done.exit_code == 0 and "3 spans" in done.output
    return tmp_path / "lake"


def test_query_prints_each_format(lake: Path) -> None:
    asked = ["query", "select count(*) as n from spans", "--lake", str(lake), "--format"]
    assert CliRunner().invoke(cli.apm, [*asked, "csv"]).output == "n\n3\n"
    assert json.loads(CliRunner().invoke(cli.apm, [*asked, "json"]).output) == [{"n": 3}]
    assert CliRunner().invoke(cli.apm, [*asked, "parquet"]).stdout_bytes[:4] == b"PAR1"
    assert "3" in CliRunner().invoke(cli.apm, [*asked, "table"]).output


def test_query_writes_a_file_and_takes_parameters(lake: Path, tmp_path: Path) -> None:
    file = tmp_path / "n.csv"
    arguments = ["query", "select $n + 1 as n", "--lake", str(lake), "--format", "csv"]
    done = CliRunner().invoke(cli.apm, [*arguments, "--set", "n=2", "--output", str(file)])
    assert done.exit_code == 0 and file.read_text() == "n\n3\n"


def test_queries_lists_each_with_what_comes_out() -> None:
    output = CliRunner().invoke(cli.apm, ["queries"]).output
    assert "slowest_operations" in output and "p95" in output


def test_lake_status_shows_the_tables(lake: Path) -> None:
    output = CliRunner().invoke(cli.apm, ["lake", "status", "--lake", str(lake)]).output
    assert "spans" in output and "3" in output


def test_an_import_of_the_past_says_that_retention_would_take_it(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "more.jsonl"
    file.write_text(json.dumps(as_json(traces(2))))
    asked = ["import", str(file), "--lake", str(lake)]
    output = CliRunner().invoke(cli.apm, asked).output
    assert "spans: 2 rows are older than 30 days (TRACES_RETENTION_DAYS)" in output
    assert "--no-retention" in output
    assert "older than" not in CliRunner().invoke(cli.apm, asked).output  # nothing came in
    status = ["lake", "status", "--lake", str(lake)]
    assert "spans: 5 rows are older than 30 days" in CliRunner().invoke(cli.apm, status).output
    monkeypatch.setenv("TRACES_RETENTION_DAYS", "100000")
    output = CliRunner().invoke(cli.apm, status).output
    assert "5 rows expire at about 2" in output and "--no-retention" not in output


def test_an_import_with_a_bad_file_ends_with_exit_code_1(tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text("no telemetry")
    done = CliRunner().invoke(cli.apm, ["import", str(file), "--lake", str(tmp_path / "lake")])
    assert done.exit_code == 1 and "need OTLP" in done.output


def test_an_error_of_ours_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["apm", "lake", "status", "--lake", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("apm: no lake at")


def test_simulate_makes_a_lake_and_does_not_make_it_twice(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    arguments = ["simulate", "--lake", str(lake), "--days", "1", "--spans", "2000"]
    done = CliRunner().invoke(cli.apm, [*arguments, "--no-progress"])
    assert done.exit_code == 0, done.output
    assert calendar.load(tmp_path) == calendar.from_truth(tmp_path / "simulated/truth.json")
    (tmp_path / "calendar.yaml").unlink()  # as if it had been killed before the last step
    again = CliRunner().invoke(cli.apm, [*arguments, "--if-missing"])
    assert again.exit_code == 0 and again.output == ""
    assert calendar.load(tmp_path) == calendar.from_truth(tmp_path / "simulated/truth.json")


def test_runs_of_an_empty_folder_is_an_empty_table(tmp_path: Path) -> None:
    assert CliRunner().invoke(cli.apm, ["runs", "--out", str(tmp_path)]).exit_code == 0
