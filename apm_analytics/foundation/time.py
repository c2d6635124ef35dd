"""Convert times to UTC without a zone; the constants of hours of the week.

In:  times with or without a zone.
Out: times as the lake keeps them.
"""

from datetime import UTC, datetime
from typing import overload

HOURS_PER_WEEK = 168
# Hour 0 of the week is Sunday 00:00 UTC, as in PromQL's day_of_week(); 1970-01-01 was a Thursday.
EPOCH_HOUR_OF_WEEK = 4 * 24


@overload
def naive(time: datetime) -> datetime: ...
@overload
def naive(time: None) -> None: ...
def naive(time: datetime | None) -> datetime | None:
    """Return a time in UTC without a zone; a time without a zone is UTC already."""
    if time is None or time.tzinfo is None:
        return time
    return time.astimezone(UTC).replace(tzinfo=None)
