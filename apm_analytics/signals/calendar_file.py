"""Read specs/calendar.yaml, and say in which line something is wrong.

In:  the text of the file.
Out: the checked fields of every entry, with the line where it begins.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from apm_analytics.foundation import specs, yaml_documents
from apm_analytics.signals.operations import SIGNALS

Kind = Literal["incident", "deployment", "maintenance"]


def read(file: Path) -> list[tuple["Fields", int]]:
    """Read and check the entries of a file; an empty one has none.

    Raises
    ------
    BadParameter
        The file is missing or no YAML; a key is unknown, missing, doubled or ill-valued. The
        message names file and line.
    """
    document = yaml_documents.read(file, yaml_documents.TextLoader)
    entries = specs.check(document, _File).entries or ()
    return [(one, document.line(["entries", number])) for number, one in enumerate(entries)]


class _Operation(specs.Spec):
    service: str = Field(min_length=1)
    operation: str = Field(min_length=1)
    signals: tuple[str, ...] = ()

    @field_validator("signals")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(value) - set(SIGNALS))
        if unknown:
            raise ValueError(f"unknown signals {unknown}, known are {sorted(SIGNALS)}")
        return value


class Fields(specs.Spec):
    """An entry as it is written."""

    kind: Kind
    name: str = Field(min_length=1)
    zone: str = "UTC"
    start: datetime
    end: datetime | None = None
    services: tuple[str, ...] = ()
    operations: tuple[_Operation, ...] = ()
    severity: Literal["page", "ticket", "info"] | None = None
    labels: dict[str, str] = Field(default_factory=dict)

    @field_validator("start", "end", mode="before")
    @classmethod
    def _is_time(cls, value: Any) -> Any:
        # pydantic alone would take 20260302 for seconds since 1970.
        return datetime.fromisoformat(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _ends(self) -> "Fields":
        if self.end is None and self.kind != "deployment":
            raise ValueError(
                f"{self.kind} has no end; of one that goes on, give when you expect it"
            )
        start, end = self.times()
        if start > end:
            raise ValueError(f"start {start.isoformat()} is after end {end.isoformat()}")
        if start == end and self.kind != "deployment":
            raise ValueError(f"{self.kind} lasts no time: start and end are {start.isoformat()}")
        return self

    def times(self) -> tuple[datetime, datetime]:
        start = _in_utc(self.start, self.zone)
        return start, start if self.end is None else _in_utc(self.end, self.zone)


class _File(specs.Spec):
    entries: tuple[Fields, ...] | None = None


def _in_utc(time: datetime, zone: str) -> datetime:
    """Apply the zone to a local time, which must exist once."""
    if time.tzinfo is not None:
        return time.astimezone(UTC)
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"unknown zone {zone!r}; give an IANA name, as Europe/Berlin") from error
    first, second = (time.replace(tzinfo=place, fold=fold) for fold in (0, 1))
    if first.utcoffset() != second.utcoffset():
        gap = first.astimezone(UTC).astimezone(place).replace(tzinfo=None) != time
        raise ValueError(
            f"{time.isoformat(' ')} in {zone} {'does not exist' if gap else 'comes twice'}, as "
            "the clocks change; write it with an offset, such as +01:00"
        )
    return first.astimezone(UTC)
