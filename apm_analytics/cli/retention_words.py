"""Describe in words what retention will do to a lake.

In:  `retention.Outlook`s, the retention of each signal.
Out: lines of text.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from apm_analytics.foundation.settings import RETENTION_VARIABLES, RetentionSettings
from apm_analytics.lake.maintenance.retention import SIGNALS, Outlook

ADVICE = (
    "a running `apm receive` applies retention every hour; to keep recordings of the past, use a "
    "lake without a receiver, start it with --no-retention, or raise these values"
)


def lines(outlooks: Sequence[Outlook], periods: RetentionSettings) -> Iterator[str]:
    """Describe what the next run removes, and when later runs remove more."""
    yield from threatened(outlooks, periods)
    for outlook in outlooks:
        if outlook.next_s is not None:
            yield (
                f"{outlook.table}: {outlook.next_rows:,} rows expire at about "
                f"{datetime.fromtimestamp(outlook.next_s, UTC):%Y-%m-%d %H:%M} UTC, when they are "
                f"older than {_limit(outlook.table, periods)}"
            )


def threatened(outlooks: Sequence[Outlook], periods: RetentionSettings) -> Iterator[str]:
    """Describe what the next run removes or rolls up, and how to keep it."""
    for outlook in outlooks:
        if outlook.too_old:
            yield (
                f"{outlook.table}: {outlook.too_old:,} rows are older than "
                f"{_limit(outlook.table, periods)}: the next `apm lake retain` removes them"
            )
        if outlook.too_fine:
            yield (
                f"{outlook.table}: {outlook.too_fine:,} points are older than "
                f"{periods.high_resolution_hours:g} hours (HIGH_RESOLUTION_RETENTION_HOURS): the "
                "next `apm lake retain` rolls them up to one per minute"
            )
    if any(outlook.too_old or outlook.too_fine for outlook in outlooks):
        yield ADVICE


def _limit(table: str, periods: RetentionSettings) -> str:
    signal = SIGNALS[table]
    return f"{getattr(periods, signal):g} days ({RETENTION_VARIABLES[signal]})"
