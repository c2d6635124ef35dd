"""Replays agree with Prometheus, to the evaluation, and with its state machine in odd cases."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apm_analytics.alerts.gate import replay, watching
from apm_analytics.alerts.gate.watching import Watched
from apm_analytics.alerts.prometheus import promtool as notation
from apm_analytics.alerts.prometheus import rules, signal_specs
from apm_analytics.alerts.prometheus.signal_specs import SignalSpec
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.foundation import settings
from apm_analytics.foundation.settings import Params

MINUTES = 5 * 60
EPOCH = np.datetime64("1970-01-01T00:00", "us")
TIMES = EPOCH + np.arange(MINUTES + 1) * np.timedelta64(60, "s")
SERVICE = "shop"


@pytest.fixture(scope="module")
def params(workspace: Path) -> Params:
    return settings.load_params(workspace / "params.yaml")


@pytest.fixture(scope="module")
def specs(workspace: Path) -> dict[str, SignalSpec]:
    return signal_specs.load(workspace / "specs")


def troubled(rng: np.random.Generator, quiet: float, factor: float) -> Floats:
    """Noise around a level, and a few stretches of random length at `factor` times it."""
    values = quiet * rng.lognormal(0, 0.2, TIMES.size)
    for start in rng.integers(0, TIMES.size, 5):
        values[start : start + rng.integers(1, 50)] *= factor
    return values


def operation(name: str, rng: np.random.Generator, params: Params, gone: int | None) -> Watched:
    rate = troubled(rng, 0.2, 0.1)
    errors = np.clip(troubled(rng, 0.02, 20.0), 0, 1)
    latency = troubled(rng, 0.3, 12.0)
    quiet = slice(*sorted(rng.integers(0, TIMES.size, 2)[:2]))
    # For a while there are no requests: their rate is 0, ratio and p95 are NaN.
    calm = slice(quiet.start, min(quiet.stop, quiet.start + 20))
    rate[calm], errors[calm], latency[calm] = 0.0, np.nan, np.nan
    if gone is not None:
        rate[gone:], errors[gone:], latency[gone:] = np.nan, np.nan, np.nan
    return watching.measured(
        SERVICE,
        name,
        TIMES,
        rate=rate,
        error_ratio=errors,
        latency_p95=latency,
        params=params,
        step_s=60.0,
    )


def together(parts: list[Watched], params: Params) -> Watched:
    nothing = np.full(TIMES.size, np.nan)
    return watching.measured(
        SERVICE,
        watching.ALL_OPERATIONS,
        TIMES,
        rate=np.sum([part.present for part in parts], axis=0),
        error_ratio=nothing,
        latency_p95=nothing,
        params=params,
        step_s=60.0,
    )


def values(found: Floats, gone: int | None) -> str:
    """Write live values in promtool's notation; a series that is gone ends stale."""
    last = found.size if gone is None else gone
    stale = "" if gone is None else " stale"
    return " ".join("NaN" if np.isnan(v) else repr(float(v)) for v in found[:last]) + stale


