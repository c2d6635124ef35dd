"""Find an alert to replay: one of ours by name, or one of a Prometheus rules file.

In:  the alert's name, the watched signals, rules files.
Out: an `Alert`, or a refusal that says what can be replayed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from apm_analytics.alerts.prometheus import rules
from apm_analytics.alerts.prometheus.signal_specs import SignalSpec
from apm_analytics.foundation.errors import BadParameter, NotFound
from apm_analytics.foundation.settings import Params

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
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


@dataclass(frozen=True)
class Alert:
    """One alert to replay.

    Parameters
    ----------
    signal : "latency_p95", "rate" or "error_ratio".
    sustained : it looks at the sustained value, not at the live one.
    sign : ">", "<", ">=" or "<=".
    threshold : a number in the signal's unit; None is the learned threshold.
    plain : it has no guards; ours have some against little traffic.
    """

    name: str
    signal: str
    sign: str
    sustained: bool
    threshold: float | None
    for_s: float
    keep_firing_s: float = 0.0
    plain: bool = True
    service: str | None = None
    operation: str | None = None

    @property
    def bound(self) -> str:
        """The side on which it fires."""
        return "upper" if self.sign.startswith(">") else "lower"


def find(
    name: str, signals: Mapping[str, SignalSpec], params: Params, files: Sequence[Path] = ()
) -> Alert:
    """Find an alert by its name: among ours, else in rules files.

    Raises
    ------
    NotFound
        No alert of that name; the message lists those there are.
    BadParameter
        Its rule cannot be replayed, or a rules file cannot be read.
    """
    ours = {one.name: one for one in _ours(signals, params)}
    if name in ours:
        return ours[name]
    held = list(ours)
    for file in files:
        for rule in _rules(file):
            held.append(str(rule["alert"]))
            if rule["alert"] == name:
                return _parsed(rule, signals, file)
    raise NotFound(f"no alert {name!r}; there are {', '.join(sorted(set(held)))}")


def changed(alert: Alert, *, threshold: float | None, for_s: float | None) -> Alert:
    """Ask what another threshold, or another `for`, would have done."""
    if threshold is not None:
        alert = replace(alert, threshold=threshold)
    return alert if for_s is None else replace(alert, for_s=for_s)


def _ours(signals: Mapping[str, SignalSpec], params: Params) -> Iterator[Alert]:
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


def _rules(file: Path) -> list[dict[str, Any]]:
    """List the alerts of a Prometheus rules file."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        found = [rule for group in content["groups"] for rule in group["rules"] if "alert" in rule]
        assert all(isinstance(rule.get("expr"), str) for rule in found)
    except (
        OSError,
        UnicodeDecodeError,
        yaml.YAMLError,
        TypeError,
        KeyError,
        AssertionError,
        AttributeError,
    ) as error:
        raise BadParameter(
            f"cannot read {file} as a Prometheus rules file: {error!r}; check it with "
            "`promtool check rules`"
        ) from error
    return found


def _parsed(rule: dict[str, Any], signals: Mapping[str, SignalSpec], file: Path) -> Alert:
    expression = str(rule["expr"])
    refused = f"alert {rule['alert']} of {file}: cannot replay {expression.strip()!r}"
    found = _COMPARISON.match(expression)
    if found is None:
        raise BadParameter(f"{refused}; {SUPPORTED}")
    records = {spec.record: (name, False) for name, spec in signals.items()}
    records |= {rules.sustained(name): (name, True) for name in signals}
    if found["record"] not in records:
        raise BadParameter(
            f"{refused}: {found['record']} is none of the recorded signals "
            f"{', '.join(sorted(records))}; {SUPPORTED}"
        )
    signal, sustained = records[found["record"]]
    labels = _labels(found["labels"], refused)
    if set(labels) - {"service", "operation"}:
        raise BadParameter(f"{refused}: unknown labels {sorted(labels)}; {SUPPORTED}")
    if found["bound"]:
        of_threshold = _labels(found["threshold"], refused)
        side = "upper" if found["sign"].startswith(">") else "lower"
        if of_threshold != {"signal": signal} or found["bound"] != side:
            raise BadParameter(
                f'{refused}: needs the {side} threshold with {{signal="{signal}"}} alone; '
                f"{SUPPORTED}"
            )
    return Alert(
        str(rule["alert"]),
        signal,
        found["sign"],
        sustained,
        None if found["bound"] else float(found["number"]),
        for_s=seconds(str(rule.get("for", "0s"))),
        keep_firing_s=seconds(str(rule.get("keep_firing_for", "0s"))),
        service=labels.get("service"),
        operation=labels.get("operation"),
    )


def seconds(duration: str) -> float:
    """Read a Prometheus duration: 5m, 1h30m, 90s, 500ms.

    Raises
    ------
    BadParameter
        It is none.
    """
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
    parts = re.findall(r"(\d+)(ms|[smhdw])", duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise BadParameter(f"got {duration!r}, need a duration such as 5m, 1h30m or 90s")
    return sum(int(number) * units[unit] for number, unit in parts)


def _labels(text: str | None, refused: str) -> dict[str, str]:
    if not text or not text.strip("{} \n"):
        return {}
    found = {}
    for part in re.split(r",(?=\s*\w+\s*[=!])", text.strip().strip("{}").rstrip(", ")):
        one = _LABEL.fullmatch(part)
        if one is None:
            raise BadParameter(f"{refused}: cannot read the matcher {part.strip()!r}; {SUPPORTED}")
        found[one[1]] = one[2].replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
    return found
