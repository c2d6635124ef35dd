"""Run the training through DVC and keep the checkout clean.

In:  the workspace with dvc.yaml; the lock of the last training.
Out: the stages' files; data/derived/dvc.lock.

DVC writes dvc.lock beside dvc.yaml and refuses one that git ignores. A nightly run must not
leave changes in git, so between runs the lock lies with the derived data that it describes.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from apm_analytics.foundation.errors import ApmError, NotFound

LOCK = "dvc.lock"
SHOWN_LINES = 5


def repro(workspace: Path, *, run_id: str | None = None, progress: bool = True) -> None:
    """Bring the training run of `workspace` up to date; only changed stages run.

    Parameters
    ----------
    workspace : the checkout; its lake is data/lake.
    run_id : of the run that trains; the stages make one when left out.
    progress : let the stages show their progress bars on stderr.

    Raises
    ------
    NotFound
        No dvc.yaml in the workspace.
    ApmError
        A stage failed; the message ends with its output. The files of the last training stay.
        Or a brace in the path of the workspace, which DVC cannot print.
    """
    if not (workspace / "dvc.yaml").exists():
        raise NotFound(f"no dvc.yaml in {workspace}; APM_WORKSPACE names the checkout")
    if set("{}") & set(str(workspace)):
        raise ApmError(f"DVC cannot train in {workspace}: rename the folder with a brace in it")
    lock, kept = workspace / LOCK, workspace / "data" / "derived" / LOCK
    kept.parent.mkdir(parents=True, exist_ok=True)
    # A lock that is there already was made by hand or by a killed run, so it is newer.
    if kept.exists() and not lock.exists():
        shutil.copyfile(kept, lock)
    try:
        _run(workspace, run_id, progress)
    finally:
        if lock.exists() and not _tracked(workspace):
            os.replace(lock, kept)


def _run(workspace: Path, run_id: str | None, progress: bool) -> None:
    # Stages are run by the Python that runs this, also where it is not on PATH.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    environment = {**os.environ, "PATH": path, "APM_WORKSPACE": str(workspace)}
    if run_id is not None:
        environment["APM_RUN_ID"] = run_id
    command = [sys.executable, "-m", "dvc", "repro", "--quiet"]
    if not (workspace / ".git").exists():
        # DVC works outside git only if configured so; config.local applies to this machine only.
        (workspace / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    output = bytearray()
    with subprocess.Popen(
        command, cwd=workspace, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as running:
        assert running.stderr is not None
        # Read as it comes, not by lines: a progress bar redraws its line and never ends it.
        while piece := os.read(running.stderr.fileno(), 4096):
            output += piece
            if progress:
                sys.stderr.write(piece.decode(errors="replace"))
                sys.stderr.flush()
    if running.returncode != 0:
        text = output.decode(errors="replace").replace("\r", "\n")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        raise ApmError(
            f"training failed: {' | '.join(lines[-SHOWN_LINES:])}; "
            "fix the cause and run the same command again"
        )


def _tracked(workspace: Path) -> bool:
    """Return whether the lock is kept in git; then it stays where it is."""
    asked = subprocess.run(
        ["git", "-C", str(workspace), "ls-files", "--error-unmatch", LOCK], capture_output=True
    )
    return asked.returncode == 0
