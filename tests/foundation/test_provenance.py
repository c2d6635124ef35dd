"""A training run can be traced to its code, data and params."""

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from apm_analytics.foundation.errors import BadInput, NotFound
from apm_analytics.foundation.provenance import current_provenance, read_run, write_run


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("seed: 1\nlevel: 0.9\n")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", "params.yaml")
    _git(tmp_path, "commit", "-qm", "start")
    return tmp_path


def test_a_clean_checkout_gives_its_commit_and_a_changed_one_says_dirty(checkout: Path) -> None:
    clean = current_provenance(checkout, "data").git_commit
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (checkout / "dvc.lock").write_text("a result, no source\n")
    assert current_provenance(checkout, "data").git_commit == clean
    (checkout / "new.py").write_text("")
    assert current_provenance(checkout, "data").git_commit == f"{clean}-dirty"


def test_outside_git_the_commit_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    assert current_provenance(tmp_path, "data").git_commit == "unknown"
    _git(tmp_path, "init", "-q")
    assert current_provenance(tmp_path, "data").git_commit == "unknown"


def test_the_params_hash_follows_values_not_comments(checkout: Path) -> None:
    def seen() -> str:
        return current_provenance(checkout, "data").params_hash

    before = seen()
    (checkout / "params.yaml").write_text("# words\nlevel: 0.9\nseed: 1\n")
    assert seen() == before
    (checkout / "params.yaml").write_text("level: 0.8\nseed: 1\n")
    assert seen() != before


def test_a_run_written_and_read_back_is_the_same(checkout: Path) -> None:
    provenance = current_provenance(checkout, "data")
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{4}", provenance.run_id)
    assert (datetime.now(UTC) - provenance.trained_at).total_seconds() < 60
    write_run(checkout / "models", provenance)
    assert read_run(checkout / "models") == provenance
    named = current_provenance(checkout, "data", "20260302T000000Z-abcd")
    assert named.run_id == "20260302T000000Z-abcd"


def test_a_missing_or_damaged_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="train first"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"run_id": ')
    with pytest.raises(BadInput, match="damaged"):
        read_run(tmp_path)
    with pytest.raises(NotFound, match="APM_WORKSPACE"):
        current_provenance(tmp_path, "data")
