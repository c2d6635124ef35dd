"""Read the calendar of incidents, deployments and maintenance windows.

In:  specs/calendar.yaml, or the truth.json of a simulated recording.
Out: a `Calendar` of entries [start, end) in UTC, each with the services and operations concerned.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl
import yaml
from pydantic import Field, field_validator, model_validator

from apm_analytics.foundation import specs, yaml_documents
from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadInput, BadParameter
from apm_analytics.signals.operations import SIGNALS, Schema

Kind = Literal["incident", "deployment", "maintenance"]

FILE_NAME = "calendar.yaml"
REGRESSION = "regression"  # labels["kind"] of an incident caused by a simulated deployment

SCHEMA: Schema = {
    "kind": pl.String,
    "name": pl.String,
    "start": pl.Datetime("us"),  # UTC
    "end": pl.Datetime("us"),  # UTC, not included
    "services": pl.List(pl.String),
    "operations": pl.List(
        pl.Struct(
            {
                "service_name": pl.String,
                "operation": pl.String,
                "signals": pl.List(pl.String),
            }
        )
    ),
    "severity": pl.String,
    "labels": pl.List(pl.Struct({"name": pl.String, "value": pl.String})),
}


@dataclass(frozen=True)
class Affected:
    """One operation that an entry concerns; empty `signals` means all of them."""

    service: str
    operation: str
    signals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """An event in [start, end), aware times in UTC; an instant has end == start.

    It concerns whole `services` and single `operations`; with neither, every service.
    """

    kind: Kind
    name: str
    start: datetime
    end: datetime
    services: tuple[str, ...] = ()
    operations: tuple[Affected, ...] = ()
    severity: str | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def concerns(
        self, service: str, operation: str | None = None, signal: str | None = None
    ) -> bool:
        """Return whether the entry concerns a service, or one operation or signal of it."""
        if not self.services and not self.operations:
            return True
        if service in self.services:
            return True
        return any(
            affected.service == service
            and operation in (None, affected.operation)
            and (signal is None or not affected.signals or signal in affected.signals)
            for affected in self.operations
        )

    def overlaps(self, since: datetime | None, until: datetime | None) -> bool:
        """Return whether the entry overlaps [since, until); naive times are UTC."""
        after_since = since is None or self.end > utc(since) or self.start >= utc(since)
        return after_since and (until is None or self.start < utc(until))


@dataclass(frozen=True)
class Calendar:
    """Entries, sorted by start.

    Examples
    --------
    >>> Calendar(()).entries(kind="maintenance")
    []
    """

    all: tuple[Entry, ...] = ()

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def entries(
        self,
        *,
        kind: Kind | None = None,
        service: str | None = None,
        operation: str | None = None,
        signal: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[Entry]:
        """Return the entries that match every given argument.

        Parameters
        ----------
        kind : "incident", "deployment" or "maintenance".
        service, operation, signal : what the entry must concern; an operation needs its service,
            a signal its operation.
        since, until : the entry must overlap [since, until); naive times are UTC.

        Raises
        ------
        BadParameter
            An operation without a service, or a signal without an operation.
        """
        if (operation is not None and service is None) or (signal and operation is None):
            raise BadParameter(
                f"got operation={operation!r} and signal={signal!r} with service={service!r}; an "
                "operation needs its service, a signal its operation"
            )
        return [
            entry
            for entry in self.all
            if kind in (None, entry.kind)
            and (service is None or entry.concerns(service, operation, signal))
            and entry.overlaps(since, until)
        ]

    def frame(self) -> pl.DataFrame:
        """Return one row per entry with `SCHEMA`; times are naive UTC, as in the lake."""
        rows = [
            {
                "kind": entry.kind,
                "name": entry.name,
                "start": entry.start.replace(tzinfo=None),
                "end": entry.end.replace(tzinfo=None),
                "services": list(entry.services),
                "operations": [
                    {
                        "service_name": affected.service,
                        "operation": affected.operation,
                        "signals": list(affected.signals),
                    }
                    for affected in entry.operations
                ],
                "severity": entry.severity,
                "labels": [
                    {"name": name, "value": value} for name, value in sorted(entry.labels.items())
                ],
            }
            for entry in self.all
        ]
        return pl.DataFrame(rows, schema=SCHEMA)


def of(entries: list[Entry]) -> Calendar:
    """Return a calendar of entries given in any order."""
    return Calendar(tuple(sorted(entries, key=lambda entry: (entry.start, entry.end, entry.name))))


def load(path: Path) -> Calendar:
    """Read and check a calendar.

    Parameters
    ----------
    path : the file, or the folder with calendar.yaml. An empty file is an empty calendar.

    Raises
    ------
    BadParameter
        The file is missing or not YAML; a key is unknown, missing, repeated or has a wrong value;
        an entry starts after its end; a local time does not exist or exists twice; two
        maintenance windows of the same scope overlap. The message names file and line.
    """
    file = path / FILE_NAME if path.is_dir() else path
    document = yaml_documents.read(file, yaml_documents.TextLoader)
    entries = [fields.entry() for fields in specs.check(document, _File).entries or ()]
    lines = [document.line(["entries", number]) for number in range(len(entries))]
    _refuse_overlaps(file, list(zip(entries, lines, strict=True)))
    return of(entries)


def of_workspace(workspace: Path) -> Calendar:
    """Read specs/calendar.yaml of a checkout; the calendar is empty without that file."""
    file = workspace / "specs" / FILE_NAME
    return load(file) if file.exists() else Calendar()


def beside(lake: Path) -> Path:
    """Return the path of the calendar beside a lake, such as a simulated one; it may not exist.

    It has the form of specs/calendar.yaml. Incidents in it are labels to judge alerts by.
    """
    return lake.parent / FILE_NAME


def write(calendar: Calendar, file: Path) -> None:
    """Write a calendar so that `load` reads the same entries back."""
    entries = [
        {
            "kind": entry.kind,
            "name": entry.name,
            "start": entry.start.isoformat(),
            "end": entry.end.isoformat(),
            "services": list(entry.services),
            "operations": [
                {
                    "service": affected.service,
                    "operation": affected.operation,
                    "signals": list(affected.signals),
                }
                for affected in entry.operations
            ],
            "severity": entry.severity,
            "labels": entry.labels,
        }
        for entry in calendar
    ]
    text = yaml.safe_dump({"entries": entries}, sort_keys=False, allow_unicode=True)
    write_atomic(file, text.encode())


def from_truth(path: Path) -> Calendar:
    """Read the ground truth of a simulated recording.

    An incident becomes an incident entry with the operations and signals that it affects, a
    deployment a deployment entry of its service. A deployment with a regression also becomes an
    incident with `labels["kind"] == REGRESSION`, which lasts until the rollback.

    Parameters
    ----------
    path : truth.json of `apm simulate`.

    Raises
    ------
    BadInput
        The file is missing, not JSON, or not the truth of a recording.
    """
    entries: list[Entry] = []
    try:
        truth: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for incident in truth["incidents"]:
            labels = {"kind": incident["kind"], "cause": incident["cause"]}
            if incident["ongoing"]:
                labels["ongoing"] = "true"
            entries.append(_incident(incident["name"], incident, labels))
        for deployment in truth["deployments"]:
            service, version = deployment["service_name"], deployment["version"]
            name = f"{service} {version}"
            at = datetime.fromisoformat(deployment["time"])
            labels = {"version": version, "previous_version": deployment["previous_version"]}
            entries.append(Entry("deployment", name, at, at, (service,), labels=labels))
            if deployment["regression"]:
                regression = {"start": deployment["time"], **deployment["regression"]}
                labels = {"kind": REGRESSION, "cause": f"deployment of {name}"}
                entries.append(_incident(f"{name} regression", regression, labels))
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"cannot read the truth {path}: {error!r}; create it again with `apm simulate`"
        ) from error
    return of(entries)


def utc(time: datetime) -> datetime:
    """Return an aware time in UTC; a naive time is taken as UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _refuse_overlaps(file: Path, placed: list[tuple[Entry, int]]) -> None:
    """Refuse two overlapping windows of the same scope, which merging would hide."""
    last: dict[object, tuple[Entry, int]] = {}
    for entry, line in sorted(placed, key=lambda pair: pair[0].start):
        if entry.kind != "maintenance":
            continue
        scope = (frozenset(entry.services), frozenset(entry.operations))
        before = last.get(scope)
        if before and entry.start < before[0].end:
            raise BadParameter(
                f"{file}:{line}: maintenance {entry.name!r} starts at "
                f"{entry.start.isoformat()}, before {before[0].name!r} (line {before[1]}) ends at "
                f"{before[0].end.isoformat()}, and both concern the same services; merge them"
            )
        last[scope] = (entry, line)


