"""The receiver's own metrics, in the Prometheus text format.

In:  counts and times from the endpoints, the pipeline and the writer.
Out: the text of `/metrics`.
"""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (100, 1_000, 10_000, 50_000, 100_000, 500_000, 1_000_000)


class Metrics:
    """The metrics of one receiver, in a separate registry: a process may run several receivers."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "apm_receiver_requests",
            "Requests acknowledged.",
            ["signal"],
            registry=registry,
        )
        self.accepted_bytes = Counter(
            "apm_receiver_accepted_bytes",
            "Bytes acknowledged, decompressed.",
            ["signal"],
            registry=registry,
        )
        self.refused = Counter(
            "apm_receiver_refused_requests",
            "Requests refused, by reason; never acknowledged.",
            ["reason"],
            registry=registry,
        )
        self.repeated = Counter(
            "apm_receiver_repeated_requests",
            "Requests sent again that had been taken before; acknowledged, not taken twice.",
            registry=registry,
        )
        self.rows = Counter(
            "apm_receiver_rows", "Rows written into the lake.", ["table"], registry=registry
        )
        self.dead_letters = Counter(
            "apm_receiver_dead_letters",
            "Records put aside with their reason, see dead_letter/ in the lake.",
            registry=registry,
        )
        self.write_failures = Counter(
            "apm_receiver_write_failures",
            "Attempts to write parts that failed.",
            registry=registry,
        )
        self.unwritable_requests = Counter(
            "apm_receiver_unwritable_requests",
            "Acknowledged requests that could not be written, see dead_letter/ in the lake.",
            registry=registry,
        )
        self.journal_failures = Counter(
            "apm_receiver_journal_failures",
            "Groups of requests that the journal could not take.",
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "apm_receiver_commit_seconds",
            "Decoding and journalling one group of requests.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.group_requests = Histogram(
            "apm_receiver_group_requests",
            "Requests that shared one sync of the journal.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=registry,
        )
        self.flush_seconds = Histogram(
            "apm_receiver_flush_seconds",
            "Writing parts once.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.part_rows = Histogram(
            "apm_receiver_part_rows",
            "Rows of one table in one flush.",
            buckets=_ROWS,
            registry=registry,
        )
        self.visible_seconds = Histogram(
            "apm_receiver_visible_seconds",
            "From the first acknowledgement of a flush until queries see it.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.compacted_parts = Counter(
            "apm_receiver_compacted_parts", "Parts merged into larger ones.", registry=registry
        )

    def watch(
        self,
        *,
        lag_seconds: Callable[[], float],
        held_bytes: Callable[[], float],
        connections: Callable[[], float],
        ready: Callable[[], float],
        troubles: Mapping[str, Callable[[], float]],
    ) -> None:
        """Register functions whose values are read at each scrape of `/metrics`."""
        for name, text, function in (
            ("journal_lag_seconds", "Age of the oldest request not yet in a part.", lag_seconds),
            ("held_bytes", "Bytes accepted and not yet in a part.", held_bytes),
            ("http_connections", "Open HTTP connections.", connections),
            ("ready", "1 while the receiver is ready, as /readyz says.", ready),
        ):
            Gauge(f"apm_receiver_{name}", text, registry=self.registry).set_function(function)
        trouble = Gauge(
            "apm_receiver_trouble",
            "1 for the cause why every request is refused.",
            ["cause"],
            registry=self.registry,
        )
        for cause, function in troubles.items():
            trouble.labels(cause).set_function(function)

    def wrote(
        self, *, rows: Mapping[str, int], letters: int, seconds: float, lag_seconds: float
    ) -> None:
        """Record one flush."""
        for table, count in rows.items():
            self.rows.labels(table).inc(count)
            self.part_rows.observe(count)
        self.dead_letters.inc(letters)
        self.flush_seconds.observe(seconds)
        self.visible_seconds.observe(lag_seconds)

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self.registry)
