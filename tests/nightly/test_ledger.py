"""The ledger records the outcome of every run, including killed ones."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from apm_analytics.foundation.errors import NotFound
from apm_analytics.foundation.provenance import Provenance
from apm_analytics.nightly import ledger


def provenance(run_id: str) -> Provenance:
    return Provenance(run_id, "a" * 40 + "-dirty", "b" * 64, "c", datetime.now(UTC))


def test_a_run_is_listed_with_what_it_did(tmp_path: Path) -> None:
    ledger.begin(tmp_path, provenance("1"), rows=7)
    assert ledger.list_runs(tmp_path)["status"].to_list() == ["running"]
    ledger.finish(
        tmp_path,
        "1",
        status="failed",
        reasons=["no data"],
        notebooks={"10_a": "ok", "20_b": "failed"},
    )
    (row,) = ledger.list_runs(tmp_path).to_dicts()
    assert (row["status"], row["rows"], row["published"]) == ("failed", 7, False)
    assert row["reasons"] == "no data" and row["notebooks"] == "1 ok, 20_b failed"
    assert row["git_commit"] == "a" * 12 + "-dirty"
    assert row["seconds"] >= 0


def test_the_newest_run_comes_first(tmp_path: Path) -> None:
    for run_id in ("2", "1", "3"):
        ledger.begin(tmp_path, provenance(run_id))
    assert ledger.list_runs(tmp_path)["run_id"].to_list() == ["3", "2", "1"]


def test_a_run_whose_process_is_gone_has_crashed(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from datetime import UTC, datetime\n"
        "from apm_analytics.foundation.provenance import Provenance\n"
        "from apm_analytics.nightly import ledger\n"
        "ledger.begin(Path(sys.argv[1]), Provenance('1', 'a', 'b', 'c', datetime.now(UTC)))\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert ledger.list_runs(tmp_path)["status"].to_list() == ["crashed"]


def test_nothing_changed_only_after_a_good_run_with_the_same_fingerprint(tmp_path: Path) -> None:
    assert ledger.last_good(tmp_path, "x") is None
    ledger.begin(tmp_path, provenance("1"))
    ledger.finish(tmp_path, "1", status="ok", fingerprint="x")
    assert ledger.last_good(tmp_path, "x") == "1"
    assert ledger.last_good(tmp_path, "y") is None
    ledger.begin(tmp_path, provenance("2"))
    ledger.finish(tmp_path, "2", status="failed", fingerprint="x")
    assert ledger.last_good(tmp_path, "x") is None


def test_a_damaged_entry_does_not_hide_the_others(tmp_path: Path) -> None:
    ledger.begin(tmp_path, provenance("1"))
    (tmp_path / "runs/2").mkdir()
    (tmp_path / "runs/2/run.json").write_text("{half")
    (tmp_path / "runs/3").mkdir()
    (tmp_path / "runs/3/run.json").write_text(json.dumps({"other": 1}))
    assert ledger.list_runs(tmp_path)["run_id"].to_list() == ["1"]


def test_a_run_that_never_began_cannot_end(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="begin it first"):
        ledger.finish(tmp_path, "1", status="ok")


def test_no_runs_are_an_empty_list(tmp_path: Path) -> None:
    assert ledger.list_runs(tmp_path).is_empty()
