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
from typing import TypeVar

from apm_analytics.foundation.errors import ApmError, BadInput
from apm_analytics.ingest import staging
from apm_analytics.ingest.receiver.health import Health
from apm_analytics.ingest.receiver.metrics import Metrics
from apm_analytics.ingest.receiver.repeats import REMEMBERED_S
from apm_analytics.ingest.receiver.replay import Replay
from apm_analytics.ingest.staging import Rows, Stage
from apm_analytics.ingest.units import Units
from apm_analytics.lake import snapshots
from apm_analytics.lake.journal import Segment, journal
from apm_analytics.lake.manifest import LostManifest

# Acknowledged rows are visible within a second, also on a busy machine.
FLUSH_S = 0.25
# After a failed write: short, so that writing resumes soon after the disk recovers.
RETRY_S = 0.5
# A segment is kept this long after its rows are in parts, so that a restart still recognises
# requests whose acknowledgement was lost; see `repeats`.
KEPT_S = 1.0

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """A stage and the segments with the same requests.

    `stage` is None where the segments must be read. `size` and `heavy` (bytes) count against the
    budgets of the pipeline.
    """

    stage: Stage | None
    segments: list[Segment]
    size: int
    heavy: int
    since: float


@dataclass(frozen=True)
class _Left:
    """A segment that is to be replayed, and what it counts against the budgets."""

    segment: Segment
    size: int = 0
    heavy: int = 0


class Writer:
    """A thread that writes staged requests every `FLUSH_S`, or when asked.

    Parameters
    ----------
    old : segments that earlier receivers left; they are written first.
    take : returns what was staged since the last call, or None.
    written : called with the size and the heavy bytes of what was written.
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
        written: Callable[[int, int], None],
    ) -> None:
        self._lake = lake
        self._metrics = metrics
        self._left = [_Left(segment) for segment in old]
        self._take = take
        self._written = written
        self._asked = threading.Event()
        self._stop = threading.Event()
        self._kept: list[tuple[float, Segment]] = []
        self._since = 0.0
        self._replay = Replay(
            lake,
            units,
            attempt=self._attempt,
            write=self._write,
            set_aside=metrics.unwritable_requests.inc,
        )
        self._health = health
        self.thread = threading.Thread(target=self._run, name="lake writer", daemon=True)
        self.healthy = True
        self.failure = ""

    def start(self) -> None:
        """Start the thread, which calls `take`."""
        self.thread.start()

    @property
    def replayed(self) -> bool:
        """Return whether all segments of earlier receivers and of failed batches are in parts."""
        return not self._left

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
            self._try(self._set_leftovers_aside)
            while not self._stop.is_set():
                self._try(self._write_all)
            self._try(self._write_all)
        self._forget(time.monotonic() + KEPT_S)

    def _try(self, step: Callable[[], None]) -> None:
        """Run a step; an error that nobody expected must not end this thread."""
        try:
            step()
        except Exception as error:
            self.healthy, self.failure = False, f"{type(error).__name__}: {error}"
            self._metrics.write_failures.inc()
            _log.exception("parts could not be written; what was acknowledged is in the journal")
            self._stop.wait(RETRY_S)

    def _set_leftovers_aside(self) -> None:
        """Set aside the parts of appends of which an earlier receiver did not see the end."""
        documents = [left.segment.document for left in self._left]
        if documents:
            self._persist(partial(snapshots.set_leftovers_aside, self._lake, documents))

    def _write_all(self) -> None:
        """Write what is left and what is staged, again and again, at least once."""
        while True:
            while self._may_replay() and self._persist(self._replay_first):
                pass
            batch = self._take()
            if batch is not None:
                self._flush(batch)
            self._forget(time.monotonic())
            if self._stop.is_set():
                return
            if self._may_replay():  # a batch that could not be written at once
                continue
            self._asked.wait(FLUSH_S)
            self._asked.clear()

    def _may_replay(self) -> bool:
        return bool(self._left) and self._health.trouble is None

    def _flush(self, batch: Batch) -> None:
        if batch.stage is None:
            self._left += _left_of(batch)
            return
        try:
            rows = batch.stage.finish()
            documents = [segment.document for segment in batch.segments]
            self._since = batch.since
            done = self._persist(partial(self._write, rows, documents))
        except Exception:
            # A replay of its segments finds the request that cannot be written.
            _log.exception("a batch of %d bytes could not be written at once", batch.size)
            self._left += _left_of(batch)
            return
        if done:
            self._written(batch.size, batch.heavy)
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

    def _attempt(self, write: Callable[[], T]) -> T:
        """Write, unless the lake is gone: writing would begin another one in its place.

        Raises
        ------
        BadInput
            The rows cannot be written; any other `ApmError` is about the lake.
        """
        self._health.check_places()
        try:
            return write()
        except LostManifest:
            self._health.check(closely=True)
            raise

    def _write(self, rows: Rows, documents: Sequence[str]) -> None:
        started = time.monotonic()
        staging.write_letters(self._lake, documents[0], rows.letters)
        snapshots.append(self._lake, rows.tables, documents=documents, source="apm receive")
        now = time.monotonic()
        self._metrics.wrote(
            rows={name: table.num_rows for name, table in rows.tables.items()},
            letters=len(rows.letters),
            seconds=now - started,
            lag_seconds=now - (self._since or started),
        )

    def _replay_first(self) -> None:
        left = self._left[0]
        segment = left.segment
        self._since = 0.0
        if not segment.path.exists():
            _log.critical("%s was removed before it was in parts; its requests are lost", segment)
        elif damaged := self._replay.replay(segment):
            _log.error(
                "%s is damaged in %d places; every other request in it is in the lake; restore "
                "the file from a backup, rename it to *%s and start the receiver again",
                segment.set_aside(),
                damaged,
                journal.SUFFIX,
            )
        else:
            age_s = max(time.time() - segment.path.stat().st_mtime, 0.0)
            self._kept.append((time.monotonic() + REMEMBERED_S - age_s, segment))
        del self._left[0]
        self._written(left.size, left.heavy)

    def _forget(self, now: float) -> None:
        gone = [segment for until, segment in self._kept if until <= now]
        self._kept = [(until, segment) for until, segment in self._kept if until > now]
        for segment in gone:
            try:
                segment.remove()
            except OSError as error:  # its rows are in parts; the next start removes it
                _log.warning("could not remove %s: %s", segment.path, error)


def _left_of(batch: Batch) -> list[_Left]:
    """Return the segments of a batch; the first one counts for all."""
    first, *others = batch.segments
    return [_Left(first, batch.size, batch.heavy), *map(_Left, others)]
