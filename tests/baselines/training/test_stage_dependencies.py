"""dvc.yaml names everything that the code of a stage imports and every spec that it opens."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES_MODULE = "apm_analytics.baselines.training.stages"
# Modules that a stage imports without depending on them, and why.
EXEMPT: dict[str, dict[str, str]] = {
    "snapshot": {"apm_analytics": "the stage always runs"},
    "features": {
        "apm_analytics.baselines": "the stages share one module; features only writes files",
    },
    "train": {
        "apm_analytics.lake": "opened by snapshot and features only, which train depends on",
    },
    "evaluate": {
        "apm_analytics.lake": "opened by snapshot and features only, which evaluate depends on",
    },
    "gate": {
        "apm_analytics.lake": "opened by snapshot and features only, which gate depends on",
        "apm_analytics.slo": "rules of objectives, imported with the thresholds; the gate has none",
        "apm_analytics.transactions": "see slo",
    },
}
# The functions that open a file of specs/, by the module that defines them.
SPEC_READERS = {
    "apm_analytics.signals.calendar": "specs/calendar.yaml",
    "apm_analytics.baselines.training.engines": "specs/signals.yaml",
    "apm_analytics.alerts.prometheus.signal_specs": "specs/signals.yaml",
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("apm_analytics", exclude_type_checking_imports=True, cache_dir=None)


def imports_of(nodes: list[ast.stmt], known: set[str]) -> Iterator[str]:
    """Return the modules of the package that some statements import at their own level."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield from {name, node.module} & known


def imported(stage: str, graph: grimp.ImportGraph) -> set[str]:
    """Return everything that the script of a stage imports, directly or not.

    In the module that all stages share, only the function of this stage counts.
    """
    script = ast.parse((ROOT / "pipelines" / f"{stage}.py").read_text())
    direct = set(imports_of(script.body, graph.modules))
    if STAGES_MODULE in direct:
        direct.remove(STAGES_MODULE)
        file = ROOT / (STAGES_MODULE.replace(".", "/") + ".py")
        shared = ast.parse(file.read_text()).body
        body = [node for node in shared if isinstance(node, ast.FunctionDef) and node.name == stage]
        direct |= set(imports_of(shared, graph.modules))
        direct |= {name for node in body for name in imports_of(node.body, graph.modules)}
    found = set(direct)
    for name in direct:
        found |= graph.find_upstream_modules(name)
    return {name for name in found if name != "apm_analytics"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_code_that_it_imports(stage: str, graph: grimp.ImportGraph) -> None:
    deps = STAGES[stage].get("deps", [])
    missing = []
    for name in sorted(imported(stage, graph)):
        path = name.replace(".", "/")
        file = f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"
        covered = any(file == dep or file.startswith(f"{dep}/") for dep in deps)
        exempt = any(name == one or name.startswith(f"{one}.") for one in EXEMPT.get(stage, {}))
        if not covered and not exempt:
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_specs_that_it_opens(stage: str, graph: grimp.ImportGraph) -> None:
    if stage in ("snapshot", "features"):
        return
    needed = {SPEC_READERS[name] for name in imported(stage, graph) & SPEC_READERS.keys()}
    assert needed <= set(STAGES[stage]["deps"])
    assert "specs/calendar.yaml" in needed


def test_a_stage_depends_on_its_script_and_the_settings() -> None:
    for stage, described in STAGES.items():
        if stage != "snapshot":
            assert f"pipelines/{stage}.py" in described["deps"]
            assert "apm_analytics/foundation" in described["deps"]  # settings.py among them
