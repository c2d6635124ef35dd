"""The rules fire when and only when they should, as promtool runs them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bounds_frames import make_bounds, make_provenance

from apm_analytics.alerts import thresholds
from apm_analytics.alerts.prometheus import rule_tests, rules, signal_specs
from apm_analytics.alerts.prometheus.promtool import check as check_with_promtool
from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import ApmError
from apm_analytics.foundation.settings import Params

SERVER = 'span_kind="SPAN_KIND_SERVER"'


@pytest.fixture(scope="module")
def promtool(server_binary: Callable[[str], Path]) -> Path:
    return server_binary("promtool")


@pytest.fixture(scope="module")
def params(workspace: Path) -> Params:
    return settings.load_params(workspace / "params.yaml")


def write(
    folder: Path,
    specs: Path,
    params: Params,
    *,
    operations: list[tuple[str, str]] | None = None,
) -> Path:
    """Write rules and tests as publishing does; return the folder of both."""
    signals = signal_specs.load(specs)
    bounds = make_bounds(operations) if operations else make_bounds()
    frame = thresholds.thresholds(bounds, make_provenance())
    for name, content in (
        ("rules/apm_thresholds.yml", rules.document(signals, params, "/srv/runs")),
        (
            "tests/apm_thresholds_test.yml",
            rule_tests.document(signals, params, "/srv/runs", frame),
        ),
        ("tests/apm_week_test.yml", rule_tests.week_document(signals)),
    ):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(rules.as_yaml(content, {"run_id": "r1"}))
    return folder


def changed(params: Params, **thresholds_params: float) -> Params:
    return params.model_copy(
        update={"thresholds": params.thresholds.model_copy(update=thresholds_params)}
    )


def run_tests(promtool: Path, file: Path) -> str:
    done = subprocess.run(
        [promtool, "test", "rules", file], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.usefixtures("promtool")
@pytest.mark.parametrize(("for_s", "max_age_s"), [(0, 600), (3600.5, 86400)])
def test_rules_and_generated_tests_pass_with_other_params(
    tmp_path: Path, workspace: Path, params: Params, for_s: float, max_age_s: float
) -> None:
    other = changed(params, for_s=for_s, max_age_s=max_age_s)
    features = other.features.model_copy(update={"window_s": 60, "min_requests": 10})
    other = other.model_copy(update={"features": features})
    assert check_with_promtool(write(tmp_path, workspace / "specs", other))


@pytest.mark.usefixtures("promtool")
def test_any_name_of_an_operation_survives_into_the_generated_tests(
    tmp_path: Path, workspace: Path, params: Params
) -> None:
    odd = [('a "b" \\ c', "GET\n/ü {{ $labels.service }} %s\t\x01\u2028\U0001f6d2 \\n")]
    folder = write(tmp_path, workspace / "specs", params, operations=odd)
    assert "on a published bound" in (folder / "tests" / "apm_thresholds_test.yml").read_text()
    assert check_with_promtool(folder)


@pytest.mark.parametrize(
    ("correct", "wrong", "test"),
    [
        ("latency_p95:sustained > on", "latency_p95:sustained < on", "ApmLatencyAboveBaseline"),
        ("apm:rate:sustained < on", "apm:rate:sustained > on", "ApmRateBelowBaseline"),
        ("error_ratio:sustained > on", "error_ratio:sustained < on", "on a published bound"),
        ("* 1200 >= 5", "* 1200 >= 0", "ApmRateBelowBaseline"),
        ("+ hour(", "+ 1 + hour(", "hour of the week"),
        ("+ hour(", "+ 1 + hour(", "on a published bound"),
        ("day_of_week(", "7 + day_of_week(", "the week ends"),
        ("time() - 1199", "time()", "on a published bound"),
        ("or apm_alert_off", "or apm_alert_on", "turned off"),
        ("\n          and on () apm:baseline_fresh:bool == 1", "", "for a stale baseline"),
        (" and on () apm:baseline_fresh:bool == 1", "", "for a stale baseline"),
        ("unless on (service", "and on (service", "beside a fresh baseline"),
        ("apm:latency_p95:seconds > 2.0", "apm:latency_p95:seconds > 5.0", "for no baseline"),
        ("apm:error_ratio:ratio > 0.05", "apm:error_ratio:ratio > 0.01", "for no baseline"),
        ("< 0.0033", "< 0.033", "for no baseline"),
        ("for: 5m", "for: 50m", "ApmLatencyAboveBaseline"),
        ("keep_firing_for: 15m", "keep_firing_for: 16m", "hour of the week"),
        ("> 129600", "> 129000", "waits for the age"),
        ("> 129600", "> 130000", "waits for the age"),
        (
            "\n          or\n          absent(apm_baseline",
            "\n          + absent(apm_baseline",
            "nothing",
        ),
        (" or 0 * last_over_time(apm:rate:per_second[6h])", "", "is gone"),
        ("severity: ticket", "severity: page", "ApmRateBelowBaseline"),
        ("notebooks/20_baselines.ipynb", "20_baselines.ipynb", "ApmRateBelowBaseline"),
        (", run {{", ", runs {{", "ApmErrorRatioAboveBaseline"),
    ],
)
def test_the_generated_tests_notice_a_wrong_rule(
    tmp_path: Path,
    workspace: Path,
    params: Params,
    promtool: Path,
    correct: str,
    wrong: str,
    test: str,
) -> None:
    folder = write(tmp_path, workspace / "specs", params)
    file = folder / "rules" / "apm_thresholds.yml"
    assert correct in file.read_text()
    # Only the test that should fail: all of them would take a minute.
    noticing = folder / "tests" / "noticing_test.yml"
    for generated in folder.glob("tests/apm_*_test.yml"):
        document = yaml.safe_load(generated.read_text())
        document["tests"] = [one for one in document["tests"] if test in one["name"]]
        if document["tests"]:
            noticing.write_text(yaml.safe_dump(document))
    file.write_text(file.read_text().replace(correct, wrong))
    assert "FAILED" in run_tests(promtool, noticing)


@pytest.mark.usefixtures("promtool")
def test_a_rate_above_its_bound_and_pages_are_watched_where_the_spec_asks(
    tmp_path: Path, workspace: Path, params: Params
) -> None:
    text = (workspace / "specs" / "signals.yaml").read_text()
    text = text.replace("    alert: Rate\n", "    alert: Rate\n    bounds: [lower, upper]\n")
    (tmp_path / "signals.yaml").write_text(text.replace("severity: ticket", "severity: page"))
    folder = write(tmp_path, tmp_path, params)
    assert "ApmRateAboveBaseline" in (folder / "rules" / "apm_thresholds.yml").read_text()
    assert check_with_promtool(folder)


def test_each_alert_has_for_severity_and_annotations_with_run_and_notebook(
    workspace: Path, params: Params
) -> None:
    document = rules.document(signal_specs.load(workspace / "specs"), params, "/srv/runs")
    alerts = [rule for rule in document["groups"][0]["rules"] if "alert" in rule]
    assert [rule["alert"] for rule in alerts] == [
        "ApmLatencyAboveBaseline",
        "ApmRateBelowBaseline",
        "ApmErrorRatioAboveBaseline",
        "ApmBaselineStale",
        "ApmLatencyAboveStatic",
        "ApmRateBelowStatic",
        "ApmErrorRatioAboveStatic",
    ]
    for rule in alerts:
        assert rule["for"] == "5m"
        assert rule["labels"]["severity"] == "ticket"
        needed = {"summary", "description", "run_id"}
        if rule["alert"] != rules.STALE:
            needed.add("notebook")
        assert set(rule["annotations"]) == needed


def test_live_values_come_from_entry_spans_of_the_spanmetrics_connector(
    tmp_path: Path, workspace: Path, params: Params, promtool: Path
) -> None:
    operation = 'GET /"a"\nb\\'
    names = f'service_name="cart", span_name={json.dumps(operation)}'
    out = f'{{service="cart", operation={json.dumps(operation)}}}'
    bucket = "traces_span_metrics_duration_seconds_bucket"
    calls = "traces_span_metrics_calls_total"
    series = {
        # 120 requests a minute: half below 0.1 s, all below 0.5 s, so p95 is at 0.46 s.
        f'{bucket}{{{names}, {SERVER}, status_code="STATUS_CODE_UNSET", le="0.1"}}': "0+60x40",
        f'{bucket}{{{names}, {SERVER}, status_code="STATUS_CODE_UNSET", le="0.5"}}': "0+120x40",
        f'{bucket}{{{names}, {SERVER}, status_code="STATUS_CODE_UNSET", le="+Inf"}}': "0+120x40",
        f'{calls}{{{names}, {SERVER}, status_code="STATUS_CODE_UNSET"}}': "0+90x40",
        f'{calls}{{{names}, {SERVER}, status_code="STATUS_CODE_ERROR"}}': "0+30x40",
        # The same operation on the calling side does not count.
        f'{bucket}{{{names}, span_kind="SPAN_KIND_CLIENT", le="+Inf"}}': "0+999x40",
        f'{calls}{{{names}, span_kind="SPAN_KIND_CLIENT", status_code="STATUS_CODE_ERROR"}}': (
            "0+999x40"
        ),
        # A consumer that never failed.
        f'{calls}{{service_name="mail", span_name="send", span_kind="SPAN_KIND_CONSUMER", '
        'status_code="STATUS_CODE_UNSET"}': "0+6x40",
    }
    mail = '{service="mail", operation="send"}'
    expected = {
        "apm:latency_p95:seconds": [(out, 460)],
        "apm:rate:per_second": [(out, 2000), (mail, 100)],
        "apm:error_ratio:ratio": [(out, 250), (mail, 0)],
    }
    folder = write(tmp_path, workspace / "specs", params)
    test: dict[str, Any] = {
        "rule_files": ["../rules/apm_thresholds.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": k, "values": v} for k, v in series.items()],
                "promql_expr_test": [
                    {
                        # In thousandths, rounded: sums of rates are off by the last bit.
                        "expr": f"round(1000 * {name})",
                        "eval_time": "30m",
                        "exp_samples": [{"labels": lab, "value": val} for lab, val in samples],
                    }
                    for name, samples in expected.items()
                ],
            }
        ],
    }
    file = folder / "tests" / "live_test.yml"
    file.write_text(yaml.safe_dump(test))
    assert run_tests(promtool, file) == ""


def test_what_promtool_refuses_is_an_error_with_what_it_said(
    tmp_path: Path, workspace: Path, params: Params, promtool: Path
) -> None:
    folder = write(tmp_path, workspace / "specs", params)
    file = folder / "rules" / "apm_thresholds.yml"
    file.write_text(file.read_text().replace("for: 5m", "for: soon", 1))
    with pytest.raises(ApmError, match=r"(?s)promtool check rules .*not a valid duration"):
        check_with_promtool(folder)


def test_without_promtool_nothing_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not check_with_promtool(tmp_path)


def test_the_deployed_configuration_passes_promtool(workspace: Path, promtool: Path) -> None:
    config = workspace / "deploy" / "prometheus" / "prometheus.yml"
    done = subprocess.run(
        [promtool, "check", "config", "--syntax-only", config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = yaml.safe_load(config.read_text())["rule_files"]
    assert files == ["../../data/published/prometheus/rules/*.yml"]
