"""From a request's bytes to an acknowledgement: decode, journal, answer, in groups.

In:  requests from the endpoints.
Out: one future per request: its outcome once it is on the disk, or why it was refused.

One sync of the disk costs as much as decoding a thousand spans, so requests that arrive within
milliseconds share one. The next group is collected while the last one is being written.
"""

import asyncio
import logging
import queue
import threading
import time
from contextlib import suppress
from pathlib import Path

from apm_analytics.foundation.errors import ApmError, BadInput
from apm_analytics.ingest.decode.bounds import HEAVY_BYTES, UNLIMITED, Postponed, Spare, TooLarge
from apm_analytics.ingest.kinds import fingerprint, sent_fingerprint
from apm_analytics.ingest.receiver.health import RETRY_S, Health
from apm_analytics.ingest.receiver.metrics import Metrics
from apm_analytics.ingest.receiver.repeats import Repeats
from apm_analytics.ingest.receiver.writer import Batch, Writer
from apm_analytics.ingest.redaction.requests import Redactor
from apm_analytics.ingest.staging import Outcome, Stage, Taken, times
from apm_analytics.ingest.units import Units
from apm_analytics.lake.journal import Entry, Journal, journal
from apm_analytics.serve import Reason, Refused

# Batching window (s): the added latency is small and most syncs are saved.
GATHER_S = 0.004
MAX_GROUP_BYTES = 8 * 1024 * 1024
# Above this size (bytes), parts are written at once instead of after the next `FLUSH_S`.
FLUSH_BYTES = 16 * 1024 * 1024
MIN_STAGE_BYTES = 1024 * 1024
# Requests of one group whose times are compared with the clock while it is not confirmed.
MAX_PROBED = 4

_log = logging.getLogger(__name__)
_Answer = asyncio.Future[Outcome]
_Waiting = tuple[Entry, _Answer]


