"""The outcome of a quality check, in memory and as JSON.

In:  expectations that were validated.
Out: whether anything may be published, and each expectation in plain words.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError, computed_field

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadInput

Severity = Literal["error", "warning"]
# Days and minutes only from two on: 36 h and 90 s read better than 1.5 d and 1.5 min.
DURATIONS = ((86_400.0, 2, "d"), (3_600.0, 1, "h"), (60.0, 2, "min"), (1.0, 0, "s"))


class Expectation(BaseModel, frozen=True):
    """What was expected of one measure of a table, and what was observed.

    `observed` and `limit` are in `unit` ("1" is a share). `limit` is the limit that was exceeded,
    else the first that would be, and `severity` that of exceeding it.
    """

    table: str
    name: str
    description: str
    observed: float | None  # None: there is nothing to measure
    limit: float
    at_least: bool  # `limit` is a lower limit
    unit: str
    passed: bool
    severity: Severity
    advice: str
    note: str = ""  # which column, when, which names

    def __str__(self) -> str:
        """Return one line: what was measured, its value, and its limit."""
        note = f" ({self.note})" if self.note else ""
        observed = amount(self.observed, self.unit)
        return f"{self.table}: {self.description}: {observed}{note}, needs {self.bound()}"

    def bound(self) -> str:
        """Return the limit in words."""
        return f"{'at least' if self.at_least else 'at most'} {amount(self.limit, self.unit)}"


class QualityResult(BaseModel, frozen=True):
    """All expectations of one check."""

    checked_at: str
    expectations: tuple[Expectation, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """Whether thresholds may be trained on this data and published."""
        return not self.failures()

    def failures(self) -> list[Expectation]:
        """Return the expectations that stop publishing."""
        return [e for e in self.expectations if not e.passed and e.severity == "error"]

    def warnings(self) -> list[Expectation]:
        """Return the expectations that failed but do not stop publishing."""
        return [e for e in self.expectations if not e.passed and e.severity == "warning"]

    def summary(self) -> str:
        """Return one sentence: whether the data can be trained on."""
        failures, warned = len(self.failures()), len(self.warnings())
        total = f"{len(self.expectations)} expectations"
        if failures:
            return f"{failures} of {total} failed, so nothing new is published."
        noted = f", {warned} of them with a warning" if warned else ""
        return f"The data is fit to learn from: {total}{noted}."

    def write(self, file: Path) -> None:
        """Write the result as JSON."""
        write_atomic(file, self.model_dump_json(indent=1).encode())

    @classmethod
    def read(cls, file: Path) -> "QualityResult":
        """Read a file that `write` wrote.

        Raises
        ------
        BadInput
            The file is missing or holds something else.
        """
        try:
            return cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise BadInput(f"{file} holds no quality result: {error}; run `apm nightly`") from error


def amount(value: float | None, unit: str) -> str:
    """Format a share as a percentage, seconds as a duration, and counts with their unit."""
    if value is None:
        return "not measured"
    if unit == "1":
        return f"{value * 100:.3g} %"
    if unit != "s":
        return f"{value:,.0f} {unit}"
    length, name = next((one, s) for one, least, s in DURATIONS if abs(value) >= least * one)
    return f"{value / length:.3g} {name}"
