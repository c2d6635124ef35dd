"""Read which signals are watched, and how Prometheus computes their live values.

In:  specs/signals.yaml.
Out: one checked `SignalSpec` per signal, in the order of the file.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from apm_analytics.baselines.training.engines import Engine
from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.specs import Spec, check
from apm_analytics.foundation.yaml_documents import Place, read

FILE_NAME = "signals.yaml"
# Which bounds become thresholds. Low latency and few errors are harmless, too few requests are not.
BOUNDS: dict[str, tuple[str, ...]] = {
    "latency_p95": ("upper",),
    "rate": ("lower", "upper"),
    "error_ratio": ("upper",),
}
METRIC_NAME = r"^[a-zA-Z_:][a-zA-Z0-9_:]*$"
LABEL_NAME = r"^[a-zA-Z_][a-zA-Z0-9_]*$"


class Labels(Spec):
    """Which label of the PromQL result holds the service, and which the operation."""

    service: str = Field(pattern=LABEL_NAME)
    operation: str = Field(pattern=LABEL_NAME)


class Fallback(Spec):
    """Static thresholds in the signal's unit; they apply without a fresh learned one."""

    upper: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    lower: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _not_empty(self) -> "Fallback":
        if self.upper is None and self.lower is None:
            raise ValueError("needs an upper or a lower threshold")
        return self


class SignalSpec(Spec):
    """One watched signal; see the head of specs/signals.yaml for its fields."""

    name: str = ""  # set by `load`, from the key
    title: str = Field(min_length=1, pattern=r"^[^{}]*$")  # braces would start a template
    unit: str = Field(min_length=1, pattern=r"^[^{}]*$")
    record: str = Field(pattern=METRIC_NAME)
    alert: str = Field(pattern=r"^[A-Z][A-Za-z0-9]*$")
    severity: Literal["page", "ticket", "info"]
    labels: Labels
    promql: str = Field(min_length=1)
    fallback: Fallback

    @field_validator("promql")
    @classmethod
    def _has_window(cls, value: str) -> str:
        if "$window" not in value:
            raise ValueError(
                "needs a range [$window]: live values and baselines must look at equally long "
                "windows"
            )
        return value

    @property
    def bounds(self) -> tuple[str, ...]:
        """The bounds of this signal that become thresholds."""
        return BOUNDS[self.name]


class _File(Spec):
    signals: dict[str, SignalSpec]
    engines: list[Engine] = Field(default_factory=list)  # read by training

    @field_validator("signals", mode="before")
    @classmethod
    def _all_there(cls, value: Any) -> Any:
        if isinstance(value, dict) and set(value) != set(BOUNDS):
            raise ValueError(
                f"there are {sorted(map(str, value))}, needs exactly {sorted(BOUNDS)}; "
                "a new signal must also be computed in signals/operations.py"
            )
        return value


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
        The file is missing or not YAML; a key is unknown or missing, or its value is invalid (the
        message names both); a signal is unknown or missing; two share a record or alert name.
    """
    document = read(specs / FILE_NAME if specs.is_dir() else specs)
    signals = check(document, _File).signals
    misfits = [document.problem(("signals", *place), fault) for place, fault in _misfits(signals)]
    if misfits:
        raise BadParameter("\n".join(misfits))
    return {name: spec.model_copy(update={"name": name}) for name, spec in signals.items()}


def _misfits(signals: Mapping[str, SignalSpec]) -> Iterator[tuple[Place, str]]:
    for name, spec in signals.items():
        if spec.name:
            yield (name, "name"), "unknown key; the key above is the name"
        for bound in {"upper", "lower"}.difference(BOUNDS[name]):
            value = getattr(spec.fallback, bound)
            if value is not None:
                yield (
                    (name, "fallback", bound),
                    f"found {value}, but {name} is watched for {' and '.join(BOUNDS[name])} only; "
                    "remove the key",
                )
    for key in ("record", "alert"):
        taken: dict[str, str] = {}
        for name, spec in signals.items():
            first = taken.setdefault(getattr(spec, key), name)
            if first != name:
                fault = f"{getattr(spec, key)!r} is taken by signals.{first}; choose another name"
                yield (name, key), fault
