"""Know what keeps the receiver from accepting requests: its lake, its threads, its clock.

In:  the folder of the lake, looked at twice a second; the receiver's threads and clock.
Out: the present `Trouble`: for operators, for senders, for the metrics.
"""

import errno
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apm_analytics.foundation.errors import ApmError, NotFound
from apm_analytics.ingest.receiver.clock import Clock
from apm_analytics.lake import manifest
from apm_analytics.lake.manifest import LostManifest
from apm_analytics.serve import Reason, Refused

LOOK_S = 0.5
RETRY_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_log = logging.getLogger(__name__)


class Cause(Enum):
    """What is wrong, in words that reveal no paths; the names are the metric's labels."""

    LAKE_GONE = "the lake folder is gone"
    MANIFEST_GONE = "the lake's manifest is gone"
    MANIFEST_UNUSABLE = "the lake's manifest cannot be used"
    JOURNAL_GONE = "the journal folder is gone"
    THREAD_ENDED = "a thread of the receiver has ended"
    CLOCK = "the receiver's clock is doubted"


@dataclass(frozen=True)
class Trouble:
    """Why no request is accepted; `advice` is for operators."""

    cause: Cause
    advice: str

    def __str__(self) -> str:
        return f"{self.cause.value}: {self.advice}"

    def refusal(self) -> Refused:
        """Return the response to a request."""
        said = f"{self.cause.value}; nothing was acknowledged; send again later"
        return Refused(Reason.UNAVAILABLE, said, RETRY_S)


