"""Count what the spans show, per window, so that metrics agree with traces.

In:  visits of calls, as they are written.
Out: `Observed`: counts, errors and durations per operation, and duration buckets per service.
"""

from dataclasses import dataclass

import numpy as np

from apm_analytics.simulate import catalog
from apm_analytics.simulate.timeline import WINDOW_NS, Floats, Ints, S, Timeline
from apm_analytics.simulate.visits import Visit

# Bounds in seconds that OpenTelemetry's semantic conventions recommend for HTTP durations.
BOUNDS = np.array([0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10])
EXP_SCALE = 3  # buckets grow by 2 ** (1/8), about 9 %
EXP_FIRST, EXP_LAST = -64, 64  # 4 ms to 256 s
QUANTILES = (0.5, 0.95, 0.99)
PROVIDER = ("payment", "pay-provider")  # client durations as an exponential histogram
SEARCH = ("catalog", "GET /catalog/search")  # server durations as a summary


@dataclass
class Operation:
    """One entry operation's windows."""

    count: Ints
    errors: Ints
    seconds: Floats


@dataclass
class Durations:
    """A service's or peer's durations by window and bucket."""

    buckets: Ints
    count: Ints
    sum: Floats
    min: Floats
    max: Floats


class Observed:
    """Counts on the timeline's windows, by the time a span ends."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._windows = timeline.windows
        self.operations: dict[tuple[str, str], Operation] = {}
        self.services = {service.name: self._empty(BOUNDS.size + 1) for service in catalog.SERVICES}
        self.provider = self._empty(EXP_LAST - EXP_FIRST + 1)
        self._searches: list[tuple[Ints, Floats]] = []

    def see(self, visit: Visit, begins: Ints) -> None:
        """Count one call of the tree, made by many requests."""
        chosen = visit.present
        call = visit.call
        if call.kind not in ("server", "consumer") and (call.service, call.peer) != PROVIDER:
            return
        ends = (begins + visit.duration)[chosen]
        windows = (ends - self._timeline.start_ns) // WINDOW_NS
        seconds = visit.duration[chosen] / S
        if call.kind == "client":
            # Bucket i holds (base ** i, base ** (i + 1)].
            indexes = np.ceil(np.log2(seconds) * 2**EXP_SCALE).astype(np.int64) - 1
            places = np.clip(indexes, EXP_FIRST, EXP_LAST) - EXP_FIRST
            self._add(self.provider, windows, seconds, places)
            return
        operation = self.operations.setdefault(
            (call.service, call.name),
            Operation(
                np.zeros(self._windows, np.int64),
                np.zeros(self._windows, np.int64),
                np.zeros(self._windows),
            ),
        )
        operation.count += np.bincount(windows, minlength=self._windows)
        operation.errors += np.bincount(windows[visit.failed[chosen]], minlength=self._windows)
        operation.seconds += np.bincount(windows, seconds, minlength=self._windows)
        if call.kind == "server":
            places = np.searchsorted(BOUNDS, seconds, side="left")
            self._add(self.services[call.service], windows, seconds, places)
        if (call.service, call.name) == SEARCH:
            self._searches.append((windows, seconds))

    def search_quantiles(self) -> tuple[Ints, Floats, Floats]:
        """Return count, sum and `QUANTILES` (nearest rank, 0 without any) per window."""
        windows = np.concatenate([windows for windows, _ in self._searches])
        seconds = np.concatenate([seconds for _, seconds in self._searches])
        order = np.lexsort((seconds, windows))
        windows, seconds = windows[order], seconds[order]
        count = np.bincount(windows, minlength=self._windows).astype(np.int64)
        total = np.bincount(windows, seconds, minlength=self._windows)
        first = np.cumsum(count) - count
        ranks = np.ceil(np.outer(count, QUANTILES)).astype(np.int64) - 1
        places = first[:, None] + np.maximum(ranks, 0)
        values = np.append(seconds, 0.0)[np.minimum(places, seconds.size)]
        quantiles: Floats = np.where(count[:, None] > 0, values, 0.0)
        return count, total.astype(np.float64), quantiles

    def _empty(self, buckets: int) -> Durations:
        return Durations(
            np.zeros((self._windows, buckets), np.int64),
            np.zeros(self._windows, np.int64),
            np.zeros(self._windows),
            np.full(self._windows, np.inf),
            np.zeros(self._windows),
        )

    def _add(self, into: Durations, windows: Ints, seconds: Floats, places: Ints) -> None:
        shape = into.buckets.shape
        flat = np.bincount(windows * shape[1] + places, minlength=shape[0] * shape[1])
        into.buckets += flat.reshape(shape)
        into.count += np.bincount(windows, minlength=self._windows)
        into.sum += np.bincount(windows, seconds, minlength=self._windows)
        np.minimum.at(into.min, windows, seconds)
        np.maximum.at(into.max, windows, seconds)
