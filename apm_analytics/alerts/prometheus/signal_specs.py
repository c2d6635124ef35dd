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
# Which bounds can be watched. Low latency and few errors are never a fault.
BOUNDS: dict[str, tuple[str, ...]] = {
    "latency_p95": ("upper",),
    "rate": ("lower", "upper"),
    "error_ratio": ("upper",),
}
# Which are, unless the spec says otherwise: more requests than usual are mostly good news.
DEFAULT_BOUNDS = BOUNDS | {"rate": ("lower",)}
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
    bounds: tuple[Literal["lower", "upper"], ...] = ()  # `load` puts the default

    @field_validator("promql")
    @classmethod
    def _has_window(cls, value: str) -> str:
        if "$window" not in value:
            raise ValueError(
                "needs a range [$window]: live values and baselines must look at equally long "
                "windows"
            )
        return value


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
    return {
        name: spec.model_copy(update={"name": name, "bounds": spec.bounds or DEFAULT_BOUNDS[name]})
        for name, spec in signals.items()
    }


def _misfits(signals: Mapping[str, SignalSpec]) -> Iterator[tuple[Place, str]]:
    for name, spec in signals.items():
        if spec.name:
            yield (name, "name"), "unknown key; the key above is the name"
        for asked in spec.bounds:
            if asked not in BOUNDS[name]:
                yield (
                    (name, "bounds"),
                    f"found {asked}, but {name} can be watched for {' and '.join(BOUNDS[name])} "
                    "only; remove it",
                )
        watched = spec.bounds or DEFAULT_BOUNDS[name]
        for bound in {"upper", "lower"}.difference(watched):
            value = getattr(spec.fallback, bound)
            if value is not None:
                yield (
                    (name, "fallback", bound),
                    f"found {value}, but {name} is watched for {' and '.join(watched)} only; "
                    "remove the key, or add it to bounds",
                )
    for key in ("record", "alert"):
        taken: dict[str, str] = {}
        for name, spec in signals.items():
            first = taken.setdefault(getattr(spec, key), name)
            if first != name:
                fault = f"{getattr(spec, key)!r} is taken by signals.{first}; choose another name"
                yield (name, key), fault