class Unfit(ApmError):
    """The lake cannot be used now; `trouble` says why."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


class Health:
    """Looks at the lake, the clock and the receiver's threads, in a thread of its own.

    Parameters
    ----------
    journal : returns the present folder of the journal.
    reopen : begins a new journal after its folder was removed or the lake replaced.
    """

    def __init__(
        self, lake: Path, *, journal: Callable[[], Path], reopen: Callable[[], None]
    ) -> None:
        self._lake = lake
        self._journal = journal
        self._reopen = reopen
        self._seen = False  # whether the manifest was ever usable
        self._suspect = True  # whether every page of the manifest must be checked
        self._looking = threading.RLock()
        self._stop = threading.Event()
        self._watched: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self.trouble: Trouble | None = None
        self.clock = Clock()
        self.trouble = self._lake_trouble()
        if self.trouble is None:
            self.clock = Clock(_last_commit_s(lake))
            self.trouble = self._clock_trouble()
        if self.trouble is not None:
            _log.error("requests are refused: %s", self.trouble)

    def start(self, watched: Sequence[threading.Thread]) -> None:
        """Start looking; `watched` threads must live until `stop`."""
        self._watched = list(watched)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; threads may end afterwards."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def has(self, cause: Cause) -> bool:
        """Return whether this is the present trouble."""
        return self.trouble is not None and self.trouble.cause is cause

    def check(self, *, closely: bool = False) -> None:
        """Look at the lake now.

        Parameters
        ----------
        closely : check every page of the manifest, because something has failed.

        Raises
        ------
        Unfit
            The lake cannot be used.
        """
        self._suspect |= closely
        trouble = self._lake_trouble()
        if trouble is not None:
            raise Unfit(trouble)

    def check_places(self) -> None:
        """Check that the lake, its manifest and its journal exist, which costs microseconds.

        Raises
        ------
        Unfit
            One of them does not.
        """
        trouble = self._missing()
        if trouble is not None:
            raise Unfit(trouble)

    def check_clock(self, times_ns: Callable[[], NDArray[np.int64]]) -> None:
        """Check the clock; while it is not confirmed, by the times of received records too.

        Parameters
        ----------
        times_ns : returns them; called once a second at most.

        Raises
        ------
        Unfit
            The clock is doubted.
        """
        if self.clock.probe_due():
            self.clock.hear(times_ns())
        trouble = self._clock_trouble()
        if trouble is not None:
            raise Unfit(trouble)

    def refused(self) -> Trouble | None:
        """Return why the next request is refused; requests that test the clock are not."""
        trouble = self.trouble
        if trouble is not None and trouble.cause is Cause.CLOCK and self.clock.probe_due():
            return None
        return trouble

    def refusal(self, error: ApmError) -> Refused:
        """Return the response to requests that the journal could not take."""
        trouble = error.trouble if isinstance(error, Unfit) else self._missing()
        if trouble is None and isinstance(error, LostManifest):
            trouble = self._lost(error)
        if trouble is not None:
            return trouble.refusal()
        cause = error.__cause__
        number = cause.errno if isinstance(cause, OSError) else None
        if number in _FULL:
            said = "the receiver's disk is full; nothing was acknowledged; free space there"
        elif number == errno.EROFS:
            said = "the receiver's disk is read-only; nothing was acknowledged; send again later"
        else:
            said = "the receiver's disk failed; nothing was acknowledged; send again later"
        return Refused(Reason.BUSY, said, RETRY_S)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                trouble = self._look()
            except Exception:
                _log.exception("the receiver's state could not be read")
                continue
            if trouble != self.trouble:
                if trouble is None:
                    _log.warning("requests are accepted again; before: %s", self.trouble)
                else:
                    _log.error("requests are refused: %s", trouble)
            self.trouble = trouble

    def _look(self) -> Trouble | None:
        for thread in self._watched:
            if not thread.is_alive() and not self._stop.is_set():
                return Trouble(Cause.THREAD_ENDED, f"{thread.name}; start the receiver again")
        trouble = self._lake_trouble()
        if trouble is not None and trouble.cause is Cause.JOURNAL_GONE:
            with suppress(ApmError):  # the trouble stays; the next look tries again
                self._reopen()
                trouble = self._lake_trouble()
        self.clock.look()
        return trouble or self._clock_trouble()

    def _clock_trouble(self) -> Trouble | None:
        doubt = self.clock.trouble()
        if not doubt:
            return None
        advice = f"{doubt}; set the clock, or wait until a sender's records agree with it"
        return Trouble(Cause.CLOCK, advice)

    def _lake_trouble(self) -> Trouble | None:
        with self._looking:
            if self._seen:
                missing = self._missing()
                if missing is not None:
                    return missing
            return self._manifest_trouble()

    def _missing(self) -> Trouble | None:
        lake = self._lake
        if not lake.is_dir():
            return Trouble(Cause.LAKE_GONE, f"{lake}; put it back, or start the receiver again")
        has_journal = (self._journal()).is_dir()
        if (lake / manifest.FILE_NAME).exists():
            return None if has_journal else Trouble(Cause.JOURNAL_GONE, str(self._journal()))
        if not has_journal:
            advice = f"{lake} is another, empty folder; put the lake back or mount its disk"
            return Trouble(Cause.LAKE_GONE, advice)
        advice = f"{lake / manifest.FILE_NAME}; put it back, or run `apm lake rebuild`"
        return Trouble(Cause.MANIFEST_GONE, advice)

    def _manifest_trouble(self) -> Trouble | None:
        try:
            with manifest.open_manifest(self._lake, create=not self._seen) as con:
                manifest.newest_snapshot(con)
                if self._suspect:
                    (found,) = con.execute("pragma quick_check(1)").fetchone()
                    if found != "ok":
                        return Trouble(Cause.MANIFEST_UNUSABLE, str(found))
        except NotFound as error:
            return Trouble(Cause.MANIFEST_GONE, str(error))
        except LostManifest as error:
            return self._lost(error)
        except (ApmError, OSError) as error:
            # The disk is full or the manifest is locked: whoever writes reports it.
            return None if self._seen else Trouble(Cause.MANIFEST_UNUSABLE, str(error))
        self._seen, self._suspect = True, False
        return None

    def _lost(self, error: LostManifest) -> Trouble:
        self._suspect = True
        there = (self._lake / manifest.FILE_NAME).exists()
        return Trouble(Cause.MANIFEST_UNUSABLE if there else Cause.MANIFEST_GONE, str(error))


def _last_commit_s(lake: Path) -> float | None:
    with suppress(ApmError), manifest.open_manifest(lake) as con:
        return manifest.last_commit_s(con)
    return None
