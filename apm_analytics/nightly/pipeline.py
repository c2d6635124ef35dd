"""Read `pipelines/nightly.yaml`: which notebooks run at night, and in what order.

In:  a YAML file with a list `notebooks`.
Out: a checked `Pipeline`: every name in an `after` is known, and the order has no cycle.
"""

from collections.abc import Collection
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from pydantic import Field

from apm_analytics.foundation import specs
from apm_analytics.foundation.errors import BadParameter


class Step(specs.Spec):
    """One notebook of the pipeline."""

    name: str  # of the file, without .ipynb
    after: tuple[str, ...] = ()  # runs only when these succeeded
    needs_models: bool = False
    publishes: bool = False  # skipped when the data failed its quality checks
    parameters: dict[str, Any] = Field(default_factory=dict)


class Pipeline(specs.Spec):
    """All notebooks of the pipeline, in the order of the report."""

    notebooks: tuple[Step, ...] = Field(min_length=1)

    @classmethod
    def read(cls, file: Path) -> "Pipeline":
        """Read and check a pipeline file.

        Raises
        ------
        BadParameter
            The file is missing or not YAML, has an unknown key, lists a name twice, has an `after`
            that names no notebook of the file, or a cycle.
        """
        pipeline = specs.load(file, cls)
        pipeline._check_names(file)
        return pipeline

    def ready(self, done: Collection[str], running: Collection[str]) -> list[Step]:
        """Return the notebooks that can start now; those that others wait for come first."""
        steps = [
            step
            for step in self.notebooks
            if step.name not in done
            and step.name not in running
            and all(name in done for name in step.after)
        ]
        awaited = {name for step in self.notebooks for name in step.after}
        return sorted(steps, key=lambda step: step.name not in awaited)

    def _check_names(self, file: Path) -> None:
        names = [step.name for step in self.notebooks]
        for name in names:
            if names.count(name) > 1:
                raise BadParameter(f"{file} lists {name} twice; a notebook runs once")
        for step in self.notebooks:
            for name in step.after:
                if name not in names:
                    raise BadParameter(
                        f"{file}: {step.name} comes after {name!r}, which the file does not list; "
                        f"it lists {', '.join(names)}"
                    )
        try:
            TopologicalSorter({step.name: step.after for step in self.notebooks}).prepare()
        except CycleError as error:
            raise BadParameter(
                f"{file}: {' after '.join(error.args[1])} is a cycle; remove one `after`"
            ) from error


@dataclass(frozen=True)
class Without:
    """What a run lacks; the notebooks that need it are skipped."""

    models: bool = False
    publishing: bool = False

    def reasons(self, pipeline: Pipeline) -> dict[str, str]:
        """Return the reason for each notebook that is skipped."""
        reasons: dict[str, str] = {}
        for step in pipeline.notebooks:
            if self.models and step.needs_models:
                reasons[step.name] = "needs trained models, and there are none yet"
            elif self.publishing and step.publishes:
                reasons[step.name] = "publishes, and the data did not pass its quality checks"
        return reasons
