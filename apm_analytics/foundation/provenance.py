"""The provenance of a training run: its code, data, parameters and time.

In:  the workspace (git, params.yaml) and the hash of the data.
Out: `Provenance`, and models/run.json with that of the last training run.
"""

import hashlib
import json
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadInput, NotFound
from apm_analytics.foundation.yaml_documents import read

RUN_FILE = "run.json"
UNKNOWN = "unknown"
GIT_TIMEOUT_S = 30


@dataclass(frozen=True)
class Provenance:
    """The origin of a model or threshold."""

    run_id: str
    git_commit: str
    data_hash: str
    params_hash: str
    trained_at: datetime


def current_provenance(workspace: Path, data_hash: str, run_id: str | None = None) -> Provenance:
    """Return the provenance of a training run that starts now.

    Parameters
    ----------
    workspace : the checkout with params.yaml.
    data_hash : `lake.snapshots.data_hash` of the lake.
    run_id : id of the run; by default a new one.

    Returns
    -------
    `git_commit` ends in "-dirty" if the checkout has changes, and is "unknown" outside git.

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
    content = json.dumps(as_dict(provenance), indent=2)
    write_atomic(models / RUN_FILE, content.encode() + b"\n")


def read_run(models: Path) -> Provenance:
    """Read models/run.json.

    Raises
    ------
    NotFound
        There is no training run in `models` yet.
    BadInput
        The file is damaged.
    """
    file = models / RUN_FILE
    if not file.exists():
        raise NotFound(f"no training run at {file}; train first: dvc repro train")
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        return from_dict(content)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is damaged: {error}; train again: dvc repro -f train") from error


def as_dict(provenance: Provenance) -> dict[str, str]:
    """Return the fields as JSON holds them."""
    return {**vars(provenance), "trained_at": provenance.trained_at.isoformat()}


def from_dict(content: Mapping[str, Any]) -> Provenance:
    """Return the `Provenance` of `as_dict`.

    Raises
    ------
    KeyError, TypeError, ValueError
        A field is missing, unknown or of the wrong kind.
    """
    return Provenance(**{**content, "trained_at": datetime.fromisoformat(content["trained_at"])})


def _git_commit(workspace: Path) -> str:
    commit = _git(workspace, "rev-parse", "HEAD")
    # A workspace inside an unrelated repository is not in git.
    if not commit or not _git(workspace, "ls-files", "params.yaml"):
        return UNKNOWN
    # DVC rewrites its lock in every training run; the lock is a result, not an input.
    changes = _git(workspace, "status", "--porcelain", "--", ".", ":(exclude)dvc.lock")
    return commit if changes == "" else f"{commit}-dirty"


def _git(workspace: Path, *arguments: str) -> str | None:
    """Return the output of git; None without git, a repository or a commit."""
    try:
        done = subprocess.run(
            ["git", "-C", str(workspace), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _params_hash(file: Path) -> str:
    """Hash the values, so that comments and the order of keys make no difference."""
    if not file.is_file():
        raise NotFound(f"no {file}; APM_WORKSPACE names the checkout")
    return hashlib.sha256(json.dumps(read(file).data, sort_keys=True).encode()).hexdigest()