def _incident(name: str, truth: dict[str, Any], labels: dict[str, str]) -> Entry:
    affected = tuple(
        Affected(operation["service_name"], operation["operation"], tuple(operation["signals"]))
        for operation in truth["operations"]
    )
    # Without a clearly affected operation, the entry concerns the services with an effect.
    services = {effect["service"] for effect in truth["effects"] if "service" in effect}
    return Entry(
        "incident",
        name,
        datetime.fromisoformat(truth["start"]),
        datetime.fromisoformat(truth["end"]),
        () if affected else tuple(sorted(services)),
        affected,
        labels=labels,
    )


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


class _Fields(specs.Spec):
    """An entry as it is written in the file."""

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
    def _ends(self) -> "_Fields":
        if self.end is None and self.kind != "deployment":
            raise ValueError(
                f"{self.kind} has no end; if it is still going on, write the expected end"
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

    def entry(self) -> Entry:
        operations = tuple(Affected(op.service, op.operation, op.signals) for op in self.operations)
        return Entry(
            self.kind,
            self.name,
            *self.times(),
            self.services,
            operations,
            self.severity,
            self.labels,
        )


class _File(specs.Spec):
    entries: tuple[_Fields, ...] | None = None


def _in_utc(time: datetime, zone: str) -> datetime:
    """Convert a local time of `zone`, which must exist exactly once."""
    if time.tzinfo is not None:
        return time.astimezone(UTC)
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"unknown zone {zone!r}; write an IANA name, such as Europe/Berlin"
        ) from error
    first, second = (time.replace(tzinfo=place, fold=fold) for fold in (0, 1))
    if first.utcoffset() != second.utcoffset():
        gap = first.astimezone(UTC).astimezone(place).replace(tzinfo=None) != time
        raise ValueError(
            f"{time.isoformat(' ')} in {zone} {'does not exist' if gap else 'comes twice'}, as "
            "the clocks change; write it with an offset, such as +01:00"
        )
    return first.astimezone(UTC)
