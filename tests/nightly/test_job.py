"""The nightly job, from a lake to thresholds and a report; a failed run keeps yesterday's set."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import yaml
from rows import table

from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import ApmError, NotFound
from apm_analytics.foundation.settings import Settings
from apm_analytics.ingest.files.importer import import_files
from apm_analytics.lake import snapshots
from apm_analytics.nightly import job as nightly
from apm_analytics.nightly import ledger
from apm_analytics.nightly.job import NightlyResult
from apm_analytics.simulate import shop

END = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
SET = (
    "report.html",
    "quality.html",
    "thresholds.parquet",
    "prometheus/apm_thresholds.prom",
)


# A run takes a minute with all notebooks; tests/notebooks runs those.
NOTEBOOKS = ("00_start_here", "20_baselines", "22_backtest_alerts", "50_publish_thresholds")
# Two notebooks suffice for runs that are refused or killed: one explores, one publishes.
FEW = ("00_start_here", "50_publish_thresholds")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Settings:
    """The workspace with a shorter pipeline."""
    return _with_notebooks(tmp_path_factory.mktemp("workspace"), workspace, NOTEBOOKS)


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Settings:
    """The same with the fewest notebooks."""
    return _with_notebooks(tmp_path_factory.mktemp("brief"), workspace, FEW)


def _with_notebooks(folder: Path, workspace: Path, names: Collection[str]) -> Settings:
    for name in (".git", "apm_analytics", "notebooks", "params.yaml", "specs"):
        (folder / name).symlink_to(workspace / name)
    pipeline = yaml.safe_load((workspace / "pipelines/nightly.yaml").read_text())
    kept = [one for one in pipeline["notebooks"] if one["name"] in names]
    for one in kept:
        one["after"] = [name for name in one.get("after", ()) if name in names]
    (folder / "pipelines").mkdir()
    (folder / "pipelines/nightly.yaml").write_text(yaml.safe_dump({"notebooks": kept}))
    return settings.load().model_copy(update={"workspace": folder})


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of the shop."""
    folder = tmp_path_factory.mktemp("shop")
    shop.write(folder / "otlp", days=2, spans=20_000, seed=7, end=END, progress=False)
    import_files(
        sorted((folder / "otlp").glob("*.zst")), folder / "lake", workers=1, progress=False
    )
    return folder / "lake"


@pytest.fixture(scope="module")
def first(
    lake: Path, own: Settings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, NightlyResult]:
    out = tmp_path_factory.mktemp("out")
    return out, nightly.run(lake, out, own, progress=False)


def contents(out: Path) -> dict[str, bytes]:
    published = out / "published"
    return {name: (published / name).read_bytes() for name in SET}


def test_a_run_publishes_thresholds_rules_and_a_report(first: tuple[Path, NightlyResult]) -> None:
    out, result = first
    assert result.ok and result.published, result.reasons
    assert all(contents(out).values())
    assert list((out / "published/prometheus/rules").glob("*.yml"))
    assert result.run_id in (out / "published/report.html").read_text()
    summary = "\n".join(result.lines())
    assert "report.html" in summary and "apm_thresholds.prom" in summary


def test_every_threshold_names_run_commit_and_data(
    first: tuple[Path, NightlyResult], lake: Path
) -> None:
    frame = pl.read_parquet(first[0] / "published/thresholds.parquet")
    assert frame["data_hash"].unique().to_list() == [snapshots.data_hash(lake)]
    assert frame["git_commit"].null_count() == frame["run_id"].null_count() == 0
    hours = frame.group_by("service_name", "operation", "signal", "bound").agg(
        pl.col("hour_of_week").n_unique()
    )
    assert hours["hour_of_week"].unique().to_list() == [168] and hours.height > 25


def test_the_ledger_lists_the_run(first: tuple[Path, NightlyResult]) -> None:
    (row,) = ledger.list_runs(first[0]).to_dicts()
    assert (row["status"], row["published"]) == ("ok", True)
    assert row["rows"] > 20_000 and row["seconds"] > 0


def test_a_second_run_on_the_same_data_has_nothing_to_do(
    first: tuple[Path, NightlyResult], lake: Path, own: Settings
) -> None:
    before = contents(first[0])
    again = nightly.run(lake, first[0], own, progress=False)
    assert again.unchanged and again.run_id == first[1].run_id
    assert contents(first[0]) == before
    assert "nothing changed" in again.lines()[0]


def test_every_tracked_file_of_code_notebooks_pipelines_and_specs_decides_a_result(
    workspace: Path,
) -> None:
    folders = ("apm_analytics", "notebooks", "pipelines", "specs")
    listed = subprocess.run(
        ["git", "ls-files", "-z", *folders], cwd=workspace, capture_output=True, check=True
    )
    tracked = {workspace / name for name in listed.stdout.decode().split("\0") if name}
    assert len(tracked) > 300
    # A file that was moved is still listed until it is added under its new name.
    assert {file for file in tracked if file.exists()} <= set(nightly.deciding_files(workspace))


