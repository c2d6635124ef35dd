"""Where a training came from, and the files that keep it.

In:  the workspace (git, params.yaml) and the hash of the data; fitted baselines.
Out: `Provenance`; models/run.json; models/parameters.parquet of the last training, and
     models/runs/<run id>.parquet of every one before, as long as they are kept.

The estimators cost 3 s of CPU to import, so only what needs them loads them.
"""

import hashlib
import json
import secrets
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import yaml

from apm_analytics.atomic import write_atomic
from apm_analytics.baselines import store
from apm_analytics.errors import BadInput, NotFound

if TYPE_CHECKING:
    from apm_analytics.baselines.fitted import FittedFleet

RUN_FILE = "run.json"
RUNS = "runs"
SHOWN = 5  # run ids that an error names
UNKNOWN = "unknown"
GIT_TIMEOUT_S = 30


@dataclass(frozen=True)
class Provenance:
    """What a threshold can be traced back to."""

    run_id: str
    git_commit: str
    data_hash: str
    params_hash: str
    trained_at: datetime


def current_provenance(workspace: Path, data_hash: str, run_id: str | None = None) -> Provenance:
    """Describe a training that happens now.

    Parameters
    ----------
    workspace : the checkout with params.yaml.
    data_hash : `lake.snapshots.data_hash` of the lake.
    run_id : of the run that trains; a new one when left out.

    Returns
    -------
    `git_commit` ends in "-dirty" when the checkout holds changes, and is "unknown" outside git.

    Raises
    ------
    NotFound
        No params.yaml in the workspace.

    Examples
    --------
    >>> current_provenance(Path("."), "9f86d0").run_id  # doctest: +SKIP
    '20261123T123419Z-4f2a'
    """
    now = datetime.now(UTC).replace(microsecond=0)
    return Provenance(
        run_id=run_id or f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}",
        git_commit=_git_commit(workspace),
        data_hash=data_hash,
        params_hash=_params_hash(workspace / "params.yaml"),
        trained_at=now,
    )


def write_run(models: Path, provenance: Provenance) -> None:
    """Write models/run.json."""
    content = json.dumps(_as_json(provenance), indent=2)
    write_atomic(models / RUN_FILE, content.encode() + b"\n")


def read_run(models: Path) -> Provenance:
    """Read models/run.json.

    Raises
    ------
    NotFound
        Nothing was trained into `models` yet.
    BadInput
        The file is damaged.
    """
    file = models / RUN_FILE
    if not file.exists():
        raise NotFound(f"no training at {file}; train first: dvc repro train")
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        return Provenance(
            **{**content, "trained_at": datetime.fromisoformat(content["trained_at"])}
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is damaged: {error}; train again: dvc repro -f train") from error


def keep(
    fleets: "list[FittedFleet]", models: Path, provenance: Provenance, *, keep_runs: int
) -> None:
    """Write the parameters of a training, as the last one and under its run id.

    Parameters
    ----------
    keep_runs : the oldest trainings beyond so many are forgotten.
    """
    from apm_analytics.baselines import fitted

    about = json.dumps(_as_json(provenance))
    table = fitted.table(fleets)
    store.write_frame(table, models / RUNS / f"{provenance.run_id}.parquet", {"run": about})
    store.write_frame(table, models / store.PARAMETERS, {"run": about})
    for run_id in run_ids(models)[:-keep_runs]:
        (models / RUNS / f"{run_id}.parquet").unlink()


def run_ids(models: Path) -> list[str]:
    """Give the ids of the trainings whose parameters are kept, the oldest first."""
    found = [(_provenance(file), file.stem) for file in (models / RUNS).glob("*.parquet")]
    return [name for _, name in sorted(found, key=lambda one: (one[0].trained_at, one[1]))]


def load(models: Path, run_id: str) -> "tuple[Provenance, list[FittedFleet]]":
    """Give the baselines of a training by its run id, and where they came from.

    Raises
    ------
    NotFound
        It is not kept; the message names those that are.

    Examples
    --------
    >>> registry.load(Path("models"), "20261123T123419Z-4f2a")  # doctest: +SKIP
    """
    from apm_analytics.baselines import fitted

    file = models / RUNS / f"{run_id}.parquet"
    if not file.exists():
        kept = run_ids(models)
        raise NotFound(
            f"no training {run_id!r} in {models / RUNS}; kept are "
            f"{', '.join(kept[-SHOWN:]) or 'none'} (baselines.keep_runs in params.yaml)"
        )
    return _provenance(file), fitted.fleets_of(pl.read_parquet(file))


def _provenance(file: Path) -> Provenance:
    try:
        content = json.loads(pl.read_parquet_metadata(file)["run"])
        return Provenance(
            **{**content, "trained_at": datetime.fromisoformat(content["trained_at"])}
        )
    except (pl.exceptions.PolarsError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is damaged: {error}; remove it, or train again") from error


def _as_json(provenance: Provenance) -> dict[str, str]:
    return {**vars(provenance), "trained_at": provenance.trained_at.isoformat()}


def _git_commit(workspace: Path) -> str:
    commit = _git(workspace, "rev-parse", "HEAD")
    # A folder that merely lies inside somebody's repository is not in git.
    if not commit or not _git(workspace, "ls-files", "params.yaml"):
        return UNKNOWN
    # DVC rewrites its lock at every training; it is a result, not what the result came from.
    changes = _git(workspace, "status", "--porcelain", "--", ".", ":(exclude)dvc.lock")
    return commit if changes == "" else f"{commit}-dirty"


def _git(workspace: Path, *arguments: str) -> str | None:
    """Ask git; None when there is no git, no repository or no commit."""
    try:
        asked = subprocess.run(
            ["git", "-C", str(workspace), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


def _params_hash(file: Path) -> str:
    """Hash the values: comments and order make no other training."""
    try:
        values = yaml.safe_load(file.read_text())
    except OSError as error:
        raise NotFound(f"cannot read {file}: {error}; APM_WORKSPACE names the checkout") from error
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
