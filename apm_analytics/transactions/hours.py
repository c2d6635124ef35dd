"""Compute when an SLA counts: opening hours in a time zone, with daylight saving time.

In:  a time zone, hours such as "mon-fri 08:00-18:00", closed days.
Out: intervals in UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Interval = tuple[datetime, datetime]


@dataclass(frozen=True)
class Hours:
    """Opening hours in one time zone."""

    zone: ZoneInfo
    open: tuple[tuple[frozenset[int], time, time | None], ...]  # None: until midnight
    closed: frozenset[date] = frozenset()

    @classmethod
    def read(cls, zone: str, hours: Sequence[str], closed: Sequence[date] = ()) -> "Hours":
        """Parse opening hours.

        Raises
        ------
        ValueError
            A time does not exist, an end is before its start, or days overlap.

        Examples
        --------
        >>> Hours.read("Europe/Berlin", ["mon-fri 08:00-18:00"]).open[0][1]
        datetime.time(8, 0)
        """
        opening = []
        taken: set[int] = set()
        for text in hours:
            days, span = text.split(" ")
            first, _, last = days.partition("-")
            a, b = DAYS.index(first), DAYS.index(last or first)
            numbers = {(a + step) % 7 for step in range((b - a) % 7 + 1)}
            if numbers & taken:
                raise ValueError(f"{text!r} names a day that already has hours")
            taken |= numbers
            begin, _, end = span.partition("-")
            starts = time.fromisoformat(begin)
            ends = None if end == "24:00" else time.fromisoformat(end)
            if ends is not None and ends <= starts:
                raise ValueError(f"{text!r} ends before it starts; write 24:00 for midnight")
            opening.append((frozenset(numbers), starts, ends))
        return cls(zone_of(zone), tuple(opening), frozenset(closed))

    def intervals(self, since: datetime, until: datetime) -> list[Interval]:
        """Return the open intervals that overlap [since, until); naive UTC."""
        day = since.replace(tzinfo=UTC).astimezone(self.zone).date() - timedelta(days=1)
        last = until.replace(tzinfo=UTC).astimezone(self.zone).date()
        intervals: list[Interval] = []
        while day <= last:
            for days, starts, ends in self.open:
                if day.weekday() in days and day not in self.closed:
                    begin = self._utc(day, starts)
                    end = self._utc(day, ends) if ends else self._utc(day + timedelta(1), time(0))
                    if end > since and begin < until and end > begin:
                        intervals.append((begin, end))
            day += timedelta(days=1)
        return intervals

    def _utc(self, day: date, clock: time) -> datetime:
        local = datetime.combine(day, clock, tzinfo=self.zone)
        return local.astimezone(UTC).replace(tzinfo=None)


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone of an IANA name.

    Raises
    ------
    ValueError
        There is no zone of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"{name!r} is not in the IANA Time Zone Database; use a name such as Europe/Berlin"
        ) from error
