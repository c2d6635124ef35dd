"""Burn-rate rules: Sloth's names, and promtool's verdict on the alerts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slo_shop
import yaml

from apm_analytics.alerts.prometheus import promtool, slo_rules
from apm_analytics.foundation import settings
from apm_analytics.slo import specs as slo_specs

ORIGIN = {"run_id": "run-1"}


def write(folder: Path, specs: Path) -> Path:
    for name, content in slo_rules.files(specs, settings.load().params, ORIGIN).items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder / "prometheus"


def test_the_rules_of_the_workspace_pass_promtool(
    workspace: Path, tmp_path: Path, server_binary: Callable[[str], Path]
) -> None:
    server_binary("promtool")
    assert promtool.check(write(tmp_path, workspace / "specs"))


def test_the_names_are_sloths(tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    slo_shop.save(specs / "slos", slo_shop.slo(objective="target: 0.999"))
    told: dict[str, Any] = yaml.safe_load(
        (write(tmp_path, specs) / "rules" / slo_rules.FILE_NAME).read_text()
    )
    (group,) = told["groups"]
    records = [rule["record"] for rule in group["rules"] if "record" in rule]
    for window in ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d"):
        assert f"slo:sli_error:ratio_rate{window}" in records
    assert {
        "slo:objective:ratio",
        "slo:error_budget:ratio",
        "slo:time_period:days",
        "slo:current_burn_rate:ratio",
        "slo:period_burn_rate:ratio",
        "slo:period_error_budget_remaining:ratio",
        "sloth_slo_info",
    } <= set(records)
    labels = {"sloth_id": "shop-answers", "sloth_service": "shop", "sloth_slo": "answers"}
    assert all(
        labels.items() <= rule["labels"].items() for rule in group["rules"] if "record" in rule
    )
    budget = next(rule for rule in group["rules"] if rule.get("record") == "slo:error_budget:ratio")
    assert budget["expr"] == "vector(0.001)"
    page, ticket = [rule for rule in group["rules"] if "alert" in rule]
    assert (page["labels"]["severity"], ticket["labels"]["severity"]) == ("page", "ticket")
    assert "(14.4 * 0.001)" in page["expr"] and "(6 * 0.001)" in page["expr"]
    assert "(3 * 0.001)" in ticket["expr"] and "(1 * 0.001)" in ticket["expr"]


def test_what_prometheus_cannot_see_has_no_rule(workspace: Path) -> None:
    slos = slo_specs.load(workspace / "specs" / "slos", transactions=frozenset({"order"}))
    names = {one.slo.name for one in slo_rules.watched(slos)}
    assert names == {"checkout-availability", "checkout-latency", "buying-journey"}


def test_without_slos_there_are_no_rules(tmp_path: Path) -> None:
    assert slo_rules.files(tmp_path, settings.load().params, ORIGIN) == {}


@pytest.mark.parametrize(("lookback", "named"), [("1h", 0), ("4h", 1)])
def test_an_alert_policy_looks_back_over_a_recorded_window(
    tmp_path: Path, lookback: str, named: int
) -> None:
    document = slo_shop.slo().replace("timeWindow:", "alertPolicies: [fast]\n  timeWindow:")
    policy = f"""apiVersion: openslo/v1
kind: AlertPolicy
metadata: {{name: fast}}
spec:
  conditions:
    - kind: AlertCondition
      metadata: {{name: fast-burn}}
      spec:
        severity: page
        condition: {{kind: burnrate, op: gte, threshold: 2, lookbackWindow: {lookback}}}
"""
    slos = slo_specs.load(slo_shop.save(tmp_path, document, policy))
    assert len(slo_rules.check_conditions(slos)) == named
