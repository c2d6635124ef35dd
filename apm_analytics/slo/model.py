"""What a service level objective is: its indicator, window and targets.

In:  nothing.
Out: the classes that `slo_specs.load` fills; `Window` knows its periods.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

MINUTES = {"m": 1, "h": 60, "d": 1_440, "w": 10_080}
MONTHS = {"M": 1, "Q": 3, "Y": 12}


@dataclass(frozen=True)
class Selection:
    """Which requests: of a service's operations, or of a transaction."""

    service: str | None = None
    operations: tuple[str, ...] = ()  # none: all of the service
    transaction: str | None = None
    status: str | None = None  # ok or error
    max_duration_s: float | None = None
    quantile: float | None = None
    where: tuple[tuple[str, str | int], ...] = ()

    def source(self) -> tuple[str | None, tuple[str, ...], str | None]:
        """What is counted, whether good or bad."""
        return self.service, self.operations, self.transaction


@dataclass(frozen=True)
class Indicator:
    """Good among all, bad among all, or a duration to compare."""

    name: str
    total: Selection
    good: Selection | None = None
    bad: Selection | None = None


@dataclass(frozen=True)
class Window:
    """A rolling window, or one that follows a calendar in its time zone."""

    minutes: int = 0  # of a rolling window, or of a calendar one of days or weeks
    months: int = 0  # of a calendar window of months, quarters or years
    start: datetime | None = None  # local time, without a zone; None: rolling
    zone: str = "UTC"

    def period(self, at: datetime) -> tuple[datetime, datetime]:
        """Give the window that holds the last moment before `at`; UTC, without a zone."""
        if self.start is None:
            return at - timedelta(minutes=self.minutes), at
        zone = ZoneInfo(self.zone)
        last = at - timedelta(microseconds=1)
        local = last.replace(tzinfo=ZoneInfo("UTC")).astimezone(zone).replace(tzinfo=None)
        number = self._number(local)
        # In the hour that a clock repeats, local time alone cannot tell before from after.
        while _utc(self._start(number + 1), zone) <= last:
            number += 1
        while _utc(self._start(number), zone) > last:
            number -= 1
        return _utc(self._start(number), zone), _utc(self._start(number + 1), zone)

    def month(self, year: int, month: int) -> tuple[datetime, datetime]:
        """Give a month of the contract's time zone; UTC, without a zone."""
        zone = ZoneInfo(self.zone)
        own = self.start if self.start and self.months else datetime(year, 1, 1)
        first = own.replace(year=year, month=month)
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
    """One target of an SLO, exact; times in s."""

    name: str
    target: Decimal
    indicator: Indicator
    op: str | None = None  # with a threshold: lte, lt, gte or gt
    value: float | None = None
    slice_min: int = 0  # length of a time slice, in minutes; 0: every event counts
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
    composite: bool  # the objectives are steps of one journey, with weights
    description: str = ""
    conditions: tuple[Condition, ...] = ()
    where: str = ""  # file and line

    @property
    def sources(self) -> set[tuple[str | None, tuple[str, ...], str | None]]:
        """What its indicators count."""
        return {objective.indicator.total.source() for objective in self.objectives}


def duration_minutes(text: str) -> int:
    """Give the length of a rolling duration in minutes; a month is 30 days there.

    Examples
    --------
    >>> duration_minutes("5m"), duration_minutes("4w")
    (5, 40320)
    """
    number, unit = int(text[:-1]), text[-1]
    return number * (MINUTES[unit] if unit in MINUTES else MONTHS[unit] * 30 * 1_440)


def _moved(local: datetime, months: int) -> datetime:
    """Give the same day and clock time some months later."""
    total = local.year * 12 + local.month - 1 + months
    return local.replace(year=total // 12, month=total % 12 + 1)


def _utc(local: datetime, zone: ZoneInfo) -> datetime:
    """Give a local time as UTC; one that a clock skips is told by the old offset."""
    return local.replace(tzinfo=zone).astimezone(ZoneInfo("UTC")).replace(tzinfo=None)
