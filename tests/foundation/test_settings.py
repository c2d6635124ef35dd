"""params.yaml, and a file that overrides some of it."""

from pathlib import Path

import pytest

from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import BadParameter


def test_what_differs_replaces_single_numbers(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = settings.load().params
    other = tmp_path / "params.yaml"
    other.write_text("features: {window_s: 10}\n")
    monkeypatch.setenv("APM_PARAMS", str(other))
    changed = settings.load().params
    assert changed.features.window_s == 10
    assert changed.features.min_requests == usual.features.min_requests
    assert changed.baselines == usual.baselines
    demo = settings.load_params(workspace / "params.yaml", workspace / "demo" / "params.yaml")
    assert demo.features.window_s < usual.features.window_s


def test_a_wrong_key_of_the_other_file_names_that_file(workspace: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine.yaml"
    other.write_text("features: {windows: 10}\n")
    with pytest.raises(BadParameter, match=r"mine.yaml:1: features.windows: found 10"):
        settings.load_params(workspace / "params.yaml", other)
    with pytest.raises(BadParameter, match="cannot read"):
        settings.load_params(workspace / "params.yaml", tmp_path / "none.yaml")