def thresholds(rng: np.random.Generator, hours: list[int]) -> dict[tuple[str, str], Floats]:
    found = {}
    for signal, bound, level in (
        ("latency_p95", "upper", 0.6),
        ("rate", "lower", 0.1),
        ("rate", "upper", 0.23),
        ("error_ratio", "upper", 0.12),
        ("rate", "expected", 0.2),
    ):
        week = np.full(168, np.nan)
        week[hours] = level * rng.uniform(0.8, 1.4, len(hours))
        found[signal, bound] = week
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_replayed_intervals_are_those_of_prometheus(
    tmp_path: Path,
    params: Params,
    specs: dict[str, SignalSpec],
    server_binary: Callable[[str], Path],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    # The first values reach back into the hour before.
    hours = [95, *notation.hours(MINUTES)]
    gone = {"a": None, "b": None, "c": 200, "d": 60}
    parts = [operation(name, rng, params, at) for name, at in gone.items()]
    watched = [*parts, together(parts, params)]
    # The last nightly run is too old for the last half of the time.
    age = params.thresholds.max_age_s
    fresh = np.arange(MINUTES + 1) <= MINUTES // 2
    inputs = [notation.series(notation.TRAINED, f"{MINUTES // 2 * 60 - age!r}x{MINUTES}")]
    predicted: dict[int, set[str]] = {minute: set() for minute in range(MINUTES + 1)}
    fired: set[str] = set()
    for one in watched:
        held = notation.Operation(SERVICE, one.operation, MINUTES)
        if one.operation in gone:
            for signal, spec in specs.items():
                inputs.append(held.live(spec, values(one.live[signal], gone[one.operation])))
        learned = thresholds(rng, hours)
        if one.operation == watching.ALL_OPERATIONS:
            learned = {key: 3.0 * week for key, week in learned.items() if key[0] == "rate"}
        if one.operation == "b":  # this one the gate left to the static thresholds
            learned = {}
        for (signal, bound), week in learned.items():
            inputs += held.hourly(bound, signal, {hour: week[hour] for hour in hours})
        for spec in specs.values():
            for bound in spec.bounds:
                week = learned.get((spec.name, bound))
                stands_in = np.ones(TIMES.size, dtype=bool)
                if week is not None:
                    stands_in = ~fresh
                    passed = replay.passes_learned(
                        one, spec.name, bound, week, learned.get(("rate", "expected")), params
                    )
                    alert = rules.alert_name(spec, bound, "Baseline")
                    _predict(predicted, fired, one, spec, alert, passed & fresh, params)
                static = getattr(spec.fallback, bound)
                if static is None:
                    continue
                passed = replay.passes_static(one, spec.name, bound, static, params, step_s=60.0)
                alert = rules.alert_name(spec, bound, "Static")
                _predict(predicted, fired, one, spec, alert, passed & stands_in, params)
    assert len(fired) >= 6, "too quiet to prove anything"
    said = run(tmp_path, server_binary("promtool"), params, specs, inputs, predicted)
    assert said == ""
    # One evaluation more or less is noticed.
    minute = next(minute for minute, held in predicted.items() if held)
    predicted[minute] = set()
    said = run(tmp_path, server_binary("promtool"), params, specs, inputs, predicted)
    assert "FAILED" in said


def _predict(
    predicted: dict[int, set[str]],
    fired: set[str],
    one: Watched,
    spec: SignalSpec,
    alert: str,
    passed: np.ndarray,
    params: Params,
) -> None:
    learned = alert.endswith("Baseline")
    labels = {"alertname": alert, "alertstate": "firing", "service": SERVICE}
    labels |= {"operation": one.operation, "severity": spec.severity, "signal": spec.name}
    for interval in replay.firing(
        one.times,
        passed,
        for_s=params.thresholds.for_s,
        keep_firing_s=params.thresholds.keep_firing_s if learned else 0.0,
    ):
        fired.add(alert)
        first, last = (
            int((time - EPOCH) / np.timedelta64(60, "s")) for time in (interval.start, interval.end)
        )
        for minute in range(first, last + (1 if interval.ongoing else 0)):
            predicted[minute].add(f"ALERTS{notation.selector(**labels)}")


def run(
    folder: Path,
    promtool: Path,
    params: Params,
    specs: dict[str, SignalSpec],
    inputs: list[dict[str, str]],
    predicted: dict[int, set[str]],
) -> str:
    """Let Prometheus evaluate the rules; return where it disagrees with the prediction."""
    checks: list[dict[str, Any]] = [
        {
            "expr": 'ALERTS{alertstate="firing", alertname!="ApmBaselineStale"}',
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": labels, "value": 1} for labels in sorted(held)],
        }
        for minute, held in predicted.items()
    ]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": checks}
    (folder / "rules").mkdir(exist_ok=True)
    (folder / "tests").mkdir(exist_ok=True)
    content = rules.document(specs, params, "/srv/runs")
    (folder / "rules" / rules.FILE_NAME).write_text(rules.as_yaml(content, {}))
    file = folder / "tests" / "replay_test.yml"
    # JSON is YAML, and much faster to write.
    file.write_text(json.dumps(notation.test_file(rules.FILE_NAME, "1m", [test])))
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def plain_state_machine(passed: list[bool], hold: int, keep: int) -> list[bool]:
    """Prometheus' state machine, evaluation by evaluation: is the alert firing?"""
    active: int | None = None
    gone: int | None = None
    firing, found = False, []
    for now, sample in enumerate(passed):
        if sample:
            gone = None
            active = now if active is None else active
            firing = firing or now - active >= hold
        else:
            if firing:
                gone = now if gone is None else gone
                firing = now - gone < keep
            if not firing:
                active, gone = None, None
        found.append(firing)
    return found


@given(
    passed=st.lists(st.booleans(), min_size=1, max_size=60),
    hold=st.integers(0, 6),
    keep=st.integers(0, 6),
)
@hypothesis_settings(max_examples=300, deadline=None)
def test_intervals_are_those_of_the_plain_state_machine(
    passed: list[bool], hold: int, keep: int
) -> None:
    times = TIMES[: len(passed)]
    found = np.zeros(len(passed), dtype=bool)
    for interval in replay.firing(
        times, np.array(passed), for_s=60.0 * hold, keep_firing_s=60.0 * keep
    ):
        end = times[-1] + 1 if interval.ongoing else interval.end
        found |= (times >= interval.start) & (times < end)
    assert found.tolist() == plain_state_machine(passed, hold, keep)


def test_nothing_fires_on_nothing() -> None:
    assert replay.firing(TIMES[:0], np.zeros(0, dtype=bool), for_s=0.0) == []
