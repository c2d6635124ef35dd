"""Read what is expected of a lake: expectations.yaml of the package and specs/quality.yaml.

In:  two YAML files.
Out: expectations and the user's own measures, each with its file and line.

An expectation may have two limits. Outside `warning` the report warns, because real telemetry is
never perfect; outside `error` so much is wrong that nothing may be trained on it.
"""

from pathlib import Path
from typing import NamedTuple, Self

from pydantic import model_validator

from apm_analytics.foundation import specs as yaml_specs
from apm_analytics.foundation import yaml_documents
from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.settings import QualityParams
from apm_analytics.foundation.specs import Spec
from apm_analytics.lake.schema import TABLES

FILE = Path(__file__).with_name("expectations.yaml")
METRICS = "metrics"  # all metric tables together


class Limits(Spec):
    """A range, inclusive; a name stands for that number of the `quality` block of params.yaml."""

    min: float | str | None = None
    max: float | str | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("needs min or max")
        return self


class OwnMeasure(Spec):
    """A number that a query of the user measures."""

    name: str
    table: str
    sql: str


class Entry(Spec):
    """One item of `expectations`."""

    measure: str
    description: str
    advice: str
    table: str = ""
    tables: tuple[str, ...] = ()
    unit: str = ""
    warning: Limits | None = None
    error: Limits | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if bool(self.table) == bool(self.tables):
            raise ValueError("needs either table or tables")
        if self.warning is None and self.error is None:
            raise ValueError("needs warning or error, each {min, max}")
        return self

    def meta(self, table: str, at: str) -> dict[str, str]:
        """Return what its Great Expectations expectations carry beside their limits."""
        unit = self.unit or ("s" if self.measure.endswith("_s") else "1")
        shared = {"description": self.description, "advice": self.advice, "unit": unit}
        return {"table": table, "name": self.measure, "at": at, **shared}


class QualityFile(Spec):
    """The content of a quality.yaml."""

    measures: tuple[OwnMeasure, ...] = ()
    expectations: tuple[Entry, ...] = ()


class Rules(NamedTuple):
    """What both files hold, each item with its file and line; an entry once per table."""

    entries: list[tuple[Entry, str, str]]
    measures: list[tuple[OwnMeasure, str]]


def load(specs: Path | None) -> Rules:
    """Read both files; quality.yaml of the folder `specs` may be missing.

    Raises
    ------
    BadParameter
        A file does not fit; the message names file and line.
    """
    found = Rules([], [])
    for file in (FILE, *([] if specs is None else [specs / "quality.yaml"])):
        if not file.exists():
            continue
        document = yaml_documents.read(file)
        content = yaml_specs.check(document, QualityFile)
        for number, measure in enumerate(content.measures):
            at = f"{file}:{document.line(('measures', number))}"
            _known(measure.table, at)
            found.measures.append((measure, at))
        for number, entry in enumerate(content.expectations):
            at = f"{file}:{document.line(('expectations', number))}"
            tables = entry.tables or (entry.table,)
            found.entries.extend((entry, _known(table, at), at) for table in tables)
    return found


def number(limit: float | str | None, at: str, params: QualityParams) -> float | None:
    """Return a limit as a number.

    Raises
    ------
    BadParameter
        It is a name that the `quality` block of params.yaml does not have.
    """
    if not isinstance(limit, str):
        return limit
    numbers = params.model_dump(exclude={"check_age"})
    if limit not in numbers:
        raise BadParameter(
            f"{at}: the quality block of params.yaml has no {limit!r}; has {', '.join(numbers)}"
        )
    return float(numbers[limit])


def _known(table: str, at: str) -> str:
    if table not in (*TABLES, METRICS):
        raise BadParameter(f"{at}: no table {table!r}; there are {', '.join((*TABLES, METRICS))}")
    return table
