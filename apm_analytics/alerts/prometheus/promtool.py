"""Speak with promtool: its notation for tests, and running it.

In:  operations with live values and bounds; a folder of rules and their tests.
Out: test files as mappings; an error with what promtool said when it refuses.

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
    False when there is no promtool on PATH, so nothing was checked.

    Raises
    ------
    ApmError
        promtool refuses them, or does not finish; the message holds what it said.
    """
    promtool = shutil.which("promtool")
    if promtool is None:
        return False
    for verb, files in (
        ("check", sorted(prometheus.glob("rules/*.yml"))),
        ("test", sorted(prometheus.glob("tests/*_test.yml"))),
    ):
        command = [promtool, verb, "rules", *map(str, files)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ApmError(f"promtool {verb} rules did not finish: {error}") from error
        if done.returncode:
            said = (done.stdout + done.stderr).strip()
            raise ApmError(
                f"promtool {verb} rules refuses {', '.join(file.name for file in files)}, "
                f"nothing is published; check promql and record in specs/signals.yaml:\n{said}"
            )
    return True


@dataclass(frozen=True)
class Operation:
    """An operation in a test: its live values and its baseline, for `minutes` minutes."""

    service: str
    name: str
    minutes: int

    def live(self, spec: SignalSpec, value: float | str) -> Series:
        """Its live value: one number, or values in promtool's notation."""
        values = value if isinstance(value, str) else steady(value, self.minutes)
        return series(spec.record, values, service=self.service, operation=self.name)

    def hourly(self, bound: str, signal: str, values: float | Mapping[int, float]) -> list[Series]:
        """Its bound by hour of the week; one number holds for every hour of the test."""
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
        """How often its alert would have fired, a week."""
        return series(
            "apm_threshold_pages_per_week",
            steady(pages, self.minutes),
            service=self.service,
            operation=self.name,
            signal=signal,
            bound=bound,
        )

    def info(self, signal: str) -> Series:
        """Where its baseline comes from."""
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
    """The hours of the week that a test of so many minutes sees; a week is the longest."""
    count = min(minutes // 60 + 1, HOURS_PER_WEEK)
    return [(START_HOUR + hour) % HOURS_PER_WEEK for hour in range(count)]


def steady(value: float, minutes: int) -> str:
    """Write the same value at every minute; as a float, for promtool reads 0x20 as hexadecimal."""
    return f"{float(value)!r}x{minutes}"


def trained(minutes: int) -> Series:
    """Say at every minute that the thresholds were trained just now."""
    return series(TRAINED, f"0+60x{minutes}")


def selector(**labels: str) -> str:
    """Write labels as PromQL does; JSON's escapes are all known to its strings."""
    pairs = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items())
    return "{" + ", ".join(pairs) + "}" if labels else ""


def series(metric: str, values: str, **labels: str) -> Series:
    """Write one input series."""
    return {"series": f"{metric}{selector(**labels)}", "values": values}


def test(
    name: str, inputs: list[Series], checks: list[tuple[str, int, list[dict[str, Any]]]]
) -> Test:
    """Write a test of alerts: at each minute, exactly these must fire."""
    return {
        "name": name,
        "interval": "1m",
        "input_series": inputs,
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": fired}
            for alert, minute, fired in checks
        ],
    }


def expects(wanted: str, minute: int, value: float | None) -> dict[str, Any]:
    """Write that a series has this value at a minute, or is not there."""
    samples = [] if value is None else [{"labels": wanted, "value": value}]
    return {"expr": wanted, "eval_time": f"{minute}m", "exp_samples": samples}


def test_file(rules: str, evaluation_interval: str, tests: list[Test]) -> dict[str, Any]:
    """Write a file of tests on a file of rules beside it."""
    return {
        "rule_files": [f"../rules/{rules}"],
        "evaluation_interval": evaluation_interval,
        "tests": tests,
    }
