"""Write journalled requests into parts: those of earlier receivers, and of a batch that failed.

In:  a segment of the journal.
Out: parts and dead letters, each request in one of them once.

Requests are written in groups. A group that fails is halved until the request is found that cannot
be written: it goes to the dead letters with the reason, the others into parts. Where the process
ended while it wrote a group, the next one writes that group one request at a time.
"""

import base64
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from apm_analytics.foundation.errors import ApmError, BadInput
from apm_analytics.ingest import stamps
from apm_analytics.ingest.decode.bounds import Postponed
from apm_analytics.ingest.files.dead_letters import Letter
from apm_analytics.ingest.kinds import plain_kind
from apm_analytics.ingest.staging import Rows, Stage
from apm_analytics.ingest.units import Units
from apm_analytics.lake import snapshots
from apm_analytics.lake.journal import Entry, Segment, journal

GROUP_REQUESTS = 256
GROUP_BYTES = 8 * 1024 * 1024
# After so many processes in a row ended while they wrote a request alone, it goes to the dead
# letters. Kills for another reason meet the same request a few times in a row at most.
MAX_DEATHS = 10
MARK = ".replaying"

_log = logging.getLogger(__name__)
Write = Callable[[Rows, Sequence[str]], None]
T = TypeVar("T")


class Attempt(Protocol):
    """Calls a function; `BadInput` from it is about the rows, any other `ApmError` is not."""

    def __call__(self, write: Callable[[], T], /) -> T: ...


class _Request(NamedTuple):
    place: int  # its first byte in the segment, also where entries before it are damaged
    entry: Entry


class Replay:
    """Writes segments.

    Parameters
    ----------
    attempt : calls what writes to the lake.
    write : writes rows as one snapshot of the documents; raises `ApmError` if the lake refuses.
    set_aside : called for each request that goes to the dead letters as a whole.
    """

    def __init__(
        self,
        lake: Path,
        units: Units,
        *,
        attempt: Attempt,
        write: Write,
        set_aside: Callable[[], object],
    ) -> None:
        self._lake = lake
        self._units = units
        self._attempt = attempt
        self._write = write
        self._set_aside = set_aside

    def replay(self, segment: Segment) -> int:
        """Write what the lake does not know yet; return the number of damaged places in the file.

        Raises
        ------
        ApmError
            The disk or the manifest failed; the call may be repeated.
        """
        content = journal.read(segment)
        if content.entries and not snapshots.known_documents(self._lake, [segment.document]):
            self._replay(segment, content)
            if not content.damaged:
                self._write(Rows({}, []), [segment.document])
            _log.warning("replayed %d requests of %s", len(content.entries), segment.path.name)
        if content.torn_bytes:
            _log.warning(
                "%s ends in %d bytes of a write that was cut short and never acknowledged",
                segment.path.name,
                content.torn_bytes,
            )
        return content.damaged

    def _replay(self, segment: Segment, content: journal.Content) -> None:
        requests = list(map(_Request, content.places, content.entries))
        names = [_name(segment, request) for request in requests]
        known = snapshots.known_documents(self._lake, names)
        left = [request for request, name in zip(requests, names, strict=True) if name not in known]
        mark = segment.path.with_suffix(MARK)
        first, last, deaths = _read_mark(mark)
        for group in _groups(left, range(first, last + 1)):
            was_alone = first == last == group[0].place
            died = deaths + 1 if was_alone else 0
            if died >= MAX_DEATHS:
                reason = f"{died} receivers ended while they wrote this request alone"
                self._write_letter(segment, group[0], reason)
                continue
            _write_mark(mark, group[0].place, group[-1].place, died)
            self._write_group(segment, group)
        mark.unlink(missing_ok=True)

    def _write_group(self, segment: Segment, group: list[_Request]) -> None:
        failure = ""
        while group and not failure:
            try:
                group = self._attempt(partial(self._write_once, segment, group))
            except Exception as error:
                if isinstance(error, ApmError) and not isinstance(error, BadInput):
                    raise
                failure = f"{type(error).__name__}: {error}"
                _log.warning("a group of %d requests could not be written: %s", len(group), failure)
        if failure and len(group) == 1:
            self._write_letter(segment, group[0], failure)
        elif failure:
            half = len(group) // 2
            self._write_group(segment, group[:half])
            self._write_group(segment, group[half:])

    def _write_once(self, segment: Segment, group: list[_Request]) -> list[_Request]:
        """Write a group; return those of its requests for which memory was left to others."""
        stage = Stage(self._units, sum(len(request.entry.payload) for request in group))
        results = stage.take([request.entry for request in group])
        rows = stage.finish()
        postponed, names = [], []
        for request, result in zip(group, results, strict=True):
            if isinstance(result, Postponed):
                postponed.append(request)
                continue
            names.append(_name(segment, request))
            if isinstance(result, BadInput):
                rows.letters.append(self._letter(segment, request, str(result)))
        self._write(rows, names)
        return postponed

    def _write_letter(self, segment: Segment, request: _Request, reason: str) -> None:
        letter = self._letter(segment, request, reason)
        self._attempt(partial(self._write, Rows({}, [letter]), [_name(segment, request)]))

    def _letter(self, segment: Segment, request: _Request, reason: str) -> Letter:
        self._set_aside()
        name = _name(segment, request)
        _log.error("%s goes to the dead letters: %s", name, reason)
        entry = request.entry
        return {
            "signal": plain_kind(entry.kind),
            "path": name,
            "reason": reason,
            **({"stamp": dict(stamps.pairs(entry.stamp))} if entry.stamp else {}),
            # All of it: no sender has it any more.
            "document_base64": base64.b64encode(entry.payload).decode(),
        }


def _name(segment: Segment, request: _Request) -> str:
    """Return the name of one request of a segment, as a document of the lake."""
    return f"{segment.document}#{request.place}"


def _groups(requests: list[_Request], alone: range) -> Iterator[list[_Request]]:
    """Yield requests in groups; those with a place in `alone` come one by one."""
    group: list[_Request] = []
    size = 0
    for request in requests:
        single = request.place in alone
        size += len(request.entry.payload)
        if group and (single or size > GROUP_BYTES or len(group) >= GROUP_REQUESTS):
            yield group
            group, size = [], len(request.entry.payload)
        group.append(request)
        if single:
            yield group
            group, size = [], 0
    if group:
        yield group


def _write_mark(mark: Path, first: int, last: int, deaths: int) -> None:
    try:
        mark.write_text(f"{first} {last} {deaths}")
    except OSError as error:
        raise ApmError(f"could not use the journal {mark.parent}: {error}") from error


def _read_mark(mark: Path) -> tuple[int, int, int]:
    """Return the group that a process ended over: first and last place, and deaths alone."""
    try:
        first, last, deaths = map(int, mark.read_bytes().split())
    except (OSError, ValueError):
        return 0, -1, 0
    return first, last, deaths
