"""Every notebook of notebooks/, found by glob, on the simulated shop that the stages trained."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import pytest
import trained_shop

from apm_analytics.nightly import notebooks
from apm_analytics.report.records import NotebookResult

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
FILES = sorted(FOLDER.glob("*.ipynb"))
MAX_CELLS = 25
Results = dict[str, NotebookResult]

# What each notebook must find in the shop, see trained_shop.py. A new notebook adds its own.
EXPECTED: dict[str, dict[str, Callable[[Any], bool]]] = {
    "00_start_here": {
        "spans": lambda spans: abs(spans / trained_shop.SPANS - 1) < 0.01,
        "services": lambda services: services == 6,
        "requests": lambda requests: 0.5 < requests / trained_shop.SPANS < 0.6,
    },
    "10_explore_services": {
        "window_s": lambda window_s: window_s == 10_800,
        "operations_ranked": lambda operations: operations == 15,
        "error_ratio": lambda ratio: 0.002 < ratio < 0.006,
        "trace_spans": lambda spans: spans > 5,
    },
    "20_baselines": {
        "series": lambda series: series == 75,
        "series_skipped": lambda series: series == 0,
        "series_mended": lambda series: series <= 2,
        "models": lambda models: {"robust", "time_of_day"} <= set(models),
        "inside_ratio": lambda ratio: 0.98 < ratio < 1,
    },
    "21_model_selection": {
        "series": lambda series: series >= 50,
        "origins": lambda origins: origins == 7,
        "models": lambda models: "time_of_day" in models,
        "worst_gain": lambda gain: 0 < gain < 0.2,
        "coverage": lambda coverage: 0.98 < coverage < 1,
    },
    # Two thresholds per rate, one per latency and error ratio, hence 112 with the static ones.
    "22_backtest_alerts": {
        "alerts": lambda alerts: 60 < alerts <= 84,  # a rate above its bound is not watched
        "learned": lambda learned: 40 < learned <= 84,
        "fired": lambda fired: fired >= 10,
    },
    # The payment provider is slow at the end, and so is everything that calls it.
    "23_prophet_single_series": {
        "reason": lambda reason: reason == "",
        "difference": lambda difference: 0 < difference < 0.02,
        "models": lambda models: models >= 3,
    },
    "30_anomalies": {
        "anomalous_operations_now": lambda operations: 2 <= operations <= 6,
        "anomalous_now": lambda series: series >= 2,
        "episodes": lambda episodes: episodes > 50,
        "cards_now": lambda cards: cards >= 2,
        "main_signals_now": lambda signals: "latency_p95" in signals,
    },
    # Every series gets a forecast; at 10 % in 28 days none doubles its peak within the horizon.
    "31_forecast_capacity": {
        "series": lambda series: series == 50,
        "forecast": lambda forecast: forecast == 50,
        "not_enough_data": lambda series: series == 0,
        "within_horizon": lambda series: series == 0,
        "already_past": lambda series: series == 0,
    },
    "32_today": {
        "new_operations": lambda operations: operations == 0,
        "gone_operations": lambda operations: operations == 0,
        "new_versions": lambda versions: versions == 0,
        "new_errors": lambda errors: errors < 5,
        "shifts": lambda shifts: shifts < 15,
        "began": lambda series: series < 5,
    },
    "40_transactions": {
        "transactions": lambda transactions: transactions == 3,
        "instances": lambda instances: 50_000 < instances < 100_000,
        "slowest_step": lambda steps: steps == ["POST /v1/charges"],
        "missed": lambda missed: missed == ["buying"],
        "violations_listed": lambda violations: violations == 30,
    },
    "41_sla_report": {
        "objectives": lambda objectives: objectives == 9,
        "insufficient": lambda objectives: objectives == 0,
        "missed": lambda missed: missed == [],
        "restated": lambda restated: restated == 0,
    },
    # Cart abandonment follows the latency of the checkout, orders follow its errors.
    "42_kpi_correlation": {
        "figures": lambda figures: figures == 9,
        "pairs": lambda pairs: pairs == 496,
        "associated": lambda pairs: 5 <= pairs <= 60,
        "insufficient": lambda pairs: pairs == 0,
    },
    "43_business_impact": {
        "incidents": lambda incidents: incidents >= 5,
        "incident": lambda title: title.startswith("23 Nov 12:"),
        "estimated": lambda figures: figures >= 10,
    },
    "44_executive_summary": {
        "sentences": lambda sentences: len(sentences) == 3 and "EUR of revenue" in sentences[2],
        "objectives": lambda objectives: objectives == 9,
        "figures": lambda figures: figures == 9,
    },
    "50_publish_thresholds": {
        "series": lambda series: series == 112,
        "thresholds": lambda thresholds: thresholds == 112 * 168,
        "published": lambda published: 60 < published <= 84,
        "new": lambda series: series == 112,
        "gone": lambda series: series == 0,
    },
}


@dataclass(frozen=True)
class Executed:
    """All notebooks, executed, and the release that they published into."""

    results: Results
    release: Path


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Executed:
    """The pipeline of the nightly run, once."""
    folder = tmp_path_factory.mktemp("notebooks")
    release = folder / "release"
    release.mkdir()
    shop = trained_shop.get()
    results = notebooks.run_all(
        workspace / "pipelines" / "nightly.yaml",
        notebooks=FOLDER,
        out=folder / "executed",
        parameters={
            "lake": shop.lake,
            "derived": shop.derived,
            "models": shop.models,
            "release": release,
            "run_id": trained_shop.RUN_ID,
        },
        progress=False,
    )
    return Executed({result.name: result for result in results}, release)


@pytest.fixture(scope="module")
def results(executed: Executed) -> Results:
    return executed.results


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_notebook_finds_in_the_shop_what_is_there(file: Path, results: Results) -> None:
    assert file.stem in results, f"{file.stem} is not in pipelines/nightly.yaml"
    result = results[file.stem]
    assert result.status == "ok", result.error
    assert EXPECTED.get(file.stem), f"add to EXPECTED what {file.stem} must record"
    for name, holds in EXPECTED[file.stem].items():
        assert holds(result.records[name]), f"{name} = {result.records[name]}"


def test_the_published_thresholds_name_the_run(executed: Executed) -> None:
    assert executed.results["50_publish_thresholds"].publishes
    frame = pl.read_parquet(executed.release / "thresholds.parquet")
    assert frame["run_id"].unique().to_list() == [trained_shop.RUN_ID]
    assert (executed.release / "prometheus" / "apm_thresholds.prom").exists()


def test_capacity_finds_the_one_operation_that_grows(tmp_path: Path, results: Results) -> None:
    features = pl.read_parquet(trained_shop.get().derived / "features.parquet")
    grows = pl.col("service_name").eq("storefront") & pl.col("operation").eq("POST /checkout")
    days = (pl.col("time") - pl.col("time").min()).dt.total_seconds() / 86_400
    tripled = pl.col("rate_per_s") * (1 + 2 * days / days.max())
    planted = pl.when(grows).then(tripled).otherwise("rate_per_s")
    features.with_columns(rate_per_s=planted).write_parquet(tmp_path / "features.parquet")
    (tmp_path / "capacity.yaml").write_text("limits: [{signal: rate, times_peak: 1.5}]\n")
    grown = notebooks.run_one(
        FOLDER / "31_forecast_capacity.ipynb",
        out=tmp_path / "executed",
        parameters={"derived": str(tmp_path), "specs": str(tmp_path)},
    )
    assert results["31_forecast_capacity"].records["within_horizon"] == 0
    assert grown.records["within_horizon"] == 1


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
