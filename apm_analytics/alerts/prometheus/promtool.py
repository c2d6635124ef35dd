"""Run promtool, and write its notation for tests.

In:  operations with live values and bounds; a folder of rules and their tests.
Out: test files as mappings; an error with promtool's output when it refuses.

promtool's clock starts at epoch 0, a Thursday 00:00 UTC: hour 96 of the week.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apm_analytics.alerts.prometheus.signal_specs import SignalSpec
from apm_analytics.foundation.errors import ApmError
from apm_analytics.foundation.time import HOURS_PER_WEEK

TIMEOUT_S = 300.0
START_HOUR = 96
TRAINED = "apm_baseline_trained_timestamp_seconds"
MODEL = "robust"
RUN_ID = "20260101T000000Z-test"
Series = dict[str, str]
Test = dict[str, Any]


def check(prometheus: Path) -> bool:
    """Check rules and run their tests.

    Parameters
    ----------
    prometheus : folder with rules/*.yml and tests/*_test.yml.

    Returns
    -------
    Whether they were checked: False without promtool on PATH.

    Raises
    ------
    ApmError
        promtool refuses them or does not finish; the message holds its output.
    """
    promtool = shutil.which("promtool")
    if promtool is None:
        return False
    for verb, files in (
        ("check", sorted(prometheus.glob("rules/*.yml"))),
        ("test", sorted(prometheus.glob("tests/*_test.yml"))),
    ):
        # Relative: promtool takes the folder of a test for a pattern when it looks for its rules.
        command = [promtool, verb, "rules", *(str(file.relative_to(prometheus)) for file in files)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
                cwd=prometheus,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ApmError(f"promtool {verb} rules did not finish: {error}") from error
        if done.returncode:
            output = (done.stdout + done.stderr).strip()
            raise ApmError(
                f"promtool {verb} rules refuses {', '.join(file.name for file in files)}, "
                f"nothing is published; check promql and record in specs/signals.yaml:\n{output}"
            )
    return True


@dataclass(frozen=True)
class Operation:
    """An operation in a test: its live values and its baseline, for `minutes` minutes."""

    service: str
    name: str
    minutes: int

    def live(self, spec: SignalSpec, value: float | str) -> Series:
        """Return its live value; a string holds values in promtool's notation."""
        values = value if isinstance(value, str) else steady(value, self.minutes)
        return series(spec.record, values, service=self.service, operation=self.name)

    def hourly(self, bound: str, signal: str, values: float | Mapping[int, float]) -> list[Series]:
        """Return its bound by hour of the week; a number applies to every hour of the test."""
        if not isinstance(values, Mapping):
            values = dict.fromkeys(hours(self.minutes), values)
        return [
            series(
                f"apm_baseline_{bound}",
                steady(value, self.minutes),
                service=self.service,
                operation=self.name,
                signal=signal,
                hour_of_week=str(hour),
            )
            for hour, value in values.items()
        ]

    def replayed(self, signal: str, bound: str, pages: float) -> Series:
        """Return how often per week its alert would have fired."""
        return series(
            "apm_threshold_pages_per_week",
            steady(pages, self.minutes),
            service=self.service,
            operation=self.name,
            signal=signal,
            bound=bound,
        )

    def marked(self, metric: str, signal: str, bound: str) -> Series:
        """Return a metric of its alert that is always 1."""
        labels = {"service": self.service, "operation": self.name, "signal": signal, "bound": bound}
        return series(metric, steady(1.0, self.minutes), **labels)

    def info(self, signal: str) -> Series:
        """Return the provenance of its baseline."""
        return series(
            "apm_baseline_info",
            steady(1, self.minutes),
            service=self.service,
            operation=self.name,
            signal=signal,
            model=MODEL,
            run_id=RUN_ID,
        )


def hours(minutes: int) -> list[int]:
    """Return the hours of the week that a test of so many minutes covers, at most a week."""
    count = min(minutes // 60 + 1, HOURS_PER_WEEK)
    return [(START_HOUR + hour) % HOURS_PER_WEEK for hour in range(count)]


def steady(value: float, minutes: int) -> str:
    """Return one value for every minute; a float, because promtool reads 0x20 as hexadecimal."""
    return f"{float(value)!r}x{minutes}"


def trained(minutes: int) -> Series:
    """Return thresholds that at every minute were trained just now."""
    return series(TRAINED, f"0+60x{minutes}")


def selector(**labels: str) -> str:
    """Return labels as a PromQL selector; JSON's escapes are valid in its strings."""
    pairs = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items())
    return "{" + ", ".join(pairs) + "}" if labels else ""


def series(metric: str, values: str, **labels: str) -> Series:
    """Return one input series."""
    return {"series": f"{metric}{selector(**labels)}", "values": values}


def test(
    name: str, inputs: list[Series], checks: list[tuple[str, int, list[dict[str, Any]]]]
) -> Test:
    """Return a test of alerts: at each minute, exactly these must fire."""
    return {
        "name": name,
        "interval": "1m",
        "input_series": inputs,
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": fired}
            for alert, minute, fired in checks
        ],
    }


def expects(selected: str, minute: int, value: float | None) -> dict[str, Any]:
    """Return the check that a series has this value at a minute; with None, that it is absent."""
    samples = [] if value is None else [{"labels": selected, "value": value}]
    return {"expr": selected, "eval_time": f"{minute}m", "exp_samples": samples}


def test_file(rules: str, evaluation_interval: str, tests: list[Test]) -> dict[str, Any]:
    """Return a file of tests of a rules file."""
    return {
        "rule_files": [f"../rules/{rules}"],
        "evaluation_interval": evaluation_interval,
        "tests": tests,
    }