class Pipeline:
    """Accepts requests from an event loop.

    Parameters
    ----------
    lake : folder of the lake, created if missing.
    budget_bytes : most bytes accepted and not yet in parts; beyond it requests are refused as busy.
    redactor : applied before anything is written.

    Raises
    ------
    ApmError
        The journal in the lake cannot be opened or read.
    """

    def __init__(
        self,
        lake: Path,
        metrics: Metrics,
        *,
        budget_bytes: int,
        redactor: Redactor,
    ) -> None:
        self._lake = lake
        self._metrics = metrics
        self._budget = budget_bytes
        self._redactor = redactor
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._units = Units(lake)
        self._repeats = Repeats()
        self._unheard: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        self._held = self._heavy = 0
        # Guards _held, _heavy and _oldest, so that `submit` never waits for the disk.
        self._counting = threading.Lock()
        self._lock = threading.Lock()  # guards the stage and the journal; held during disk writes
        self._stage = Stage(self._units, MIN_STAGE_BYTES)
        self._staged: list[Entry] = []
        self._staged_bytes = self._staged_heavy = 0
        self._stage_complete = True
        self._staged_since: float | None = None
        self._oldest: float | None = None
        self._stopping = False
        self._journal = Journal(lake)
        self.health = Health(lake, journal=lambda: self._journal.folder, reopen=self._reopen)
        old = self._journal.adopt()
        for segment in old:
            for entry in journal.read(segment).entries:
                self._repeats.remember(sent_fingerprint(entry.kind, entry.payload, entry.stamp))
        self._writer = Writer(
            lake,
            metrics,
            self._units,
            self.health,
            old=old,
            take=self._take,
            written=self._release,
        )
        self._thread = threading.Thread(target=self._run, name="group commit", daemon=True)

    @property
    def held_bytes(self) -> int:
        return self._held

    @property
    def ready(self) -> bool:
        """Return whether nothing is in the way, see `hindrance`."""
        return not self.hindrance()

    def hindrance(self) -> str:
        """Return why the receiver is not ready, for operators; empty if it is."""
        if self._stopping:
            return "the receiver is stopping"
        if self.health.trouble is not None:
            return str(self.health.trouble)
        if not self._writer.healthy:
            return f"the lake cannot be written: {self._writer.failure}"
        return "" if self._writer.replayed else "the journal of an earlier receiver is replayed"

    def lag_seconds(self) -> float:
        """Return the age of the oldest request that is not in a part (s)."""
        oldest = self._oldest
        return time.monotonic() - oldest if oldest else 0.0

    def start(self) -> None:
        """Start replaying the segments of earlier receivers and accepting requests."""
        self._writer.start()
        self._thread.start()
        self.health.start([self._thread, self._writer.thread])

    def submit(self, kind: str, payload: bytes, stamp: bytes = b"") -> asyncio.Future[Outcome]:
        """Queue one request.

        Parameters
        ----------
        kind : traces, metrics or logs; with the suffix `+json` for OTLP JSON.
        stamp : what the sender's token adds to the request, see `ingest.stamps`.

        Raises
        ------
        Refused
            The receiver is stopping or in trouble, or its budget is used up.
        """
        if self._stopping:
            raise Refused(Reason.UNAVAILABLE, "the receiver is stopping; send again", RETRY_S)
        trouble = self.health.refused()
        if trouble is not None:
            raise trouble.refusal()
        with self._counting:
            if self._held and self._held + len(payload) > self._budget:
                raise Refused(
                    Reason.BUSY,
                    f"{self._held:,} bytes wait to be written, at most {self._budget:,} may; "
                    "send again shortly",
                    RETRY_S,
                )
            self._held += len(payload)
            if self._oldest is None:
                self._oldest = time.monotonic()
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._waiting.put((Entry(kind, payload, stamp), answer))
        return answer

    def unheard(self, entry: Entry, answer: asyncio.Future[Outcome]) -> None:
        """Record that a sender hung up before its response: if accepted, it will be retried."""
        if not answer.cancelled() and answer.exception() is None:
            self._unheard.put(entry)

    def stop(self) -> None:
        """Answer and write all queued requests, then stop."""
        self._stopping = True
        self.health.stop()
        self._waiting.put(None)
        self._thread.join()
        self._writer.stop()
        self._journal.close()

    def _run(self) -> None:
        going = True
        while going:
            group: list[_Waiting] = []
            going = self._gather(group)
            if group:
                self._commit(group)

    def _gather(self, group: list[_Waiting]) -> bool:
        """Collect a group; return False if it is the last one."""
        first = self._waiting.get()
        if first is None:
            return False
        group.append(first)
        size = len(first[0].payload)
        until = time.monotonic() + GATHER_S
        while size < MAX_GROUP_BYTES:
            try:
                left = until - time.monotonic()
                item = self._waiting.get(timeout=left) if left > 0 else self._waiting.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return False
            group.append(item)
            size += len(item[0].payload)
        return True

    def _commit(self, waiting: list[_Waiting]) -> None:
        started = time.monotonic()
        while not self._unheard.empty():
            entry = self._unheard.get()
            self._repeats.remember(fingerprint(entry.payload, entry.stamp))
        fresh: list[_Waiting] = []
        answers: list[tuple[_Waiting, Outcome | Refused]] = []
        released = 0
        for item in waiting:
            entry, answer = item
            if answer.done():  # the sender hung up before its request was accepted
                released += len(entry.payload)
            elif self._repeats.taken(entry.payload, entry.stamp):
                self._metrics.repeated.inc()
                released += len(entry.payload)
                answers.append((item, Outcome()))
            else:
                fresh.append(item)
        try:
            results = self._take_in([entry for entry, _ in fresh])
        except ApmError as error:
            self._metrics.journal_failures.inc()
            _log.error("%d requests were refused: %s", len(fresh), error)
            results = [self.health.refusal(error)] * len(fresh)
        except Exception:
            # A bug must not end this thread: no request would be answered again.
            _log.exception("a group of %d requests could not be taken", len(fresh))
            failed = Refused(Reason.BUSY, "the receiver failed inside; send again", RETRY_S)
            results = [failed] * len(fresh)
        for (entry, answer), result in zip(fresh, results, strict=True):
            answers.append(((entry, answer), result))
            if isinstance(result, Refused):
                released += len(entry.payload)
                continue
            self._metrics.requests.labels(entry.kind).inc()
            self._metrics.accepted_bytes.labels(entry.kind).inc(len(entry.payload))
            if answer.done():  # the sender hung up; the next group may hold a retry
                self._repeats.remember(fingerprint(entry.payload, entry.stamp))
        if released:
            self._release(released)
        self._tell(answers)
        self._metrics.group_requests.observe(len(waiting))
        self._metrics.commit_seconds.observe(time.monotonic() - started)

    def _tell(self, answers: list[tuple[_Waiting, Outcome | Refused]]) -> None:
        """Answer a group in one call: each wake-up of the event loop costs a system call."""
        if answers:
            (_, first), _ = answers[0]
            with suppress(RuntimeError):  # the loop has ended
                first.get_loop().call_soon_threadsafe(self._answer, answers)

    def _answer(self, answers: list[tuple[_Waiting, Outcome | Refused]]) -> None:
        for (entry, answer), result in answers:
            if isinstance(result, Refused):
                if not answer.done():
                    answer.set_exception(result)
            elif answer.done():
                self._unheard.put(entry)
            else:
                answer.set_result(result)

    def _take_in(self, entries: list[Entry]) -> list[Outcome | Refused]:
        """Redact and decode entries, and write the valid ones to the journal."""
        self.health.check_places()
        self.health.check_clock(lambda: times(entries[:MAX_PROBED]))
        with self._lock:
            try:
                results = self._stage_all(entries)
                taken = [result for result in results if isinstance(result, Taken)]
                if taken:
                    self._journal.append([result.entry for result in taken])
            except Exception:
                # The stage may hold rows that were not acknowledged.
                self._rebuild([])
                raise
            heavy = sum(result.heavy for result in taken)
            self._staged += [result.entry for result in taken]
            self._staged_bytes += sum(
                len(sent.payload)
                for sent, result in zip(entries, results, strict=True)
                if isinstance(result, Taken)
            )
            self._staged_heavy += heavy
            if taken:
                self._staged_since = self._staged_since or time.monotonic()
        with self._counting:
            self._heavy += heavy
        if self._staged_bytes + self._staged_heavy > FLUSH_BYTES:
            self._writer.ask()
        return [
            result.outcome if isinstance(result, Taken) else _refusal(result) for result in results
        ]

    def _stage_all(self, entries: list[Entry]) -> list[Taken | BadInput]:
        """Stage entries; a group that fails is halved until the request is found that does."""
        spare = Spare(HEAVY_BYTES - self._heavy)
        results: list[Taken | BadInput] = []
        groups = [entries]
        while groups:
            group = groups.pop()
            try:
                results += self._stage.take(group, self._redactor, spare)
            except ApmError:
                raise
            except Exception as error:
                _log.exception("a group of %d requests could not be decoded", len(group))
                self._rebuild([result.entry for result in results if isinstance(result, Taken)])
                if len(group) > 1:
                    half = len(group) // 2
                    groups += [group[half:], group[:half]]
                else:
                    results.append(BadInput(f"this request cannot be decoded: {error!r}"))
        return results

    def _reopen(self) -> None:
        """Continue in a new journal; what is staged is written to it again."""
        with self._lock:
            fresh = Journal(self._lake)
            if self._staged:
                fresh.append(self._staged)
            self._journal.abandon()
            self._journal = fresh
            self._units.forget()

    def _rebuild(self, more: list[Entry]) -> None:
        """Stage anew what was acknowledged, and `more`; if that fails, the journal has it."""
        self._stage = Stage(self._units, max(self._staged_bytes, MIN_STAGE_BYTES))
        try:
            self._stage.take([*self._staged, *more], spare=Spare(UNLIMITED))
        except Exception:
            _log.exception("the staged requests will be read from the journal")
            self._stage_complete = False

    def _take(self) -> Batch | None:
        with self._lock:
            segments = self._journal.rotate()
            if not segments:
                return None
            assert self._staged_since is not None  # it is set with the first entry
            batch = Batch(
                self._stage if self._stage_complete else None,
                segments,
                self._staged_bytes,
                self._staged_heavy,
                self._staged_since,
            )
            expected = max(self._staged_bytes, MIN_STAGE_BYTES)
            self._stage = Stage(self._units, expected)
            self._stage_complete = True
            self._staged, self._staged_bytes, self._staged_heavy = [], 0, 0
            self._staged_since = None
            return batch

    def _release(self, size: int, heavy: int = 0) -> None:
        with self._counting:
            self._held -= size
            self._heavy -= heavy
            self._oldest = self._staged_since if self._held else None


def _refusal(error: BadInput) -> Refused:
    if isinstance(error, Postponed):
        return Refused(Reason.BUSY, str(error), RETRY_S)
    too_large = isinstance(error, TooLarge)
    return Refused(Reason.TOO_LARGE if too_large else Reason.MALFORMED, str(error))
