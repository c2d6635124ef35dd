"""Write a report of the small shop within a second: real outputs, made without kernels.

In:  a folder; whether names of operations are hostile.
Out: the folders of a run with a report in its release.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import small_run

from apm_analytics.alerts import thresholds
from apm_analytics.charts import plots, theme
from apm_analytics.charts.tables import table
from apm_analytics.foundation import settings
from apm_analytics.foundation.provenance import read_run
from apm_analytics.lake import query
from apm_analytics.report.pages import nightly
from apm_analytics.report.records import RECORD_MIME, NotebookResult
from apm_analytics.signals import services
from apm_analytics.traces import waterfall

CHARTS = 7


@dataclass(frozen=True)
class SmallReport:
    """A run and the folder of its release."""

    run: small_run.SmallRun
    release: Path
    results: list[NotebookResult]

    def write(self, **changes: Any) -> str:
        """Write the report and return its text."""
        options: dict[str, Any] = {
            "results": self.results,
            "derived": self.run.derived,
            "models": self.run.models,
            "previous": None,
            "provenance": read_run(self.run.models),
            "published": True,
            "reasons": [],
            "params": settings.load().params,
        }
        file = nightly.write(self.release, **{**options, **changes})
        return file.read_text(encoding="utf-8")


def make(folder: Path, *, hostile: bool = False) -> SmallReport:
    """Make a run with two notebooks: charts and tables, and one that failed."""
    run = small_run.write(folder, hostile=hostile)
    release = folder / "release"
    (release / "notebooks").mkdir(parents=True)
    publish(run, release, small_run.RUN_ID)
    shown = _executed(release / "notebooks" / "10_charts.ipynb", _outputs(run, hostile))
    broken = nbformat.v4.new_output(
        "error",
        ename="ValueError",
        evalue="no luck",
        traceback=["\x1b[31mValueError\x1b[0m: no luck <b>"],
    )
    failed = _executed(release / "notebooks" / "20_broken.ipynb", [broken])
    results = [
        NotebookResult("10_charts", "ok", 1.5, shown, records={"spans": 21888, "ratio": 0.123456}),
        NotebookResult("20_broken", "failed", 0.5, failed, "20_broken.ipynb, cell 2: ValueError"),
        NotebookResult("30_later", "skipped", error="comes after 20_broken, which failed"),
    ]
    return SmallReport(run, release, results)


def publish(run: small_run.SmallRun, release: Path, run_id: str, *, factor: float = 1.0) -> None:
    """Put thresholds into a release, their values times `factor`."""
    bounds = pl.read_parquet(run.derived / "bounds.parquet")
    provenance = replace(read_run(run.models), run_id=run_id)
    frame = thresholds.thresholds(bounds, provenance)
    release.mkdir(parents=True, exist_ok=True)
    frame.with_columns(pl.col("value") * factor).write_parquet(release / "thresholds.parquet")


def charts(run: small_run.SmallRun) -> dict[str, plots.Chart]:
    """Return every chart of `charts.plots`, for the small shop."""
    scores = pl.read_parquet(run.derived / "scores.parquet")
    bounds = pl.read_parquet(run.derived / "bounds.parquet")
    with query.connect(run.lake) as con:
        requests = services.requests(con)
        return {
            "traffic": plots.traffic(requests),
            "by_service": plots.by_service(requests, "error_ratio", "errors", percent=True),
            "slowest": plots.slowest(waterfall.slowest_operations(con)),
            "waterfall": plots.waterfall(waterfall.waterfall(con, waterfall.slow_trace(con))),
            "baselines": plots.baselines(scores),
            "heat_strip": plots.heat_strip(scores),
            "coverage": plots.coverage(scores),
            "week": plots.week(thresholds.thresholds(bounds, read_run(run.models)), series=6),
        }


def _outputs(run: small_run.SmallRun, hostile: bool) -> list[Any]:
    found = charts(run)
    found.pop("coverage")
    outputs = [
        nbformat.v4.new_output("display_data", data=theme.mime_bundle(chart.to_dict()))
        for chart in found.values()
    ]
    frame = pl.DataFrame({"operation": [small_run.HOSTILE if hostile else "GET /"], "p95": [0.5]})
    html_table = table(frame).html()
    if hostile:
        html_table += "<script>alert(3)</script><img src='https://example.org/x.png' onerror=a()>"
    outputs.append(nbformat.v4.new_output("display_data", data={"text/html": html_table}))
    recorded = {RECORD_MIME: {"name": "spans", "value": 21888}, "text/plain": "spans = 21888"}
    outputs.append(nbformat.v4.new_output("display_data", data=recorded))
    outputs.append(nbformat.v4.new_output("stream", name="stdout", text="said <i>plainly</i>\n"))
    return outputs


def _executed(file: Path, outputs: list[Any]) -> Path:
    document = nbformat.v4.new_notebook()
    document.cells = [
        nbformat.v4.new_markdown_cell(
            f"# What does {file.stem} show?\n\nAn abstract with `code` and "
            "![a picture](https://example.org/pixel.png) <script>alert(4)</script>"
        ),
        nbformat.v4.new_code_cell("shown = 1 < 2", outputs=outputs, execution_count=1),
        nbformat.v4.new_markdown_cell("## Conclusion\n\nNothing."),
    ]
    nbformat.validate(document)
    file.write_text(json.dumps(document))
    return file
