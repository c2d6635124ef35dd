"""Know when an SLA counts: hours of the week in a time zone, daylight saving included.

In:  a time zone, hours such as "mon-fri 08:00-18:00", days on which it is closed.
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
    """Hours of the week in one time zone."""

    zone: ZoneInfo
    open: tuple[tuple[frozenset[int], time, time | None], ...]  # no end: midnight
    closed: frozenset[date] = frozenset()

    @classmethod
    def read(cls, zone: str, hours: Sequence[str], closed: Sequence[date] = ()) -> "Hours":
        """Read hours as they are written.

        Raises
        ------
        ValueError
            A time that does not exist, an end before its start, days that overlap.

        Examples
        --------
        >>> Hours.read("Europe/Berlin", ["mon-fri 08:00-18:00"]).open[0][1]
        datetime.time(8, 0)
        """
        found = []
        taken: set[int] = set()
        for text in hours:
            days, span = text.split(" ")
            first, _, last = days.partition("-")
            a, b = DAYS.index(first), DAYS.index(last or first)
            numbers = {(a + step) % 7 for step in range((b - a) % 7 + 1)}
            if numbers & taken:
                raise ValueError(f"{text!r} names a day that has its hours already")
            taken |= numbers
            begin, _, end = span.partition("-")
            starts = time.fromisoformat(begin)
            ends = None if end == "24:00" else time.fromisoformat(end)
            if ends is not None and ends <= starts:
                raise ValueError(f"{text!r} ends before it starts; write 24:00 for midnight")
            found.append((frozenset(numbers), starts, ends))
        return cls(zone_of(zone), tuple(found), frozenset(closed))

    def intervals(self, since: datetime, until: datetime) -> list[Interval]:
        """Give the open hours that touch [since, until), UTC, without a zone."""
        day = since.replace(tzinfo=UTC).astimezone(self.zone).date() - timedelta(days=1)
        last = until.replace(tzinfo=UTC).astimezone(self.zone).date()
        found: list[Interval] = []
        while day <= last:
            for days, starts, ends in self.open:
                if day.weekday() in days and day not in self.closed:
                    begin = self._utc(day, starts)
                    end = self._utc(day, ends) if ends else self._utc(day + timedelta(1), time(0))
                    if end > since and begin < until and end > begin:
                        found.append((begin, end))
            day += timedelta(days=1)
        return found

    def _utc(self, day: date, clock: time) -> datetime:
        local = datetime.combine(day, clock, tzinfo=self.zone)
        return local.astimezone(UTC).replace(tzinfo=None)


def zone_of(name: str) -> ZoneInfo:
    """Give a time zone.

    Raises
    ------
    ValueError
        There is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"{name!r} is no name of the IANA Time Zone Database, such as Europe/Berlin"
        ) from error
