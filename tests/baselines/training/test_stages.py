"""The stages of dvc.yaml, from a lake to metrics, by themselves and under DVC."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
from rows import MONDAY_NS, NS_PER_S, table

from apm_analytics.baselines.training import registry, repro, stages
from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import ApmError, NotEnoughData, NotFound
from apm_analytics.foundation.provenance import read_run
from apm_analytics.foundation.settings import Settings
from apm_analytics.lake import snapshots
from apm_analytics.report.pages import experiments

HOURS = 2.5


def _fill(lake: Path, *, seed: int = 1, hours: float = HOURS) -> None:
    """Write some hours of two operations into a lake."""
    draw = np.random.default_rng(seed)
    count = int(hours * 3600 / 5)
    times = np.sort(draw.uniform(0, hours * 3600, count))
    rows = table(
        "spans",
        {
            "time": (MONDAY_NS + (times * NS_PER_S).astype(np.int64)).tolist(),
            "duration_ns": (draw.lognormal(-2, 0.4, count) * NS_PER_S).astype(np.int64).tolist(),
            "trace_id": [f"{seed:08x}{i:024x}" for i in range(count)],
            "span_id": [f"{i:016x}" for i in range(count)],
            "name": draw.choice(["GET /", "POST /checkout"], count).tolist(),
            "kind": ["server"] * count,
            "status_code": draw.choice(["ok", "error"], count, p=[0.97, 0.03]).tolist(),
            "service_name": ["shop"] * count,
        },
    )
    snapshots.append(lake, {"spans": rows})


def _run_all(lake: Path, out: Path, chosen: Settings) -> list[str]:
    return [
        stage(lake, out / "derived", out / "models", chosen, "20260302T000000Z-abcd", False)
        for stage in (stages.snapshot, stages.features, stages.train, stages.evaluate)
    ]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two and a half hours, trained."""
    out = tmp_path_factory.mktemp("short")
    _fill(out / "lake")
    _run_all(out / "lake", out, settings.load())
    return out


def test_a_short_history_trains_robust_bounds_and_says_so_everywhere(short: Path) -> None:
    bounds = pl.read_parquet(short / "derived" / "bounds.parquet")
    assert bounds["model"].unique().to_list() == ["robust"]
    assert len(bounds) == 2 * 3 * 168
    words = "no season is learned"
    assert words in json.loads((short / "derived" / "snapshot.json").read_text())["note"]
    assert words in json.loads((short / "models" / "metrics.json").read_text())["history"]["note"]
    assert words in (short / "models" / "baselines" / "card.md").read_text()


def test_the_snapshot_says_what_the_lake_holds_and_only_the_data_changes_it(
    tmp_path: Path,
) -> None:
    lake, derived = tmp_path / "lake", tmp_path / "derived"
    _fill(lake, hours=1)
    chosen = settings.load()
    file = derived / "snapshot.json"
    for _ in range(2):
        stages.snapshot(lake, derived, tmp_path, chosen, None, False)
        before = file.read_text()
    stages.snapshot(lake, derived, tmp_path, chosen, None, False)
    assert file.read_text() == before
    content = json.loads(before)
    assert content["rows"]["spans"] == 720
    assert content["history_days"] == pytest.approx(1 / 24, abs=0.001)
    assert content["data_hash"] == snapshots.data_hash(lake)
    _fill(lake, seed=2, hours=1)
    stages.snapshot(lake, derived, tmp_path, chosen, None, False)
    assert json.loads(file.read_text())["data_hash"] != content["data_hash"]


def test_cards_name_run_code_data_period_params_metrics_and_limits(short: Path) -> None:
    run = read_run(short / "models")
    for model in ("baselines", "forest"):
        card = (short / "models" / model / "card.md").read_text()
        for needed in (
            run.run_id,
            run.git_commit,
            run.data_hash,
            run.params_hash,
            "2026-03-02",
            "robust_deviations: 5.0",
            "## Metrics on held-out days",
            "## Limits",
        ):
            assert needed in card, (model, needed)
    baselines = (short / "models" / "baselines" / "card.md").read_text()
    assert "shop / GET / / rate: short history: 0.1 days" in baselines
    forest = (short / "models" / "forest" / "card.md").read_text()
    assert "shop / GET / / together: too short" in forest


def test_stages_out_of_order_say_which_comes_before(tmp_path: Path) -> None:
    chosen = settings.load()
    with pytest.raises(NotFound, match="dvc repro snapshot"):
        stages.train(tmp_path, tmp_path, tmp_path, chosen, None, False)
    (tmp_path / "snapshot.json").write_text('{"data_hash": "x"}')
    with pytest.raises(NotFound, match="dvc repro features"):
        stages.train(tmp_path, tmp_path, tmp_path, chosen, None, False)
    with pytest.raises(NotFound, match="apm import"):
        stages.snapshot(tmp_path / "nowhere", tmp_path, tmp_path, chosen, None, False)
    snapshots.append(tmp_path / "lake", {"logs": table("logs", {"time": [MONDAY_NS]})})
    with pytest.raises(NotEnoughData, match="no spans"):
        stages.snapshot(tmp_path / "lake", tmp_path, tmp_path, chosen, None, False)


