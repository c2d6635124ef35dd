"""Say in words what retention will do to a lake.

In:  `retention.Outlook`s, how long what is kept.
Out: lines for a person.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from apm_analytics.foundation.settings import RetentionSettings
from apm_analytics.lake.maintenance.retention import SIGNALS, Outlook

ADVICE = (
    "a running `apm receive` retains every hour; to keep recordings of the past give them a lake "
    "without a receiver, start it with --no-retention, or set these figures higher"
)


def lines(outlooks: Sequence[Outlook], periods: RetentionSettings) -> Iterator[str]:
    """Say of each table what goes when."""
    yield from threatened(outlooks, periods)
    for one in outlooks:
        if one.next_s is not None:
            yield (
                f"{one.table}: {one.next_rows:,} rows go about "
                f"{datetime.fromtimestamp(one.next_s, UTC):%Y-%m-%d %H:%M} UTC, when they are "
                f"older than {_limit(one.table, periods)}"
            )


def threatened(outlooks: Sequence[Outlook], periods: RetentionSettings) -> Iterator[str]:
    """Say what the very next run takes, and how to keep it."""
    for one in outlooks:
        if one.too_old:
            yield (
                f"{one.table}: {one.too_old:,} rows are older than "
                f"{_limit(one.table, periods)}: the next `apm lake retain` removes them"
            )
        if one.too_fine:
            yield (
                f"{one.table}: {one.too_fine:,} points are older than "
                f"{periods.high_resolution_hours:g} hours (HIGH_RESOLUTION_RETENTION_HOURS): the "
                "next `apm lake retain` makes them one a minute"
            )
    if any(one.too_old or one.too_fine for one in outlooks):
        yield ADVICE


def _limit(table: str, periods: RetentionSettings) -> str:
    signal = SIGNALS[table]
    name = f"{signal.removesuffix('_days').upper()}_RETENTION_DAYS"
    return f"{getattr(periods, signal):g} days ({name})"
