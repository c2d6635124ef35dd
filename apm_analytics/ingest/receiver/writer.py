"""Write journalled requests into parts, in the background.

In:  stages of decoded requests, and the journal segments that hold the same requests.
Out: parts and dead letters; the segments are removed.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from apm_analytics.foundation.errors import ApmError, BadInput
from apm_analytics.ingest import staging
from apm_analytics.ingest.receiver.health import Health
from apm_analytics.ingest.receiver.metrics import Metrics
from apm_analytics.ingest.receiver.repeats import REMEMBERED_S
from apm_analytics.ingest.staging import Rows, Stage
from apm_analytics.ingest.units import Units
from apm_analytics.lake import snapshots
from apm_analytics.lake.journal import Segment, journal

# Acknowledged rows are visible within a second, also on a busy machine.
FLUSH_S = 0.25
# After a failed write: short, so that writing resumes soon after the disk recovers.
RETRY_S = 0.5
# A segment is kept this long after its rows are in parts, so that a restart still recognises
# requests whose acknowledgement was lost; see `repeats`.
KEPT_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """A stage and the segments with the same requests; `size` (bytes) counts against the budget."""

    stage: Stage
    segments: list[Segment]
    size: int
    since: float


class Writer:
    """A thread that writes staged requests every `FLUSH_S`, or when asked.

    Parameters
    ----------
    old : segments that earlier receivers left; they are written first.
    take : returns what was staged since the last call, or None.
    written : called with the number of bytes written.
    """

    def __init__(
        self,
        lake: Path,
        metrics: Metrics,
        units: Units,
        health: Health,
        *,
        old: Sequence[Segment],
        take: Callable[[], Batch | None],
        written: Callable[[int], None],
    ) -> None:
        self._lake = lake
        self._metrics = metrics
        self._units = units
        self._old = list(old)
        self._take = take
        self._written = written
        self._asked = threading.Event()
        self._stop = threading.Event()
        self._kept: list[tuple[float, Segment]] = []
        self._health = health
        self.thread = threading.Thread(target=self._run, name="lake writer", daemon=True)
        self.healthy = True
        self.failure = ""

    def start(self) -> None:
        """Start the thread, which calls `take`."""
        self.thread.start()

    @property
    def replayed(self) -> bool:
        """Return whether all segments of earlier receivers are in parts."""
        return not self._old

    def ask(self) -> None:
        """Write now instead of after `FLUSH_S`."""
        self._asked.set()

    def stop(self) -> None:
        """Write staged requests and stop; on a failed write they stay in the journal."""
        self._stop.set()
        self._asked.set()
        self.thread.join()

    def _run(self) -> None:
        # With a wrong clock, a replay would set records aside.
        while self._health.trouble is not None and not self._stop.wait(RETRY_S):
            pass
        with ExitStack() as stack:
            with suppress(ApmError):  # the disk may be full: appends report that and try again
                stack.enter_context(snapshots.kept_open(self._lake))
            self._write_all()

    def _write_all(self) -> None:
        with suppress(ApmError):  # none of them is lost: they wait for `sweep`
            documents = [segment.document for segment in self._old]
            if documents:
                snapshots.set_leftovers_aside(self._lake, documents)
        while self._old and self._persist(partial(self._replay, self._old[0])):
            del self._old[0]
        while not self._stop.is_set():
            self._asked.wait(FLUSH_S)
            self._asked.clear()
            self._flush()
            self._forget(time.monotonic())
        self._flush()
        self._forget(time.monotonic() + KEPT_S)

    def _flush(self) -> None:
        batch = self._take()
        if batch is None:
            return
        try:
            done = self._persist(partial(self._write, batch, batch.stage.finish()))
        except Exception:
            # A retry would fail again, and later batches must not wait for it.
            for segment in batch.segments:
                _set_aside(segment)
            done = True
        if done:
            self._written(batch.size)
            until = time.monotonic() + KEPT_S
            self._kept += [(until, segment) for segment in batch.segments]

    def _persist(self, write: Callable[[], None]) -> bool:
        """Retry until the write succeeds; return False if stopped before."""
        while True:
            try:
                self._attempt(write)
            except BadInput:
                raise
            except ApmError as error:
                if self.healthy:
                    _log.error("%s; what was acknowledged is in the journal", error)
                self.healthy, self.failure = False, str(error)
                self._metrics.write_failures.inc()
                if self._stop.wait(RETRY_S):
                    return False
            else:
                if not self.healthy:
                    _log.warning("the lake can be written again")
                self.healthy = True
                return True

    def _attempt(self, write: Callable[[], None]) -> None:
        """Write, unless the lake is gone: writing would begin another one in its place."""
        self._health.check_places()
        try:
            write()
        except BadInput:
            self._health.check(closely=True)  # is it the lake, not the rows?
            raise

    def _write(self, batch: Batch, rows: Rows) -> None:
        started = time.monotonic()
        documents = [segment.document for segment in batch.segments]
        staging.write_letters(self._lake, documents[0], rows.letters)
        snapshots.append(self._lake, rows.tables, documents=documents, source="apm receive")
        now = time.monotonic()
        self._metrics.wrote(
            rows={name: table.num_rows for name, table in rows.tables.items()},
            letters=len(rows.letters),
            seconds=now - started,
            lag_seconds=now - batch.since,
        )

    def _replay(self, segment: Segment) -> None:
        """Write a segment of an earlier receiver; replaying it again adds no rows."""
        content = journal.read(segment)
        if content.entries and not snapshots.known_documents(self._lake, [segment.document]):
            stage = Stage(self._units, sum(len(entry.payload) for entry in content.entries))
            stage.take(content.entries)
            self._write(Batch(stage, [segment], 0, time.monotonic()), stage.finish())
            _log.warning("replayed %d requests of %s", len(content.entries), segment.path.name)
        if content.torn_bytes:
            _log.warning(
                "%s ends in %d bytes of a write that was cut short and never acknowledged",
                segment.path.name,
                content.torn_bytes,
            )
        if content.damaged:
            _log.error(
                "%s is damaged in %d places; every other request in it was replayed",
                segment.path.name,
                content.damaged,
            )
            _set_aside(segment)
        else:
            age_s = max(time.time() - segment.path.stat().st_mtime, 0.0)
            self._kept.append((time.monotonic() + REMEMBERED_S - age_s, segment))

    def _forget(self, now: float) -> None:
        gone = [segment for until, segment in self._kept if until <= now]
        self._kept = [(until, segment) for until, segment in self._kept if until > now]
        for segment in gone:
            try:
                segment.remove()
            except OSError as error:  # its rows are in parts; the next start removes it
                _log.warning("could not remove %s: %s", segment.path, error)


def _set_aside(segment: Segment) -> None:
    kept = segment.set_aside()
    _log.exception(
        "%s could not be written as parts; it is kept: report it, and rename it to *%s to have "
        "the next start try again",
        kept,
        journal.SUFFIX,
    )
