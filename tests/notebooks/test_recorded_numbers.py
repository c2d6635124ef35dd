"""Every notebook of notebooks/, found by glob, on a lake of two days: too short for a season."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import pytest
import small_run

from apm_analytics.nightly import notebooks
from apm_analytics.report.records import NotebookResult

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
FILES = sorted(FOLDER.glob("*.ipynb"))
MAX_CELLS = 25
Results = dict[str, NotebookResult]

# What a notebook must find in the small shop, see small_run.py. A new notebook adds its own.
EXPECTED: dict[str, dict[str, Callable[[Any], bool]]] = {
    "00_start_here": {
        "spans": lambda found: found == 21_888,
        "services": lambda found: found == 3,
        "requests": lambda found: found == 10_368,
    },
    "10_explore_services": {
        "window_s": lambda found: found == 3_600,
        "operations_ranked": lambda found: found == 7,
        "error_ratio": lambda found: 0.001 < found < 0.02,
        "trace_spans": lambda found: found == 5,
    },
    "20_baselines": {
        "series": lambda found: found == 21,
        "series_skipped": lambda found: found == 1,
        "series_mended": lambda found: found == 0,
        "models": lambda found: found == ["robust"],
        "inside_ratio": lambda found: 0.98 < found < 1,
    },
    "21_model_selection": {
        "series": lambda found: found == 7,
        "origins": lambda found: found == 7,
        "models": lambda found: found == ["time_of_day"],
        "worst_gain": lambda found: abs(found - 0.2) < 1e-9,
        "coverage": lambda found: abs(found - 0.991) < 1e-9,
    },
    "22_backtest_alerts": {
        "alerts": lambda found: found == 30,
        "learned": lambda found: 0 < found < 30,
        "fired": lambda found: found >= 3,
    },
    # Two days are too short for a season: it says so.
    "23_prophet_single_series": {
        "series": lambda found: found == "cart GET /items latency_p95",
        "reason": lambda found: found.startswith("2.0 days of history"),
        "difference": lambda found: found == 0.0,
        "models": lambda found: found == 0,
        "best_model": lambda found: found == "",
    },
    "30_anomalies": {
        "anomalous_operations_now": lambda found: found == 2,
        "anomalous_now": lambda found: found == 4,
        "episodes": lambda found: found >= 6,
        "cards_now": lambda found: found == 4,
        "main_signals_now": lambda found: found == ["error_ratio", "latency_p95"],
    },
    "31_forecast_capacity": {
        "series": lambda found: found == 14,
        "forecast": lambda found: found == 0,
        "not_enough_data": lambda found: found == 14,
        "operations_with_load_limit": lambda found: found == 0,
    },
    "32_today": {
        "new_operations": lambda found: found == 1,
        "gone_operations": lambda found: found == 1,
        "new_versions": lambda found: found == 0,
        "new_errors": lambda found: found == 0,
        "shifts": lambda found: found == 0,
        "began": lambda found: found >= 0,
    },
    # Of the shop's transactions and objectives only the checkout is there.
    "40_transactions": {
        "transactions": lambda found: found == 3,
        "instances": lambda found: found == 2_304,
        "slowest_step": lambda found: found == ["POST bank.example"],
        "violations_listed": lambda found: found == 10,
    },
    "41_sla_report": {
        "objectives": lambda found: found == 9,
        "insufficient": lambda found: found == 5,
        "missed": lambda found: found == ["checkout-latency"],
        "restated": lambda found: found == 0,
    },
    # Two days are too short to judge a pair or an incident: both say so.
    "42_kpi_correlation": {
        "figures": lambda found: found == 3,
        "associated": lambda found: found == 0,
        "insufficient": lambda found: found > 0,
    },
    "43_business_impact": {
        "incidents": lambda found: found == 1,
        "estimated": lambda found: found == 0,
    },
    "44_executive_summary": {
        "sentences": lambda found: len(found) == 3 and "1 of 4 objectives" in found[1],
        "objectives": lambda found: found == 9,
        "figures": lambda found: found == 3,
    },
    "50_publish_thresholds": {
        "series": lambda found: found == 30,
        "thresholds": lambda found: found == 30 * 168,
        "published": lambda found: 0 < found < 30,
        "new": lambda found: found == 30,
        "gone": lambda found: found == 0,
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> small_run.SmallRun:
    return small_run.write(tmp_path_factory.mktemp("notebooks"))


@pytest.fixture(scope="module")
def results(run: small_run.SmallRun, workspace: Path) -> Results:
    """The pipeline of the nightly run, once."""
    release = run.workspace / "release"
    release.mkdir()
    found = notebooks.run_all(
        workspace / "pipelines" / "nightly.yaml",
        notebooks=FOLDER,
        out=run.workspace / "executed",
        parameters={
            "lake": run.lake,
            "derived": run.derived,
            "models": run.models,
            "release": release,
            "run_id": small_run.RUN_ID,
        },
        progress=False,
    )
    return {result.name: result for result in found}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_notebook_finds_in_the_small_shop_what_is_there(file: Path, results: Results) -> None:
    assert file.stem in results, f"{file.stem} is not in pipelines/nightly.yaml"
    result = results[file.stem]
    assert result.status == "ok", result.error
    assert EXPECTED.get(file.stem), f"say in EXPECTED what {file.stem} must record"
    for name, holds in EXPECTED[file.stem].items():
        assert holds(result.records[name]), f"{name} = {result.records[name]}"


def test_the_published_thresholds_name_the_run(run: small_run.SmallRun, results: Results) -> None:
    assert results["50_publish_thresholds"].publishes
    frame = pl.read_parquet(run.workspace / "release" / "thresholds.parquet")
    assert frame["run_id"].unique().to_list() == [small_run.RUN_ID]
    assert (run.workspace / "release" / "prometheus" / "apm_thresholds.prom").exists()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_executed_notebook_warns_of_nothing(file: Path, results: Results) -> None:
    path = results[file.stem].path
    assert path is not None
    outputs = [
        output
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
    ]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_notebook_asks_one_question_and_holds_no_logic(file: Path) -> None:
    document = nbformat.read(file, as_version=4)
    cells = document.cells
    assert len(cells) <= MAX_CELLS
    assert cells[0].cell_type == "markdown" and re.match(r"# .+\n\n\S", cells[0].source)
    assert cells[-1].cell_type == "markdown" and cells[-1].source.startswith("## ")
    assert cells[1].metadata.get("tags") == ["parameters"]
    assert document.metadata.kernelspec.name == "python3"
    for cell in cells:
        if cell.cell_type == "code":
            assert not re.search(r"^\s*(def|class|async def) ", cell.source, re.M)
            assert cell.outputs == [] and cell.execution_count is None
