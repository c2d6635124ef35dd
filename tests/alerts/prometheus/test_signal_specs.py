"""specs/signals.yaml: what it may hold, and how a wrong file is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from apm_analytics.alerts.prometheus import signal_specs
from apm_analytics.foundation.errors import BadParameter


def write_changed(workspace: Path, folder: Path, key: str, value: Any) -> Path:
    """Copy the project's file with one key set (or removed, for None)."""
    raw = yaml.safe_load((workspace / "specs" / "signals.yaml").read_text())
    place = raw["signals"]
    *steps, last = key.split(".")
    for step in steps:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    file = folder / "signals.yaml"
    file.write_text(yaml.safe_dump(raw))
    return file


def test_the_projects_signals_load_from_the_folder_and_from_the_file(workspace: Path) -> None:
    specs = signal_specs.load(workspace / "specs")
    assert specs == signal_specs.load(workspace / "specs" / "signals.yaml")
    assert {name: (s.unit, s.record) for name, s in specs.items()} == {
        "latency_p95": ("s", "apm:latency_p95:seconds"),
        "rate": ("1/s", "apm:rate:per_second"),
        "error_ratio": ("1", "apm:error_ratio:ratio"),
    }
    assert specs["rate"].bounds == ("lower",)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rate.severity", "pager", r"signals\.yaml:\d+: signals\.rate\.severity: found 'pager'"),
        ("rate.promql", None, r"signals\.rate\.promql: field required"),
        ("rate.promql", "sum(rate(x[5m]))", r"signals\.rate\.promql: found .*needs a range \[\$w"),
        ("rate.record", "apm rate", r"signals\.rate\.record: found 'apm rate'"),
        ("rate.record", "apm:error_ratio:ratio", r"'apm:error_ratio:ratio' is taken"),
        ("rate.alert", "Latency", r"signals\.rate\.alert: 'Latency' is taken by .*latency_p95"),
        ("rate.colour", "red", r"signals\.rate\.colour: found 'red'"),
        ("rate.name", "rate", r"signals\.rate\.name: unknown key"),
        ("rate.title", "{{ x }}", r"signals\.rate\.title: found '{{ x }}'"),
        ("rate.labels.operation", "span-name", r"labels\.operation: found 'span-name'"),
        ("rate.fallback", {}, r"signals\.rate\.fallback: found {}; needs an upper or a lower"),
        ("rate.fallback.upper", float("nan"), r"rate\.fallback\.upper: found nan"),
        ("latency_p95.fallback.upper", -1, r"latency_p95\.fallback\.upper: found -1"),
        ("latency_p95.fallback.lower", 1, r"latency_p95\.fallback\.lower: found 1.0, but"),
        ("latency_p95.bounds", ["lower"], r"latency_p95\.bounds: found lower, but .*upper only"),
        ("rate.fallback.upper", 9, r"rate\.fallback\.upper: found 9.0, .*or add it to bounds"),
        ("latency_p95", None, r"there are \['error_ratio', 'rate'\], needs exactly"),
        ("latency_p95", "fast", r"signals\.latency_p95: found 'fast'; .*valid dict"),
        ("apdex", {}, r"there are \['apdex', .*needs exactly"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_key_and_value(
    workspace: Path, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    file = write_changed(workspace, tmp_path, key, value)
    with pytest.raises(BadParameter, match=message):
        signal_specs.load(file)


@pytest.mark.parametrize("content", ["", "signals: [", "- a", "signal: {}", "signals: 3", "\xff"])
def test_a_file_that_is_no_mapping_of_signals_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "signals.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(BadParameter, match=r"signals\.yaml"):
        signal_specs.load(tmp_path)


def test_a_missing_file_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match=r"cannot read .*nowhere"):
        signal_specs.load(tmp_path / "nowhere")
