"""Read what is watched, and where Prometheus finds its live value.

In:  specs/signals.yaml.
Out: one checked `SignalSpec` a signal, in the order of the file.
"""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from apm_analytics.errors import BadParameter

FILE_NAME = "signals.yaml"
# Which bounds become thresholds. Low latency and few errors are no trouble; too few requests are.
BOUNDS: dict[str, tuple[str, ...]] = {
    "latency_p95": ("upper",),
    "rate": ("lower", "upper"),
    "error_ratio": ("upper",),
}
METRIC_NAME = r"^[a-zA-Z_:][a-zA-Z0-9_:]*$"
LABEL_NAME = r"^[a-zA-Z_][a-zA-Z0-9_]*$"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Labels(_Frozen):
    """Which label of the PromQL result holds the service, and which the operation."""

    service: str = Field(pattern=LABEL_NAME)
    operation: str = Field(pattern=LABEL_NAME)


class Fallback(_Frozen):
    """Static thresholds in the signal's unit, for when there is no fresh learned one."""

    upper: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    lower: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _not_empty(self) -> "Fallback":
        if self.upper is None and self.lower is None:
            raise ValueError("needs an upper or a lower threshold")
        return self


class SignalSpec(_Frozen):
    """One watched signal; see the head of specs/signals.yaml for its fields."""

    name: str
    title: str = Field(min_length=1, pattern=r"^[^{}]*$")  # braces would start a template
    unit: str = Field(min_length=1, pattern=r"^[^{}]*$")
    record: str = Field(pattern=METRIC_NAME)
    alert: str = Field(pattern=r"^[A-Z][A-Za-z0-9]*$")
    severity: Literal["page", "ticket", "info"]
    labels: Labels
    promql: str = Field(min_length=1)
    fallback: Fallback

    @property
    def bounds(self) -> tuple[str, ...]:
        """The bounds of this signal that become thresholds."""
        return BOUNDS[self.name]


def load(specs: Path) -> dict[str, SignalSpec]:
    """Read and check the signals.

    Parameters
    ----------
    specs : the folder with signals.yaml, or the file itself.

    Returns
    -------
    Signal name -> its spec.

    Raises
    ------
    BadParameter
        The file is missing or no YAML; a key is unknown, missing or ill-valued (the message
        names key and value); a signal is unknown or left out; two share a record or alert name.
    """
    file = specs / FILE_NAME if specs.is_dir() else specs
    try:
        raw: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadParameter(f"cannot read {file}: {error}; see the project's specs/") from error
    signals = raw.get("signals") if isinstance(raw, dict) else None
    if not isinstance(signals, dict) or set(raw) != {"signals"}:
        found = sorted(map(str, raw)) if isinstance(raw, dict) else type(raw).__name__
        raise BadParameter(f"{file}: found {found} at the top, needs one mapping `signals:`")
    if set(signals) != set(BOUNDS):
        raise BadParameter(
            f"{file}: signals: found {sorted(map(str, signals))}, needs exactly {sorted(BOUNDS)}; "
            "a new signal must also be computed in analyze/signals.py"
        )
    specs_by_name = {name: _signal(file, name, fields) for name, fields in signals.items()}
    for key in ("record", "alert"):
        taken: dict[str, str] = {}
        for name, spec in specs_by_name.items():
            value: str = getattr(spec, key)
            if value in taken:
                raise BadParameter(
                    f"{file}: signals.{name}.{key}: {value!r} is taken by signals.{taken[value]}; "
                    "choose another name"
                )
            taken[value] = name
    return specs_by_name


def _signal(file: Path, name: str, fields: Any) -> SignalSpec:
    if not isinstance(fields, dict):
        raise BadParameter(f"{file}: signals.{name}: found {fields!r}, needs a mapping")
    if "name" in fields:
        raise BadParameter(f"{file}: signals.{name}.name: unknown key; the key above is the name")
    try:
        spec = SignalSpec.model_validate({**fields, "name": name})
    except ValidationError as error:
        found = "; ".join(
            f"signals.{'.'.join([name, *(str(step) for step in item['loc'])])}: "
            f"{_shown(item)}{item['msg'].lower()}"
            for item in error.errors()
        )
        raise BadParameter(f"{file} does not fit: {found}; see the head of the file") from error
    for bound in ("upper", "lower"):
        value = getattr(spec.fallback, bound)
        if value is not None and bound not in spec.bounds:
            raise BadParameter(
                f"{file}: signals.{name}.fallback.{bound}: found {value}, but {name} is watched "
                f"for {' and '.join(spec.bounds)} only; remove the key"
            )
    if "$window" not in spec.promql:
        raise BadParameter(
            f"{file}: signals.{name}.promql: found {spec.promql!r}, needs a range [$window]: "
            "live values and baselines must look at equally long windows"
        )
    return spec


def _shown(item: Any) -> str:
    return "" if item["type"] == "missing" else f"found {item['input']!r}, "
