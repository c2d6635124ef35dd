"""`report.pages.nightly`: the report is complete and nothing foreign can run in it.

Tests `sections`, `first_screen` and `templates` as well.
"""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
import small_report
import small_run
from small_report import SmallReport

from apm_analytics.foundation.provenance import read_run
from apm_analytics.report.records import NotebookResult


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallReport:
    return small_report.make(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> SmallReport:
    return small_report.make(tmp_path_factory.mktemp("hostile"), hostile=True)


class Page(HTMLParser):
    """Collect what a browser would find: scripts, data scripts, attributes that load or run."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.running: list[str] = []
        self.data: dict[str, str] = {}
        self.loading: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.policy = ""
        self.text = ""
        self._script: tuple[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.handlers += [name for name in given if name.startswith("on")]
        if tag == "script":
            self._script = (given.get("type", ""), given.get("id"))
            if self._script[0] == "":
                self.running.append("")
        if tag == "a":
            self.links.append(given.get("href", ""))
        elif {"src", "href", "srcset", "data", "action"} & given.keys():
            self.loading.append(f"{tag} {given}")
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data
        elif self._script[0] == "":
            self.running[-1] += data
        else:
            name = self._script[1] or ""
            self.data[name] = self.data.get(name, "") + data


def test_the_report_is_one_file_that_names_nothing_to_load(small: SmallReport) -> None:
    text = small.write()
    page = Page(text)
    assert page.loading == []
    assert "@import" not in text and not re.search(r"url\(\s*['\"]?http", text)
    assert len(page.running) == 2
    assert len(text) < 2_000_000


def test_only_the_two_scripts_of_the_page_may_run(small: SmallReport) -> None:
    page = Page(small.write())
    for script in page.running:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in page.policy
    assert (
        "default-src 'none'" in page.policy
        and "'unsafe-inline'" not in (page.policy.split("script-src")[1].split(";")[0])
    )


def test_the_first_screen_says_what_is_anomalous_in_a_sentence(small: SmallReport) -> None:
    text = Page(small.write()).text
    assert re.search(
        r"storefront · POST /checkout\s+p95 1\.\d+ s, expected 0\.\d+ s \(upper 0\.\d+ s\)"
        r" for 40 min",
        text,
    )
    assert "Anomalous now 2" in text


def test_the_first_screen_says_who_stands_behind_it(small: SmallReport) -> None:
    text = Page(small.write()).text
    assert "Thresholds of this run are in force" in text
    assert small_run.RUN_ID in text and read_run(small.run.models).git_commit[:12] in text
    assert "2 Mar 00:00 to 3 Mar 23:59 2026 UTC" in text


def test_a_run_that_published_nothing_says_why_and_what_stays(
    small: SmallReport, tmp_path: Path
) -> None:
    before = tmp_path / "20260303T000500Z-00bb"
    small_report.publish(small.run, before, before.name)
    page = Page(small.write(published=False, reasons=["data quality failed"], previous=before))
    assert "Not published" in page.text and "data quality failed" in page.text
    assert f"The thresholds of run {before.name} stay in force." in page.text


def test_thresholds_that_moved_since_the_last_publication_are_listed(
    small: SmallReport, tmp_path: Path
) -> None:
    small_report.publish(small.run, tmp_path / "before", "20260303T000500Z-00bb", factor=0.5)
    text = Page(small.write(previous=tmp_path / "before")).text
    assert "moved by 10 % or more since run 20260303T000500Z-00bb" in text
    assert "+100 %" in text


def test_new_and_gone_operations_are_listed(small: SmallReport) -> None:
    text = Page(small.write()).text
    assert re.search(r"New operations\s+storefront · GET /wishlist", text)
    assert re.search(r"No requests for a day\s+storefront · GET /legacy", text)


def test_first_errors_of_an_operation_are_listed(small: SmallReport, tmp_path: Path) -> None:
    features = pl.read_parquet(small.run.derived / "features.parquet")
    last = features["time"].max()
    cart = (pl.col("operation") == "GET /cart") & (pl.col("time") == last)
    (tmp_path / "derived").mkdir()
    features.with_columns(
        error_count=pl.when(cart).then(3).otherwise(pl.col("error_count"))
    ).write_parquet(tmp_path / "derived" / "features.parquet")
    text = Page(small.write(derived=tmp_path / "derived")).text
    assert re.search(r"First errors\s+storefront · GET /cart 3 errors", text)


def test_data_quality_stands_in_a_line_with_its_failures(small: SmallReport) -> None:
    good = {
        "table": "spans",
        "name": "duplicates",
        "description": "span ids seen twice",
        "observed": 0.0,
        "limit": 0.01,
        "at_least": False,
        "unit": "1",
        "passed": True,
        "severity": "error",
        "advice": "",
    }
    bad = {**good, "description": "a <gap>", "observed": 7200.0, "unit": "s", "passed": False}
    checked = {"passed": True, "checked_at": "2026-03-04", "expectations": [good]}
    assert "All 1 checks passed" in " ".join(Page(small.write(quality=checked)).text.split())
    failed = {**checked, "passed": False, "expectations": [good, bad]}
    text = small.write(quality=failed)
    assert "1 of 2 checks failed" in Page(text).text
    assert "a &lt;gap&gt;" in text


def test_a_failed_and_a_skipped_notebook_say_so_in_their_sections(small: SmallReport) -> None:
    text = Page(small.write()).text
    assert "20_broken.ipynb, cell 2: ValueError" in text
    assert "ValueError: no luck <b>" in text
    assert "Skipped: comes after 20_broken, which failed." in text


def test_charts_are_carried_as_data_and_records_stand_at_the_end(small: SmallReport) -> None:
    page = Page(small.write())
    charts = [json.loads(text) for text in page.data.values()]
    assert len(charts) == small_report.CHARTS
    assert all("encoding" in chart or "layer" in chart for chart in charts)
    assert re.search(r"spans 21888\s*ratio 0\.1235", page.text)
    assert "spans = 21888" not in page.text


def test_executed_notebooks_are_linked_where_they_lie_beside_the_report(
    small: SmallReport, tmp_path: Path
) -> None:
    assert "notebooks/10_charts.ipynb" in Page(small.write()).links
    outside = [NotebookResult("10_charts", "ok", 1.0, small.results[0].path)]
    (tmp_path / "empty").mkdir()
    elsewhere = SmallReport(small.run, tmp_path / "empty", outside)
    assert "notebooks/10_charts.ipynb" not in Page(elsewhere.write(published=False)).links


def test_names_from_telemetry_cannot_break_out(hostile: SmallReport) -> None:
    page = Page(hostile.write(reasons=[small_run.HOSTILE], published=False))
    assert len(page.running) == 2
    assert not any("alert(1)" in script or "alert(3)" in script for script in page.running)
    assert page.handlers == [] and page.loading == []
    assert small_run.HOSTILE in page.text
    assert any(small_run.HOSTILE in json.loads(text).__repr__() for text in page.data.values())


def test_a_report_without_any_training_is_still_a_report(
    small: SmallReport, tmp_path: Path
) -> None:
    text = Page(
        small.write(
            derived=tmp_path / "none",
            models=tmp_path / "none",
            results=[],
            published=False,
            reasons=["no models"],
        )
    ).text
    assert "No model is trained yet" in text and "no snapshot yet" in text


def test_a_report_of_a_short_lake_says_that_there_is_nothing_to_compare(
    small: SmallReport, tmp_path: Path
) -> None:
    for name in ("features", "scores"):
        frame = pl.read_parquet(small.run.derived / f"{name}.parquet")
        last = pl.lit(frame["time"].max()) - pl.duration(hours=2)
        frame.filter(pl.col("time") > last).write_parquet(tmp_path / f"{name}.parquet")
    text = Page(small.write(derived=tmp_path)).text
    assert "cover at most one day" in text and "Anomalous now 2" in text
