"""Read which series another engine fits instead of the models that compete.

In:  `engines` in specs/signals.yaml.
Out: the keys of the series that the Prophet library fits.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from apm_analytics.foundation import specs, yaml_documents
from apm_analytics.foundation.errors import BadParameter

FILE_NAME = "signals.yaml"
Key = tuple[str, str, str]


class Engine(specs.Spec):
    """The engine of one series."""

    service: str = Field(min_length=1)
    operation: str = Field(min_length=1)
    signal: Literal["latency_p95", "rate", "error_ratio"]
    engine: Literal["prophet"]

    @property
    def key(self) -> Key:
        """Service, operation and signal."""
        return self.service, self.operation, self.signal


class _File(specs.Spec):
    # The other keys belong to `alerts.prometheus.signal_specs`.
    model_config = ConfigDict(extra="ignore")

    engines: list[Engine] = Field(default_factory=list)


def load(file: Path) -> frozenset[Key]:
    """Read the series that the Prophet library fits.

    Raises
    ------
    BadParameter
        An entry does not fit, or a series is listed twice; the message names file and line.
    """
    document = yaml_documents.read(file)
    keys: set[Key] = set()
    for place, engine in enumerate(specs.check(document, _File).engines):
        if engine.key in keys:
            raise BadParameter(
                document.problem(
                    ("engines", place),
                    f"{engine.key} has an engine already; remove one of the entries",
                )
            )
        keys.add(engine.key)
    return frozenset(keys)


def of_workspace(workspace: Path) -> frozenset[Key]:
    """Read the engines of a workspace; without specs/signals.yaml there are none."""
    file = workspace / "specs" / FILE_NAME
    return load(file) if file.exists() else frozenset()


def unknown(keys: Collection[Key], operations: Collection[tuple[str, str]]) -> list[Key]:
    """Return the keys of operations that do not exist, sorted."""
    return sorted(key for key in keys if key[:2] not in operations)
