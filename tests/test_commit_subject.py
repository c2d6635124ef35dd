"""The commit-msg hook of .pre-commit-config.yaml refuses bad subjects."""

import shlex
import subprocess
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def hook(workspace: Path) -> list[str]:
    """The command of the hook, to which pre-commit appends the file of the message."""
    config = yaml.safe_load((workspace / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    assert hooks["subject"]["stages"] == ["commit-msg"]
    assert "commit-msg" in config["default_install_hook_types"]
    return shlex.split(hooks["subject"]["entry"])


@pytest.mark.parametrize(("size", "refused"), [(72, False), (73, True)])
def test_a_subject_over_72_characters_is_refused(
    hook: list[str], workspace: Path, tmp_path: Path, size: int, refused: bool
) -> None:
    message = tmp_path / "COMMIT_EDITMSG"
    message.write_text("ü" * size + "\n\n" + "a body may have longer lines " * 5, encoding="utf-8")
    done = subprocess.run([*hook, str(message)], cwd=workspace, capture_output=True, text=True)
    assert (done.returncode != 0) is refused
    assert ("73 characters" in done.stderr) is refused
