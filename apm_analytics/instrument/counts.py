"""Count telemetry that is lost.

In:  one call per loss, from any thread.
Out: totals by signal and reason, which the metric `apm.telemetry.dropped` shows.
"""

import threading
from collections import Counter
from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation

METRIC = "apm.telemetry.dropped"


class Losses:
    """Counts of lost items; reasons are queue_full, export_failed, trace_too_long, failed.

    Examples
    --------
    >>> losses = Losses()
    >>> losses.add("spans", "queue_full", 3)
    >>> losses.total("spans")
    3
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, signal: str, reason: str, count: int = 1) -> None:
        """Count `count` items of `signal` as lost for `reason`."""
        with self._lock:
            self._counts[signal, reason] += count

    def total(self, signal: str) -> int:
        """Return how many items of a signal were lost, for any reason."""
        with self._lock:
            return sum(n for (name, _), n in self._counts.items() if name == signal)

    def by_reason(self) -> dict[tuple[str, str], int]:
        """Return the counts by (signal, reason)."""
        with self._lock:
            return dict(self._counts)

    def show(self, meter: Meter) -> None:
        """Let a meter report the counts."""

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for (signal, reason), count in self.by_reason().items():
                yield Observation(count, {"signal": signal, "reason": reason})

        meter.create_observable_counter(
            METRIC, [observe], "{item}", "Spans, log records and points that were not sent"
        )