def test_real_hours_of_many_services_train_without_a_season(
    real_data: Path, tmp_path: Path
) -> None:
    """Every tenth trace of the recording, straight into a lake."""
    import gzip

    columns: dict[str, list[object]] = {
        name: []
        for name in (
            "time",
            "duration_ns",
            "trace_id",
            "span_id",
            "parent_span_id",
            "name",
            "kind",
            "status_code",
            "service_name",
        )
    }
    kinds = ("unspecified", "internal", "server", "client", "producer", "consumer")
    codes = ("unset", "ok", "error")
    file = real_data / "train-ticket" / "2023-01-30" / "traces.jsonl.gz"
    with gzip.open(file) as lines:
        for line in lines:
            for resource in orjson.loads(line)["resourceSpans"]:
                service = next(
                    one["value"]["stringValue"]
                    for one in resource["resource"]["attributes"]
                    if one["key"] == "service.name"
                )
                for span in (s for scope in resource["scopeSpans"] for s in scope["spans"]):
                    start = int(span["startTimeUnixNano"])
                    for name, value in zip(
                        columns,
                        (
                            start,
                            int(span["endTimeUnixNano"]) - start,
                            span["traceId"],
                            span["spanId"],
                            span.get("parentSpanId") or None,
                            span["name"],
                            kinds[span.get("kind", 0)],
                            codes[span.get("status", {}).get("code", 0)],
                            service,
                        ),
                        strict=True,
                    ):
                        columns[name].append(value)
    snapshots.append(tmp_path / "lake", {"spans": table("spans", columns)})
    notes = _run_all(tmp_path / "lake", tmp_path, settings.load())
    assert "no season is learned" in notes[0]
    bounds = pl.read_parquet(tmp_path / "derived" / "bounds.parquet")
    skipped = pl.read_parquet(tmp_path / "derived" / "skipped.parquet")
    features = pl.read_parquet(tmp_path / "derived" / "features.parquet")
    assert bounds["model"].unique().to_list() == ["robust"]
    keys = ["service_name", "operation", "signal"]
    covered = bounds.select(keys).unique().height
    not_covered = skipped.filter(pl.col("signal") != "together", outcome="skipped").height
    assert covered + not_covered == 3 * features.select(keys[:2]).unique().height
    assert bounds["service_name"].n_unique() >= 20
    assert (
        bounds.select(pl.col("lower", "expected", "upper").is_finite().all()).row(0) == (True,) * 3
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Path:
    """A git checkout of what DVC needs, with a small lake."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(workspace / name, folder / name)
    for name in ("pipelines", "apm_analytics", "specs"):
        shutil.copytree(
            workspace / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(workspace / ".dvc" / name, folder / ".dvc" / name)
    (folder / "models").mkdir()
    shutil.copy(workspace / "models" / ".gitignore", folder / "models" / ".gitignore")
    _git(folder, "init", "-q")
    _commit(folder)
    _fill(folder / "data" / "lake")
    return folder


def test_dvc_runs_only_what_changed_and_compares_experiments(checkout: Path) -> None:
    repro.repro(checkout, run_id="20260302T000000Z-abcd", progress=False)
    assert _git(checkout, "status", "--porcelain") == ""
    first = read_run(checkout / "models")
    assert first.run_id == "20260302T000000Z-abcd"
    assert not first.git_commit.endswith("-dirty")
    features = (checkout / "data" / "derived" / "features.parquet").stat()

    # The lock of the last run, so that `dvc` by hand continues from it.
    shutil.copy(checkout / "data" / "derived" / "dvc.lock", checkout / "dvc.lock")
    _dvc(checkout, "exp", "run", "-q", "-n", "narrow", "-S", "baselines.robust_deviations=2.0")
    assert read_run(checkout / "models") != first
    again = (checkout / "data" / "derived" / "features.parquet").stat()
    assert again.st_ino == features.st_ino, "the features did not change and ran all the same"
    repro.repro(checkout, progress=False)
    _git(checkout, "checkout", "-q", "params.yaml")
    assert len(registry.run_ids(checkout / "models")) == 2
    shown = json.loads(_dvc(checkout, "exp", "show", "--json"))
    (narrow,) = [one["revs"][0]["data"] for one in shown[1]["experiments"]]
    metrics = narrow["metrics"]["models/metrics.json"]["data"]["holdout"]
    assert narrow["params"]["params.yaml"]["data"]["baselines"]["robust_deviations"] == 2.0
    assert metrics["published"]["latency_p95"]["coverage"] < 1
    page = experiments.plots(checkout, ["narrow"]).read_text()
    assert "narrow" in page and "coverage" in page
    assert not re.search(r"<(script|link)[^>]*(src|href)=", page)


def test_a_stage_that_fails_says_why_and_leaves_the_last_training(checkout: Path) -> None:
    before = (checkout / "data" / "derived" / "bounds.parquet").read_bytes()
    params = checkout / "params.yaml"
    good = params.read_text()
    params.write_text(good.replace("min_windows: 12", "min_windows: 1000"))
    try:
        with pytest.raises(ApmError, match=r"training failed: .*series were skipped"):
            repro.repro(checkout, progress=False)
    finally:
        params.write_text(good)
    assert (checkout / "data" / "derived" / "bounds.parquet").read_bytes() == before
    with pytest.raises(NotFound, match=r"dvc\.yaml"):
        repro.repro(checkout / "pipelines")


def _dvc(folder: Path, *arguments: str) -> str:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    asked = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, "APM_WORKSPACE": str(folder), **_IDENTITY},
        check=True,
        capture_output=True,
        text=True,
    )
    return asked.stdout


_IDENTITY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "test"), ("EMAIL", "test@example.org"))
}


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    asked = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return asked.stdout


def _commit(folder: Path) -> None:
    _git(folder, "add", "--all")
    _git(folder, "commit", "-qm", "state")
