"""The outcome of a quality check, in memory and as JSON.

In:  expectations that were judged.
Out: whether anything may be published, and each expectation in plain words.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadInput

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Expectation:
    """What was expected of one table and what was found.

    `observed` and `limit` are in `unit` ("1" is a share). `limit` is the one that was passed, else
    the first that would be; a passed expectation's severity is what passing that would be.
    """

    table: str
    name: str
    description: str
    observed: float | None  # None: nothing there to measure
    limit: float
    at_least: bool  # the direction of the limit; else it is an upper one
    unit: str
    passed: bool
    severity: Severity
    advice: str
    note: str = ""  # which column, when, which names

    def __str__(self) -> str:
        """Say it in one line: what, how much, which limit."""
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.table}: {self.description}: {amount(self.observed, self.unit)}{note}, "
            f"needs {self.bound()}"
        )

    def bound(self) -> str:
        """Give the limit in words."""
        return f"{'at least' if self.at_least else 'at most'} {amount(self.limit, self.unit)}"


@dataclass(frozen=True)
class QualityResult:
    """All expectations of one check; `passed` unless one of severity error failed."""

    checked_at: str
    expectations: tuple[Expectation, ...]

    @property
    def passed(self) -> bool:
        """Whether thresholds may be learned from this data and published."""
        return not self.failures()

    def failures(self) -> list[Expectation]:
        """List what stops publishing."""
        return [e for e in self.expectations if not e.passed and e.severity == "error"]

    def warnings(self) -> list[Expectation]:
        """List what a person should know, but stops nothing."""
        return [e for e in self.expectations if not e.passed and e.severity == "warning"]

    def summary(self) -> str:
        """Say in one sentence whether the data may be learned from."""
        failures, warned = len(self.failures()), len(self.warnings())
        noted = f", {warned} of them with a warning" if warned else ""
        if failures:
            return (
                f"{failures} of {len(self.expectations)} expectations failed, "
                "so nothing new is published."
            )
        return f"The data is fit to learn from: {len(self.expectations)} expectations{noted}."

    def to_json(self) -> str:
        """Give everything as JSON text."""
        return json.dumps({"passed": self.passed, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "QualityResult":
        """Read what `to_json` gave.

        Raises
        ------
        BadInput
            The text is something else.
        """
        try:
            raw = json.loads(text)
            expectations = tuple(Expectation(**item) for item in raw["expectations"])
            return cls(raw["checked_at"], expectations)
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"this is no quality result: {error!r}; run `apm nightly` to make one anew"
            ) from error

    def write(self, file: Path) -> None:
        """Write the JSON whole, as `derived/quality.json`."""
        write_atomic(file, self.to_json().encode())

    @classmethod
    def read(cls, file: Path) -> "QualityResult":
        """Read a file that `write` made."""
        try:
            return cls.from_json(file.read_text())
        except OSError as error:
            raise BadInput(f"cannot read {file}: {error}; run `apm nightly` first") from error


def amount(value: float | None, unit: str) -> str:
    """Say a share as a percentage, seconds as a time, rows as a number."""
    if value is None:
        return "not measured"
    if unit == "1":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return _time(value)
    return f"{value:,.0f} {unit}"


def _time(seconds: float) -> str:
    # Days and minutes from two on: 36 h and 90 s say more than 1.5 d and 1.5 min.
    for length, least, name in ((86_400.0, 2, "d"), (3_600.0, 1, "h"), (60.0, 2, "min")):
        if abs(seconds) >= least * length:
            return f"{seconds / length:.3g} {name}"
    return f"{seconds:.3g} s"
