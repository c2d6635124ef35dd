"""The ledger of nightly runs: one small JSON file per run.

In:  the provenance of a run when it begins, its outcome when it ends.
Out: `out/runs/<run_id>/run.json`; all runs as one frame for `apm runs`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import NotFound
from apm_analytics.foundation.provenance import Provenance

FILE = "run.json"
COLUMNS = {
    "run_id": pl.String,
    "started_at": pl.String,
    "seconds": pl.Float64,
    "status": pl.String,  # running, ok, failed, or crashed when its process is gone
    "published": pl.Boolean,
    "rows": pl.Int64,
    "notebooks": pl.String,
    "git_commit": pl.String,
    "data_hash": pl.String,
    "reasons": pl.String,
}
SHOWN_HASH = 12


def begin(out: Path, provenance: Provenance, *, rows: int = 0) -> None:
    """Record that a run begins; `rows` is the number of rows in its lake."""
    _write(
        out,
        {
            **{k: str(v) for k, v in asdict(provenance).items() if k != "trained_at"},
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "status": "running",
            "rows": rows,
        },
    )


def finish(
    out: Path,
    run_id: str,
    *,
    status: str,
    published: bool = False,
    reasons: Sequence[str] = (),
    notebooks: Mapping[str, str] | None = None,
    fingerprint: str = "",
) -> None:
    """Record how a run ended.

    Raises
    ------
    NotFound
        The run was never begun.
    """
    entry = _read(_file(out, run_id))
    if entry is None:
        raise NotFound(f"no run {run_id} in {out / 'runs'}; begin it first")
    started = datetime.fromisoformat(entry["started_at"])
    _write(
        out,
        {
            **entry,
            "status": status,
            "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
            "published": published,
            "reasons": list(reasons),
            "notebooks": dict(notebooks or {}),
            "fingerprint": fingerprint,
        },
    )


def last_good(out: Path, fingerprint: str) -> str | None:
    """Return the id of the newest run if it is ok and has this fingerprint, else None."""
    entries = _entries(out)
    if not entries:
        return None
    newest = max(entries, key=lambda entry: str(entry["run_id"]))
    if newest["status"] == "ok" and newest.get("fingerprint") == fingerprint:
        return str(newest["run_id"])
    return None


def list_runs(out: Path) -> pl.DataFrame:
    """Return one row per run with `COLUMNS`, newest first; times are UTC."""
    rows = [
        {
            **{name: entry.get(name) for name in COLUMNS},
            "status": _status(entry),
            "notebooks": _notebooks_text(entry.get("notebooks") or {}),
            "git_commit": _short(entry.get("git_commit")),
            "data_hash": _short(entry.get("data_hash")),
            "reasons": "; ".join(entry.get("reasons") or ()),
        }
        for entry in _entries(out)
    ]
    return pl.DataFrame(rows, schema=COLUMNS).sort("run_id", descending=True)


def _entries(out: Path) -> list[dict[str, Any]]:
    entries = (_read(file) for file in sorted((out / "runs").glob(f"*/{FILE}")))
    return [entry for entry in entries if entry is not None]


def _status(entry: Mapping[str, Any]) -> str:
    """Return the status; a run whose process is gone has crashed."""
    if entry["status"] != "running":
        return str(entry["status"])
    alive = _process_start(int(entry["pid"])) == entry.get("process_start")
    return "running" if alive else "crashed"


def _process_start(pid: int) -> str | None:
    """Return when a process started, in clock ticks: the kernel reuses pids."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field, the program's name, may contain spaces and parentheses.
    return text.rpartition(")")[2].split()[19]


def _notebooks_text(notebooks: Mapping[str, str]) -> str:
    bad = [f"{name} {status}" for name, status in notebooks.items() if status != "ok"]
    good = sum(status == "ok" for status in notebooks.values())
    return ", ".join([f"{good} ok", *bad]) if notebooks else ""


def _short(commit: str | None) -> str | None:
    if not commit:
        return None
    return commit[:SHOWN_HASH] + ("-dirty" if commit.endswith("-dirty") else "")


def _file(out: Path, run_id: str) -> Path:
    return out / "runs" / run_id / FILE


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return content if {"run_id", "status", "started_at"} <= content.keys() else None


def _write(out: Path, entry: Mapping[str, Any]) -> None:
    file = _file(out, str(entry["run_id"]))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(entry, indent=1).encode() + b"\n")
