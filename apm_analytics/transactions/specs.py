"""Read the business transactions of specs/transactions.yaml.

In:  the file; the comment at its top describes the format.
Out: checked `Transaction`s with their steps, SLA, owner and value.
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from apm_analytics.foundation import specs
from apm_analytics.transactions.hours import Hours, zone_of

FILE_NAME = "transactions.yaml"
SEGMENT = "user.segment"
DAY_HOURS = r"^(mon|tue|wed|thu|fri|sat|sun)(-(mon|tue|wed|thu|fri|sat|sun))? \d\d:\d\d-\d\d:\d\d$"


def _known_zone(name: str) -> str:
    zone_of(name)
    return name


class Calendar(specs.Spec):
    """When an SLA counts: opening hours in a time zone, and closed days."""

    zone: Annotated[str, AfterValidator(_known_zone)]
    hours: tuple[Annotated[str, Field(pattern=DAY_HOURS)], ...] = Field(min_length=1)
    closed: tuple[date, ...] = ()

    @field_validator("hours")
    @classmethod
    def _in_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Hours.read("UTC", value)
        return value

    def read(self) -> Hours:
        """Return the parsed opening hours."""
        return Hours.read(self.zone, self.hours, self.closed)


class Value(specs.Spec):
    """The value of one completed transaction."""

    amount: float = Field(ge=0, allow_inf_nan=False)
    currency: str = Field(pattern=r"^[A-Z]{3}$")


class Sla(specs.Spec):
    """The share that must complete within a threshold, and when this counts."""

    threshold_s: float = Field(gt=0, allow_inf_nan=False)
    objective: float = Field(ge=0, lt=1)
    calendar: str | None = None


class Step(specs.Spec):
    """One or several operations of a service that are the same step for the business."""

    name: str = Field(default="", pattern=r"^[^\n]*$")
    service: str = Field(min_length=1)
    operation: str | tuple[str, ...]

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations of the step."""
        return (self.operation,) if isinstance(self.operation, str) else self.operation

    @property
    def title(self) -> str:
        """The name of the step, or its first operation."""
        return self.name or self.operations[0]


class Transaction(specs.Spec):
    """A root operation, or a sequence of steps within a trace or session."""

    name: str = ""  # set by `load`, from the key
    title: str = Field(min_length=1)
    owner: str = Field(min_length=1)
    across: Literal["trace", "session"] = "trace"
    steps: tuple[Step, ...] = Field(min_length=1)
    sla: Sla
    value: Value | None = None
    timeout_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    segment: str = Field(default=SEGMENT, min_length=1)

    @model_validator(mode="after")
    def _sensible(self) -> "Transaction":
        seen: set[tuple[str, str]] = set()
        for step in self.steps:
            for operation in step.operations:
                if (step.service, operation) in seen:
                    raise ValueError(f"{step.service} {operation} is in two steps; keep it in one")
                seen.add((step.service, operation))
        if self.across == "session" and len(self.steps) < 2:
            raise ValueError("a funnel across a session needs two steps or more")
        return self

    @property
    def services(self) -> frozenset[str]:
        """The services of the steps."""
        return frozenset(step.service for step in self.steps)


class _File(specs.Spec):
    calendars: dict[str, Calendar] = Field(default_factory=dict)
    transactions: dict[str, Transaction]

    @model_validator(mode="after")
    def _calendars_exist(self) -> "_File":
        for name, one in self.transactions.items():
            if one.sla.calendar is not None and one.sla.calendar not in self.calendars:
                there = ", ".join(self.calendars) or "none"
                raise ValueError(
                    f"transactions.{name}.sla.calendar is {one.sla.calendar!r}; there are: {there}"
                )
        return self


def load(path: Path) -> tuple[list[Transaction], dict[str, Hours]]:
    """Read and check the transactions.

    Parameters
    ----------
    path : the folder with transactions.yaml, or the file itself.

    Returns
    -------
    The transactions in the order of the file; the hours of each calendar.

    Raises
    ------
    BadParameter
        The file is missing, not YAML, or has a wrong value; with file and line.
    """
    file = path / FILE_NAME if path.is_dir() else path
    content = specs.load(file, _File)
    transactions = [
        transaction.model_copy(update={"name": name})
        for name, transaction in content.transactions.items()
    ]
    return transactions, {name: calendar.read() for name, calendar in content.calendars.items()}
