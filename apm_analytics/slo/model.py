"""Define service level objectives: indicators, windows, targets, alert conditions.

In:  nothing.
Out: the classes that `slo.specs.load` fills; `Window` computes its periods.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

MINUTES = {"m": 1, "h": 60, "d": 1_440, "w": 10_080}
MONTHS = {"M": 1, "Q": 3, "Y": 12}


@dataclass(frozen=True)
class Selection:
    """A selection of requests: operations of a service, or instances of a transaction."""

    service: str | None = None
    operations: tuple[str, ...] = ()  # empty: all operations of the service
    transaction: str | None = None
    status: str | None = None  # ok or error
    max_duration_s: float | None = None
    quantile: float | None = None
    where: tuple[tuple[str, str | int], ...] = ()

    def source(self) -> tuple[str | None, tuple[str, ...], str | None]:
        """Return what is counted, good or bad: service, operations, transaction."""
        return self.service, self.operations, self.transaction


@dataclass(frozen=True)
class Indicator:
    """Good requests among all, bad requests among all, or durations to compare."""

    name: str
    total: Selection
    good: Selection | None = None
    bad: Selection | None = None


@dataclass(frozen=True)
class Window:
    """A rolling window, or a calendar window in its time zone."""

    minutes: int = 0  # of a rolling window, or of a calendar window of days or weeks
    months: int = 0  # of a calendar window of months, quarters or years
    start: datetime | None = None  # naive local time; None: rolling
    zone: str = "UTC"

    def period(self, at: datetime) -> tuple[datetime, datetime]:
        """Return the period that contains the last moment before `at`; naive UTC."""
        if self.start is None:
            return at - timedelta(minutes=self.minutes), at
        zone = ZoneInfo(self.zone)
        last = at - timedelta(microseconds=1)
        local = last.replace(tzinfo=ZoneInfo("UTC")).astimezone(zone).replace(tzinfo=None)
        number = self._number(local)
        # Local time is ambiguous in the hour that a clock change repeats.
        while _utc(self._start(number + 1), zone) <= last:
            number += 1
        while _utc(self._start(number), zone) > last:
            number -= 1
        return _utc(self._start(number), zone), _utc(self._start(number + 1), zone)

    def month(self, year: int, month: int) -> tuple[datetime, datetime]:
        """Return a month of the contract's time zone; naive UTC."""
        zone = ZoneInfo(self.zone)
        anchor = self.start if self.start and self.months else datetime(year, 1, 1)
        first = anchor.replace(year=year, month=month)
        return _utc(first, zone), _utc(_moved(first, 1), zone)

    def _number(self, local: datetime) -> int:
        assert self.start is not None
        if self.months:
            apart = (local.year - self.start.year) * 12 + local.month - self.start.month
            return apart // self.months
        return int((local - self.start) // timedelta(minutes=self.minutes))

    def _start(self, number: int) -> datetime:
        assert self.start is not None
        if self.months:
            return _moved(self.start, number * self.months)
        return self.start + timedelta(minutes=self.minutes) * number


@dataclass(frozen=True)
class Objective:
    """One target of an SLO; times in s."""

    name: str
    target: Decimal
    indicator: Indicator
    op: str | None = None  # of a threshold: lte, lt, gte or gt
    value: float | None = None
    slice_min: int = 0  # length of a time slice, in minutes; 0: every request counts
    slice_target: float | None = None
    weight: Decimal = Decimal(1)


@dataclass(frozen=True)
class Condition:
    """Alert when the burn rate over `lookback` passes `threshold` for `after_s`."""

    name: str
    severity: str
    op: str
    threshold: float
    lookback: str
    after_s: int


@dataclass(frozen=True)
class Slo:
    """One service level objective."""

    name: str
    title: str
    service: str
    method: str  # Occurrences, Timeslices or RatioTimeslices
    window: Window
    objectives: tuple[Objective, ...]
    composite: bool  # the objectives are weighted steps of one journey
    description: str = ""
    conditions: tuple[Condition, ...] = ()
    where: str = ""  # file and line

    @property
    def sources(self) -> set[tuple[str | None, tuple[str, ...], str | None]]:
        """What the indicators count; see `Selection.source`."""
        return {objective.indicator.total.source() for objective in self.objectives}


def duration_minutes(text: str) -> int:
    """Return the length of a rolling duration in minutes; a month counts as 30 days.

    Examples
    --------
    >>> duration_minutes("5m"), duration_minutes("4w")
    (5, 40320)
    """
    number, unit = int(text[:-1]), text[-1]
    return number * (MINUTES[unit] if unit in MINUTES else MONTHS[unit] * 30 * 1_440)


def _moved(local: datetime, months: int) -> datetime:
    """Return the same day and clock time some months later."""
    total = local.year * 12 + local.month - 1 + months
    return local.replace(year=total // 12, month=total % 12 + 1)


def _utc(local: datetime, zone: ZoneInfo) -> datetime:
    """Convert a local time to naive UTC; a skipped local time uses the offset before the change."""
    return local.replace(tzinfo=zone).astimezone(ZoneInfo("UTC")).replace(tzinfo=None)
