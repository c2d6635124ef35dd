"""Read specs/calendar.yaml, and say in which line something is wrong.

In:  the text of the file.
Out: the checked fields of every entry, with the line where it begins.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from apm_analytics.analyze.signals import SIGNALS
from apm_analytics.errors import BadParameter

Kind = Literal["incident", "deployment", "maintenance"]
Place = tuple[str | int, ...]


def read(file: Path) -> list[tuple["Fields", int]]:
    """Read and check the entries of a file; an empty one has none.

    Raises
    ------
    BadParameter
        The file is missing or no YAML; a key is unknown, missing, doubled or ill-valued. The
        message names file and line.
    """
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadParameter(f"cannot read {file}: {error}; see the project's specs/") from error
    if root is None:
        return []
    lines: dict[Place, int] = {}
    try:
        raw = _plain(root, file, (), lines)
    except RecursionError as error:
        raise BadParameter(f"{file}: an alias holds itself; write it out") from error
    if not isinstance(raw, dict) or set(raw) != {"entries"}:
        found = sorted(map(str, raw)) if isinstance(raw, dict) else type(raw).__name__
        raise BadParameter(
            f"{file}, line 1: found {found} at the top, needs one list `entries:`; "
            "see the head of the project's specs/calendar.yaml"
        )
    if raw["entries"] is None:
        return []
    if not isinstance(raw["entries"], list):
        raise BadParameter(
            f"{file}, line {lines['entries',]}: found {raw['entries']!r}, needs a list of entries"
        )
    return [
        (_fields(file, entry, ("entries", number), lines), lines["entries", number])
        for number, entry in enumerate(raw["entries"])
    ]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Operation(_Frozen):
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


class Fields(_Frozen):
    """An entry as it is written."""

    kind: Kind
    name: str = Field(min_length=1)
    zone: str = "UTC"
    start: datetime
    end: datetime | None = None
    services: tuple[str, ...] = ()
    operations: tuple[_Operation, ...] = ()
    severity: Literal["page", "ticket", "info"] | None = None
    labels: dict[str, str] = {}

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


def _fields(file: Path, raw: Any, place: Place, lines: dict[Place, int]) -> Fields:
    if not isinstance(raw, dict):
        raise BadParameter(f"{file}, line {lines[place]}: found {raw!r}, needs a mapping")
    try:
        return Fields.model_validate(raw)
    except ValidationError as error:
        found = "; ".join(
            f"line {_line(lines, (*place, *item['loc']))}: {_said(item)}" for item in error.errors()
        )
        raise BadParameter(f"{file}, {found}; see the head of specs/calendar.yaml") from error


def _said(item: Any) -> str:
    key = ".".join(map(str, item["loc"])) or "entry"
    found = f"found {item['input']!r}, " if item["loc"] and item["type"] != "missing" else ""
    return f"{key}: {found}{item['msg'].removeprefix('Value error, ')}"


def _line(lines: dict[Place, int], place: Place) -> int:
    while place not in lines:
        place = place[:-1]
    return lines[place]


def _plain(node: yaml.Node, file: Path, place: Place, lines: dict[Place, int]) -> Any:
    """Give a node as mappings, lists and texts, and note the line of everything."""
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in found:
                raise BadParameter(
                    f"{file}, line {key.start_mark.line + 1}: {name} is given twice; keep one"
                )
            found[name] = _plain(value, file, (*place, name), lines)
            lines[(*place, name)] = key.start_mark.line + 1
        return found
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(item, file, (*place, number), lines) for number, item in enumerate(node.value)
        ]
    return None if node.tag == "tag:yaml.org,2002:null" else node.value
