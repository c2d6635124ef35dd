"""The nightly run: check the data, train, run the notebooks, publish thresholds and one report.

In:  a lake; the notebooks and pipelines of the workspace.
Out: `out/published` (report, thresholds, rules), `out/runs/<run_id>` (executed notebooks).
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from apm_analytics.alerts import publication
from apm_analytics.alerts.gate import stage as gating
from apm_analytics.baselines.training import stages
from apm_analytics.baselines.training.repro import repro
from apm_analytics.foundation.errors import ApmError
from apm_analytics.foundation.provenance import Provenance, current_provenance
from apm_analytics.foundation.settings import Settings
from apm_analytics.lake import query, snapshots
from apm_analytics.nightly import ledger, notebooks
from apm_analytics.nightly.pipeline import Without
from apm_analytics.quality import QualityResult, checks
from apm_analytics.report.pages import nightly
from apm_analytics.report.pages import quality as quality_page
from apm_analytics.signals import calendar

STAGES = (
    stages.snapshot,
    stages.features,
    stages.train,
    stages.evaluate,
    gating.gate_stage,
)
# Files that decide a run's result besides data and params; a folder means every file below it.
DECIDING = ("apm_analytics", "notebooks", "pipelines", "specs", "dvc.yaml", "requirements.lock")
GENERATED = {"__pycache__", ".ipynb_checkpoints", ".virtual_documents"}  # folders to leave out
LOCK = ".nightly.lock"


@dataclass(frozen=True)
class NightlyResult:
    """The outcome of a nightly run, for the command line and the scheduler."""

    run_id: str
    ok: bool
    published: bool
    unchanged: bool
    published_folder: Path
    reasons: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the summary that `apm nightly` prints: the outcome and the published files."""
        lines = [f"run {self.run_id}: {'ok' if self.ok else 'FAILED'}"]
        if self.unchanged:
            lines = [f"nothing changed since run {self.run_id}; `--force` runs all the same"]
        elif not self.published:
            lines.append("thresholds: kept those published before")
        lines += [f"  {reason}" for reason in self.reasons]
        for label, name in (
            ("report", "report.html"),
            ("thresholds", "thresholds.parquet"),
            ("SLA report", "sla.html"),
            ("textfile", "prometheus/apm_thresholds.prom"),
            ("rules", "prometheus/rules"),
        ):
            if (self.published_folder / name).exists():
                lines.append(f"{label + ':':12}{self.published_folder / name}")
        return lines


@dataclass(frozen=True)
class Folders:
    """The folders that a run reads and writes."""

    lake: Path
    out: Path
    derived: Path
    models: Path

    @classmethod
    def of(cls, lake: Path, out: Path, workspace: Path) -> "Folders":
        """Return the folders of a run; one into the workspace's `data/` trains its `models/`."""
        base = workspace if out == workspace / "data" else out
        return cls(lake, out, out / "derived", base / "models")


def run(
    lake: Path, out: Path, settings: Settings, *, force: bool = False, progress: bool = True
) -> NightlyResult:
    """Run the nightly job once.

    Parameters
    ----------
    out : folder of derived data, runs and the published set.
    settings : the workspace and its params.
    force : run even if neither data, params nor code changed since the last good run.

    Raises
    ------
    ApmError
        Another nightly run works on `out`, there is no lake, or training failed. The published
        set stays as it was.
    """
    folders = Folders.of(lake.resolve(), out.resolve(), settings.workspace)
    folders.derived.mkdir(parents=True, exist_ok=True)
    with nightly_lock(folders.out):
        snapshots.sweep(folders.lake)
        data_hash = snapshots.data_hash(folders.lake)
        provenance = current_provenance(settings.workspace, data_hash)
        # Data that stays unchanged for too long counts as a change: its exporter has stalled.
        stale = _is_stale(folders.lake, settings)
        fingerprint = _fingerprint(settings, folders.lake, data_hash, stale=stale)
        unchanged = ledger.last_good(folders.out, fingerprint)
        if unchanged and not force and publication.current(folders.out):
            return NightlyResult(unchanged, True, True, True, folders.out / "published")
        ledger.begin(
            folders.out, provenance, rows=int(snapshots.status(folders.lake)["rows"].sum())
        )
        try:
            result = _run_steps(folders, settings, provenance, fingerprint, progress)
        except BaseException as error:
            ledger.finish(
                folders.out,
                provenance.run_id,
                status="failed",
                reasons=[str(error).splitlines()[0] if str(error) else repr(error)],
            )
            raise
    return result


