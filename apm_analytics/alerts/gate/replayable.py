"""Find an alert to replay: a generated one by name, or one of a Prometheus rules file.

In:  the alert's name, the watched signals, rules files.
Out: an `Alert`, or an error that says what can be replayed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from apm_analytics.alerts.gate.replay import Alert
from apm_analytics.alerts.prometheus import rules
from apm_analytics.alerts.prometheus.signal_specs import SignalSpec
from apm_analytics.foundation.errors import BadParameter, NotFound
from apm_analytics.foundation.settings import Params
from apm_analytics.foundation.yaml_documents import read

NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_COMPARISON = re.compile(
    rf"^\s*(?P<record>[a-zA-Z_:][\w:]*)\s*(?P<labels>\{{[^}}]*\}})?\s*(?P<sign>[<>]=?)\s*"
    rf"(?:(?P<number>{NUMBER})|on\s*\(\s*service\s*,\s*operation\s*\)\s*"
    r"apm:baseline_(?P<bound>upper|lower):current\s*(?P<threshold>\{[^}]*\}))\s*$"
)
_LABEL = re.compile(r'\s*(\w+)\s*=\s*"((?:[^"\\]|\\.)*)"\s*')
SUPPORTED = (
    "supported are our generated alerts by name, and rules of the form RECORD > NUMBER or "
    'RECORD > on (service, operation) apm:baseline_upper:current{signal="NAME"} (also <, >=, <=), '
    "with equal matchers on service and operation"
)


def find(
    name: str, signals: Mapping[str, SignalSpec], params: Params, files: Sequence[Path] = ()
) -> Alert:
    """Return the alert of a name: a generated one, else one of the rules files.

    Raises
    ------
    NotFound
        No alert has that name; the message lists those there are.
    BadParameter
        Its rule cannot be replayed, or a rules file cannot be read.
    """
    known = {alert.name: alert for alert in generated(signals, params)}
    if name in known:
        return known[name]
    names = set(known)
    for file in files:
        for rule in _rules(file):
            names.add(str(rule["alert"]))
            if rule["alert"] == name:
                return _parsed(rule, signals, file)
    raise NotFound(f"no alert {name!r}; there are {', '.join(sorted(names))}")


def generated(signals: Mapping[str, SignalSpec], params: Params) -> Iterator[Alert]:
    """Yield every alert that `prometheus.rules` generates: learned, then static, per bound."""
    waits = params.thresholds
    for spec in signals.values():
        for bound in spec.bounds:
            sign = ">" if bound == "upper" else "<"
            name = rules.alert_name(spec, bound, "Baseline")
            learned = Alert(name, spec.name, sign, True, None, waits.for_s, plain=False)
            yield replace(learned, keep_firing_s=waits.keep_firing_s)
            static = getattr(spec.fallback, bound)
            if static is not None:
                name = rules.alert_name(spec, bound, "Static")
                yield Alert(name, spec.name, sign, False, static, waits.for_s, plain=False)


def seconds(duration: str) -> float:
    """Parse a Prometheus duration: 5m, 1h30m, 90s, 500ms.

    Raises
    ------
    BadParameter
        The text is not such a duration.
    """
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
    parts = re.findall(r"([0-9]{1,9})(ms|[smhdw])", duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise BadParameter(f"got {duration!r}, need a duration such as 5m, 1h30m or 90s")
    return sum(int(number) * units[unit] for number, unit in parts)


def _rules(file: Path) -> list[dict[str, Any]]:
    """Return the alerts of a Prometheus rules file."""
    content = read(file).data
    try:
        alerts = [rule for group in content["groups"] for rule in group["rules"] if "alert" in rule]
        assert all(isinstance(rule.get("expr"), str) for rule in alerts)
    except (TypeError, KeyError, AssertionError, AttributeError) as error:
        raise BadParameter(
            f"cannot read {file} as a Prometheus rules file: {error!r}; check it with "
            "`promtool check rules`"
        ) from error
    return alerts


def _parsed(rule: dict[str, Any], signals: Mapping[str, SignalSpec], file: Path) -> Alert:
    expression = str(rule["expr"])
    refusal = f"alert {rule['alert']} of {file}: cannot replay {expression.strip()!r}"
    comparison = _COMPARISON.match(expression)
    if comparison is None:
        raise BadParameter(f"{refusal}; {SUPPORTED}")
    records = {spec.record: (name, False) for name, spec in signals.items()}
    records |= {rules.sustained(name): (name, True) for name in signals}
    if comparison["record"] not in records:
        raise BadParameter(
            f"{refusal}: {comparison['record']} is none of the recorded signals "
            f"{', '.join(sorted(records))}; {SUPPORTED}"
        )
    signal, sustained = records[comparison["record"]]
    labels = _labels(comparison["labels"], refusal)
    if set(labels) - {"service", "operation"}:
        raise BadParameter(f"{refusal}: unknown labels {sorted(labels)}; {SUPPORTED}")
    alert = Alert(
        str(rule["alert"]),
        signal,
        comparison["sign"],
        sustained,
        None if comparison["bound"] else float(comparison["number"]),
        for_s=seconds(str(rule.get("for", "0s"))),
        keep_firing_s=seconds(str(rule.get("keep_firing_for", "0s"))),
        service=labels.get("service"),
        operation=labels.get("operation"),
    )
    if comparison["bound"]:
        of_threshold = _labels(comparison["threshold"], refusal)
        if of_threshold != {"signal": signal} or comparison["bound"] != alert.bound:
            raise BadParameter(
                f'{refusal}: needs the {alert.bound} threshold with {{signal="{signal}"}} alone; '
                f"{SUPPORTED}"
            )
    return alert


def _labels(text: str | None, refusal: str) -> dict[str, str]:
    if not text or not text.strip("{} \n"):
        return {}
    labels = {}
    for part in re.split(r",(?=\s*\w+\s*[=!])", text.strip().strip("{}").rstrip(", ")):
        matcher = _LABEL.fullmatch(part)
        if matcher is None:
            raise BadParameter(f"{refusal}: cannot read the matcher {part.strip()!r}; {SUPPORTED}")
        value = matcher[2].replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
        labels[matcher[1]] = value
    return labels
