"""`import apm_analytics as apm; apm.open(...)`, the entry point of notebooks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from otlp_requests import as_json, traces

import apm_analytics as apm
from apm_analytics.foundation.errors import BadParameter, NotFound
from apm_analytics.ingest.files.importer import import_files


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with three spans."""
    folder = tmp_path_factory.mktemp("lake")
    (folder / "traces.jsonl").write_text(json.dumps(as_json(traces(3))))
    assert import_files([folder / "traces.jsonl"], folder / "lake", progress=False).ok
    return folder / "lake"


def test_open_answers_sql_with_parameters(lake: Path) -> None:
    opened = apm.open(lake)
    assert opened.query("select count(*) as spans from spans")["spans"].item() == 3
    assert opened.query("select $n + 1 as n", n=2)["n"].item() == 3


def test_open_runs_named_queries_and_names_what_does_not_fit(lake: Path) -> None:
    opened = apm.open(str(lake))
    assert opened.named("find_id", id="nowhere").is_empty()
    with pytest.raises(BadParameter, match="find_id"):
        opened.named("find_id", other=1)


def test_open_shows_the_status_of_each_table(lake: Path) -> None:
    status = apm.open(lake).status()
    assert dict(status.select("table", "rows").iter_rows())["spans"] == 3


def test_open_refuses_a_folder_without_a_lake(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no lake"):
        apm.open(tmp_path)


def test_importing_the_package_loads_no_library() -> None:
    program = (
        "import sys, apm_analytics\n"
        "print([name for name in ('duckdb', 'polars', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