@contextmanager
def nightly_lock(out: Path) -> Iterator[None]:
    """Hold the lock of `out`, which admits one nightly run at a time and ends with its process.

    Raises
    ------
    ApmError
        Another process holds the lock; the message names its pid.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK, timeout=0)
    holder = out / f"{LOCK}.pid"
    try:
        lock.acquire()
    except Timeout as error:
        pid = holder.read_text().strip() if holder.exists() else "unknown"
        raise ApmError(
            f"another nightly run (pid {pid}) works on {out}; wait for it, or stop it"
        ) from error
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _run_steps(
    folders: Folders,
    settings: Settings,
    provenance: Provenance,
    fingerprint: str,
    progress: bool,
) -> NightlyResult:
    reasons: list[str] = []
    _say(progress, "checking the data")
    checked = _check_quality(folders, settings)
    if checked.passed:
        _say(progress, "training")
        _train(folders, settings, provenance.run_id, progress)
    else:
        reasons.append(
            "the data did not pass its quality checks, nothing was trained on it: "
            + "; ".join(str(expectation) for expectation in checked.failures())
        )
    # The previous models are used; without any, the notebooks that need models are skipped.
    trained = (folders.derived / "bounds.parquet").exists()
    previous = publication.current(folders.out)
    release = publication.begin(folders.out, provenance.run_id)
    results = notebooks.run_all(
        settings.workspace / "pipelines" / "nightly.yaml",
        notebooks=settings.workspace / "notebooks",
        out=folders.out / "runs" / provenance.run_id / "notebooks",
        parameters={
            "lake": str(folders.lake),
            "derived": str(folders.derived),
            "models": str(folders.models),
            "release": str(release),
            "run_id": provenance.run_id,
        },
        without=Without(models=not trained, publishing=not checked.passed),
        progress=progress,
    )
    broken = [result for result in results if result.status == "failed"]
    reasons += [str(result.error) for result in broken]
    published = any(result.publishes and result.status == "ok" for result in results)
    _say(progress, "writing the report")
    notebooks.keep(results, release)
    quality_page.write_page(checked, release / "quality.html")
    nightly.write(
        release,
        results=results,
        derived=folders.derived,
        models=folders.models,
        previous=previous,
        provenance=provenance,
        published=published,
        reasons=reasons,
        params=settings.params,
    )
    publication.promote(release, folders.out)
    ok = published and not broken
    ledger.finish(
        folders.out,
        provenance.run_id,
        status="ok" if ok else "failed",
        published=published,
        reasons=reasons,
        notebooks={result.name: result.status for result in results},
        fingerprint=fingerprint,
    )
    return NightlyResult(
        provenance.run_id, ok, published, False, folders.out / "published", reasons
    )


def _check_quality(folders: Folders, settings: Settings) -> QualityResult:
    limits = settings.params.quality
    clock = checks.age_clock(folders.lake, limits, now=datetime.now(UTC))
    with query.connect(folders.lake) as con:
        result = checks.check(
            con,
            limits,
            now=clock,
            history_days=settings.params.snapshot.history_days,
            specs=settings.workspace / "specs",
        )
    result.write(folders.derived / "quality.json")
    return result


def _train(folders: Folders, settings: Settings, run_id: str, progress: bool) -> None:
    """Run the training stages; for the workspace's own `data/`, DVC skips unchanged ones."""
    workspace = settings.workspace
    in_place = folders.lake == workspace / "data" / "lake" and folders.out == workspace / "data"
    if in_place and (workspace / ".git").exists():
        repro(workspace, run_id=run_id, progress=progress)
        return
    for stage in STAGES:
        line = stage(folders.lake, folders.derived, folders.models, settings, run_id, progress)
        _say(progress, line)


def _is_stale(lake: Path, settings: Settings) -> bool:
    """Return whether a lake with live ingest has received no span for too long."""
    limits = settings.params.quality
    now = checks.age_clock(lake, limits, now=datetime.now(UTC))
    newest = snapshots.status(lake).filter(table="spans")["last_time"].item()
    if now is None or newest is None:
        return False
    age_s: float = (now.replace(tzinfo=None) - newest).total_seconds()
    return age_s > limits.max_age_s


def deciding_files(workspace: Path) -> list[Path]:
    """Return the files of a workspace that decide a run's result, sorted."""
    files: list[Path] = []
    for name in DECIDING:
        path = workspace / name
        files += path.rglob("*") if path.is_dir() else [path]
    return sorted(
        file
        for file in files
        if file.is_file() and GENERATED.isdisjoint(file.relative_to(workspace).parts)
    )


def _fingerprint(settings: Settings, lake: Path, data_hash: str, *, stale: bool) -> str:
    """Return a hash of all that decides a run's result: data, labels, params, code, specs."""
    digest = hashlib.sha256(f"{data_hash} {stale}".encode())
    digest.update(settings.params.model_dump_json().encode())
    labels = calendar.beside(lake)
    if labels.exists():
        digest.update(labels.read_bytes())
    for file in deciding_files(settings.workspace):
        digest.update(str(file.relative_to(settings.workspace)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _say(progress: bool, text: str) -> None:
    if progress:
        print(text, file=sys.stderr, flush=True)
