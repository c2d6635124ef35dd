"""Read what is expected of a lake: expectations.yaml of the package and specs/quality.yaml.

In:  two YAML files.
Out: expectations and the user's own measures, each with its file and line.

An expectation may have two limits. Outside `warning` the report warns, because real telemetry is
never perfect; outside `error` so much is wrong that nothing may be trained on it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from apm_analytics.foundation import specs as yaml_specs
from apm_analytics.foundation import yaml_documents
from apm_analytics.foundation.specs import Spec
from apm_analytics.lake.schema import TABLES

FILE = Path(__file__).with_name("expectations.yaml")
METRICS = "metrics"  # all metric tables together


def _known(table: str) -> str:
    if table not in (*TABLES, METRICS):
        raise ValueError(f"no such table; there are {', '.join((*TABLES, METRICS))}")
    return table


Table = Annotated[str, AfterValidator(_known)]


class Limits(Spec):
    """A range, inclusive; a name stands for that number of the `quality` block of params.yaml."""

    min: float | str | None = None
    max: float | str | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("needs min or max")
        return self


class UserMeasure(Spec):
    """A measure that the user defines by a query."""

    name: str
    table: Table
    sql: str


class Entry(Spec):
    """One item of `expectations`."""

    measure: str
    description: str
    advice: str
    tables: tuple[Table, ...]
    unit: str = "1"
    warning: Limits | None = None
    error: Limits | None = None

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.warning is None and self.error is None:
            raise ValueError("needs warning or error, each {min, max}")
        return self


class QualityFile(Spec):
    """The content of a quality.yaml."""

    measures: tuple[UserMeasure, ...] = ()
    expectations: tuple[Entry, ...] = ()


def load(specs: Path | None) -> Iterator[tuple[Entry | UserMeasure, str]]:
    """Yield the items of both files, each with its `file:line`.

    The quality.yaml of the folder `specs` may be missing; None leaves it out.

    Raises
    ------
    BadParameter
        A file does not fit; the message names file and line.
    """
    for file in (FILE, *([] if specs is None else [specs / "quality.yaml"])):
        if file.exists():
            document = yaml_documents.read(file)
            content = yaml_specs.check(document, QualityFile)
            for key in ("measures", "expectations"):
                for number, item in enumerate(getattr(content, key)):
                    yield item, f"{file}:{document.line((key, number))}"
