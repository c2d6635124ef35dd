"""The SLA report as a table, CSV and JSON, and `apm slo`."""

import csv
import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
import slo_shop
from click.testing import CliRunner

from apm_analytics.cli import apm
from apm_analytics.foundation.errors import BadParameter, NotFound
from apm_analytics.report.pages import sla, sla_html
from apm_analytics.slo import ledger

FOUND = slo_shop.requests(seed=3, count=2_000, hours=40 * 24)
MONTH = "{duration: 1M, calendar: {startTime: 2026-01-01 00:00:00, timeZone: Europe/Berlin}}"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty days of a small shop."""
    folder = tmp_path_factory.mktemp("sla") / "lake"
    slo_shop.write(folder, FOUND)
    return folder


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    """One SLO by the month in Berlin."""
    slo_shop.save(tmp_path / "specs" / "slos", slo_shop.slo(window=MONTH))
    return tmp_path / "specs"


def collect(lake: Path, specs: Path, out: Path, **more: object) -> sla.Sla:
    return sla.collect(lake, out, specs=specs, month="2026-03", **more)  # type: ignore[arg-type]


def test_the_csv_holds_exact_counts_and_where_they_come_from(lake: Path, specs: Path) -> None:
    (row,) = csv.DictReader(
        sla.render(collect(lake, specs, specs, run_id="run-1"), "csv").decode().splitlines()
    )

    own = slo_shop.tally(FOUND, slo_shop.MONDAY, slo_shop.moment(30 * 24 - 2))
    assert int(row["total"]) == len(own)
    assert int(row["bad"]) == sum(one.failed for one in own)
    assert row["period_start_utc"] == "2026-02-28T23:00:00"
    assert row["period_end_utc"] == "2026-03-31T22:00:00"
    assert row["time_zone"] == "Europe/Berlin"
    assert row["verdict"] == "met"
    # The data begin on 2 March: a day and an hour of the month are missing.
    assert float(row["data_covered"]) < 1 - 25 / (31 * 24)
    assert row["run_id"] == "run-1" and len(row["data_hash"]) == 64


def test_the_command_reports_and_states(lake: Path, specs: Path, tmp_path: Path) -> None:
    asked = ["slo", "report", "--lake", str(lake), "--out", str(tmp_path), "--specs", str(specs)]
    runner = CliRunner()
    table = runner.invoke(apm, [*asked, "--month", "2026-03", "--what-if", "0.999"])
    assert table.exit_code == 0, table.output
    assert "answers" in table.output and "with other targets" in table.output
    assert "the data cover" in table.output
    assert ledger.read(tmp_path / "slo") == []

    out = tmp_path / "sla.json"
    more = ["--month", "2026-03", "--format", "json", "--state", "--output", str(out)]
    told = runner.invoke(apm, [*asked, *more])
    assert told.exit_code == 0, told.output
    (stated,) = ledger.read(tmp_path / "slo")
    (budget,) = json.loads(out.read_text())["budgets"]
    assert (stated.total, stated.bad) == (budget["total"], budget["bad"])


def test_a_restatement_is_told_in_words(specs: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    slo_shop.write(lake, FOUND)
    sla.state(collect(lake, specs, tmp_path, run_id="first"), tmp_path)
    late = slo_shop.Request(7_200.0, 0.1, True)
    slo_shop.write(lake, [late], salt=9)

    said = [line for line in sla.notes(collect(lake, specs, tmp_path)) if "restated" in line]
    assert len(said) == 1
    assert "run first counted" in said[0]


def test_names_and_targets_that_are_none_are_refused(lake: Path, specs: Path) -> None:
    with pytest.raises(NotFound, match="no SLO 'answer'; there are: answers"):
        collect(lake, specs, specs, names=["answer"])
    with pytest.raises(BadParameter, match="'high', needs a number"):
        collect(lake, specs, specs, what_if=["high"])
    with pytest.raises(BadParameter, match=r"0 <= target < 1"):
        collect(lake, specs, specs, what_if=["1"])


def test_validate_names_the_line(specs: Path) -> None:
    fine = CliRunner().invoke(apm, ["slo", "validate", "--specs", str(specs)])
    assert "answers: Occurrences" in fine.output

    file = specs / "slos" / "slos.yaml"
    file.write_text(file.read_text().replace("target:", "tarket:"))
    wrong = CliRunner().invoke(apm, ["slo", "validate", "--specs", str(specs)])
    assert isinstance(wrong.exception, BadParameter)
    assert f"{file}:16: spec.objectives.0.tarket: unknown field" in str(wrong.exception)


def test_the_specs_of_the_workspace_are_valid(workspace: Path) -> None:
    assert len(sla.check(workspace / "specs")) >= 5


def test_the_page_is_whole_offline_and_says_what_it_rests_on(lake: Path, specs: Path) -> None:
    (specs / "calendar.yaml").write_text(
        "entries:\n  - {kind: maintenance, name: <b>upgrade</b>, services: [shop],"
        " start: 2026-03-07T22:00:00Z, end: 2026-03-08T01:00:00Z}\n"
    )
    found = collect(lake, specs, specs, what_if=["0.999"], run_id="run-1")
    page = sla.render(found, "html").decode()

    assert "<script" not in page and "default-src &#39;none&#39;" in page
    assert not re.search(r"(?:src|href)=[\"'](?!#)", page)
    for said in ("Method", "Completeness of the data", "Exclusions", "Violations", "Signatures"):
        assert f"<h2>{said}</h2>" in page or f"<h3>{said}</h3>" in page
    assert "&lt;b&gt;upgrade&lt;/b&gt;: 2026-03-07 23:00 +0100" in page
    assert "2026-03-01 00:00 +0100 to 2026-04-01 00:00 +0200 (Europe/Berlin)" in page
    assert found.provenance.data_hash in page and "run-1" in page
    # The first violations lead to their traces on the same page.
    first = found.reports[0].violations["trace_id"][0]
    assert f'href="#trace-{first}"' in page and f'id="trace-{first}"' in page


def test_an_attainment_is_never_rounded_up_to_a_target() -> None:
    assert sla_html.percent(Decimal("0.98999999")) == "98.9999 %"


def test_a_release_gets_page_csv_and_a_statement(lake: Path, specs: Path, tmp_path: Path) -> None:
    derived, release = tmp_path / "out" / "derived", tmp_path / "release"
    sla.publish(lake, derived, release, specs=specs, month="2026-03", run_id="run-1")

    assert {file.name for file in release.iterdir()} == {"sla.html", "sla.csv"}
    (stated,) = ledger.read(tmp_path / "out" / "slo")
    assert stated.run_id == "run-1"