@pytest.mark.parametrize(
    ("name", "decides"),
    [
        ("apm_analytics/a/template.j2", True),
        ("apm_analytics/schema.json", True),
        ("specs/slos/shop.yaml", True),
        ("requirements.lock", True),
        ("data/calendar.yaml", True),
        ("apm_analytics/__pycache__/a.pyc", False),
        ("notebooks/.ipynb_checkpoints/a.ipynb", False),
        ("README.md", False),
    ],
)
def test_a_changed_file_changes_the_fingerprint_when_it_decides_a_result(
    tmp_path: Path, name: str, decides: bool
) -> None:
    moved = settings.load().model_copy(update={"workspace": tmp_path})
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("before")
    fingerprints = {nightly._fingerprint(moved, tmp_path / "data/lake", "hash", stale=False)}
    file.write_text("after")
    fingerprints.add(nightly._fingerprint(moved, tmp_path / "data/lake", "hash", stale=False))
    assert (len(fingerprints) == 2) is decides


def test_bad_data_keeps_what_was_published_and_says_so(
    first: tuple[Path, NightlyResult], lake: Path, brief: Settings, tmp_path: Path
) -> None:
    out, spoilt = tmp_path / "out", tmp_path / "lake"
    shutil.copytree(first[0], out, symlinks=True)
    shutil.copytree(lake, spoilt)
    count = 8_000
    at = int(END.timestamp() - 3_600) * 10**9
    orphans = table(
        "spans",
        {
            "time": [at + number for number in range(count)],
            "duration_ns": [1] * count,
            "trace_id": [f"{number:032x}" for number in range(count)],
            "span_id": [f"{number:016x}" for number in range(count)],
            "parent_span_id": ["f" * 16] * count,
            "name": ["lost"] * count,
            "kind": ["internal"] * count,
            "status_code": ["unset"] * count,
            "service_name": ["storefront"] * count,
        },
    )
    snapshots.append(spoilt, {"spans": orphans})
    before = contents(out)
    result = nightly.run(spoilt, out, brief, progress=False)
    assert not result.ok and not result.published
    assert "quality" in result.reasons[0]
    after = contents(out)
    assert after["thresholds.parquet"] == before["thresholds.parquet"]
    assert after["prometheus/apm_thresholds.prom"] == before["prometheus/apm_thresholds.prom"]
    assert after["report.html"] != before["report.html"]
    assert ledger.list_runs(out)["status"].to_list() == ["failed", "ok"]


# Kills the run and its children just before its finished release is renamed.
DIE_AT_RELEASE = """
import os, runpy, signal, sys
def watch(event, args):
    if event == "os.rename" and os.fspath(args[0]).endswith(".partial"):
        os.killpg(0, signal.SIGKILL)
sys.addaudithook(watch)
sys.argv[0] = "apm"
runpy.run_module("apm_analytics", run_name="__main__")
"""


@pytest.mark.parametrize("moment", ["half-way", "as it publishes"])
def test_a_run_killed_at_any_moment_leaves_the_published_set_whole(
    first: tuple[Path, NightlyResult], lake: Path, brief: Settings, tmp_path: Path, moment: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(first[0], out, symlinks=True)
    before, features = contents(out), out / "derived/features.parquet"
    learned = features.stat().st_mtime_ns
    start = ["-m", "apm_analytics"] if moment == "half-way" else ["-c", DIE_AT_RELEASE]
    job = subprocess.Popen(
        [
            sys.executable,
            *start,
            "nightly",
            "--force",
            "--no-progress",
            "--lake",
            str(lake),
            "--out",
            str(out),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "APM_WORKSPACE": str(brief.workspace)},
        start_new_session=True,
    )
    if moment == "half-way":
        limit = time.monotonic() + 240
        # It is removed and then written again, so it may be missing in between.
        while not (features.exists() and features.stat().st_mtime_ns > learned):
            assert job.poll() is None and time.monotonic() < limit, "it never wrote its features"
            time.sleep(0.01)
        os.killpg(job.pid, signal.SIGKILL)
    assert job.wait(240) == -signal.SIGKILL
    assert contents(out) == before
    assert (out / "published").resolve().name == first[1].run_id
    assert ledger.list_runs(out)["status"].to_list()[0] == "crashed"


def test_one_run_at_a_time(tmp_path: Path, lake: Path, own: Settings) -> None:
    with nightly.nightly_lock(tmp_path), pytest.raises(ApmError, match=str(os.getpid())):
        nightly.run(lake, tmp_path, own, progress=False)


def test_no_lake_is_an_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="apm import"):
        nightly.run(tmp_path / "nowhere", tmp_path / "out", settings.load(), progress=False)
