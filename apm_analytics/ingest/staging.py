"""Redact and decode requests that will become the same parts.

In:  requests of any signal and encoding.
Out: the outcome of each request; tables with the lake's columns, and dead letters.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest import stamps
from apm_analytics.ingest.decode.bounds import Bound, Spare
from apm_analytics.ingest.decode.records import INT64_END, Limits
from apm_analytics.ingest.decode.requests import Requests
from apm_analytics.ingest.decode.sink import Decoded, Rejected, Sink
from apm_analytics.ingest.files import dead_letters
from apm_analytics.ingest.files.dead_letters import Letter
from apm_analytics.ingest.json import otlp as otlp_json
from apm_analytics.ingest.json import transcode
from apm_analytics.ingest.kinds import plain_kind, sent_as
from apm_analytics.ingest.redaction.requests import Redactor
from apm_analytics.ingest.units import Units
from apm_analytics.lake.journal import Entry

SIGNALS = ("traces", "metrics", "logs")
JSON = "+json"
# Decoded request by request; metrics come in groups.
_ALONE = ("traces", "logs")
_JSON_TOP = ("resourceSpans", "resourceMetrics", "resourceLogs")
# A partial success names this many rejected records; all of them are in the dead letters.
NAMED_REJECTIONS = 3


@dataclass(frozen=True)
class Outcome:
    """The outcome of an accepted request: number of rejected records, and the first reasons."""

    rejected: int = 0
    message: str = ""


@dataclass(frozen=True)
class Taken:
    """An accepted request: the outcome for its sender, the entry for the journal.

    `heavy` is what it takes of `bounds.HEAVY_BYTES` until it is in a part.
    """

    outcome: Outcome
    entry: Entry
    heavy: int


@dataclass(frozen=True)
class Rows:
    """The result of a stage: one table per lake table, and the dead letters."""

    tables: dict[str, pa.Table]
    letters: list[Letter]


class Stage:
    """Requests that will become the same parts; used by one thread at a time.

    After an error other than `BadInput` the stage is not usable.

    Spans and logs of all requests go into one set of buffers, so that they share dictionaries.
    Metrics are decoded per group of requests: whether a unit changed must be known before the
    response.

    Parameters
    ----------
    expected : expected size of all requests together (bytes).
    """

    def __init__(self, units: Units, expected: int) -> None:
        self._units = units
        self._expected = expected
        self._limits = Limits.around_now()
        self._sinks: dict[str, Sink] = {}
        self._requests: dict[str, Requests] = {}
        self._metrics: dict[str, list[pa.Table]] = {}
        self._letters: list[Letter] = []

    def take(
        self,
        entries: Sequence[Entry],
        redactor: Redactor | None = None,
        spare: Spare | None = None,
    ) -> list[Taken | BadInput]:
        """Redact and decode entries one by one; a refused entry leaves no rows.

        Parameters
        ----------
        redactor : None if the entries are already redacted.
        spare : memory for heavy requests; the default has room for one of any kind.

        Returns
        -------
        One result per entry, in order: `Taken`, or a `BadInput` that says why it was refused;
        `bounds.TooLarge` or `bounds.Postponed` if it would take too much memory.

        Raises
        ------
        ApmError
            The manifest, which holds the units, cannot be read.
        """
        if not self._requests and not self._metrics:
            # The stage of an idle receiver may be days old when its first entry comes.
            self._limits = Limits.around_now()
        results: dict[int, Taken | BadInput] = {}
        metrics: dict[str, list[int]] = {}
        # Journalled JSON already has the form in which it was accepted.
        kept = [one if redactor is None else _as_protobuf(one) for one in entries]
        spare = spare or Spare()
        bounds = [Bound(len(one.payload), spare) for one in entries]
        for place, entry in enumerate(kept):
            kind, bound = plain_kind(entry.kind), bounds[place]
            try:
                if redactor is not None and kind in _ALONE:
                    kept[place], outcome = self._take_redacted(entry, redactor, bound)
                    results[place] = Taken(outcome, kept[place], bound.heavy)
                    continue
                if redactor is not None:
                    left = redactor.redact(kind, entry.payload, bound=bound)
                    kept[place] = _kept(entry, left)
                if kind.startswith("metrics"):
                    metrics.setdefault(kind, []).append(place)
                    continue
                outcome = self._take_one(kind, kept[place], bound)
                results[place] = Taken(outcome, kept[place], bound.heavy)
            except BadInput as error:
                results[place] = error
        for kind, places in metrics.items():
            requests = [(kept[place], bounds[place]) for place in places]
            for place, result in zip(places, self._take_metrics(kind, requests), strict=True):
                results[place] = (
                    Taken(result, kept[place], bounds[place].heavy)
                    if isinstance(result, Outcome)
                    else result
                )
        return [results[place] for place in range(len(entries))]

    def finish(self) -> Rows:
        """Return all tables and dead letters; the stage must not be used afterwards."""
        tables = {name: _joined(several) for name, several in self._metrics.items()}
        letters = self._letters
        for requests in self._requests.values():
            decoded = requests.finish(in_order=True)
            tables.update(decoded.tables)
            letters += map(dead_letters.of_record, decoded.rejected)
        return Rows(tables, letters)

    def _take_redacted(
        self, entry: Entry, redactor: Redactor, bound: Bound
    ) -> tuple[Entry, Outcome]:
        signal = plain_kind(entry.kind)
        requests, sink = self._requests_of(signal, entry)
        before = sink.begin(bound)
        try:
            left = requests.read_redacted(signal, entry.payload, redactor)
        except BadInput:
            sink.roll_back()
            raise
        return _kept(entry, left), _outcome(sink.rejected[before:])

    def _take_one(self, kind: str, entry: Entry, bound: Bound) -> Outcome:
        requests, sink = self._requests_of(kind.removesuffix(JSON), entry)
        before = sink.begin(bound)
        _read(kind, entry.payload, requests, sink, self._limits)
        return _outcome(sink.rejected[before:])

    def _requests_of(self, signal: str, entry: Entry) -> tuple[Requests, Sink]:
        """Return what reads a signal, set to the stamp of the entry that is read next."""
        sink = self._sinks.get(signal)
        if sink is None:
            sink = self._sinks[signal] = Sink()
            self._requests[signal] = Requests(sink, self._limits, None, self._expected)
        sink.stamp = stamps.pairs(entry.stamp)
        return self._requests[signal], sink

    def _take_metrics(
        self, kind: str, entries: list[tuple[Entry, Bound]]
    ) -> list[Outcome | BadInput]:
        decoded, broken = _decode_metrics(kind, entries, self._limits, {})
        refused = self._units.refused(decoded.tables)
        if refused:
            # Rare: decode again, now that the metrics to reject are known.
            decoded, broken = _decode_metrics(kind, entries, self._limits, refused)
        for name, table in decoded.tables.items():
            self._metrics.setdefault(name, []).append(table)
        self._letters += map(dead_letters.of_record, decoded.rejected)
        rejected: dict[int, list[Rejected]] = {}
        for record in decoded.rejected:
            rejected.setdefault(record.document, []).append(record)
        return [
            broken.get(number) or _outcome(rejected.get(number, []))
            for number in range(len(entries))
        ]


def times(entries: Sequence[Entry]) -> NDArray[np.int64]:
    """Return the times of all records of some requests, also of those that would be rejected.

    Returns
    -------
    int array of shape (n_records,), in nanoseconds since 1970; of requests that cannot be read,
    nothing.
    """
    limits = Limits(0, INT64_END - 1)
    sink = Sink()
    requests = Requests(sink, limits, None, sum(len(entry.payload) for entry in entries))
    for entry in entries:
        sink.begin(Bound(len(entry.payload), Spare()))
        with suppress(BadInput):
            _read(plain_kind(entry.kind), entry.payload, requests, sink, limits)
    tables = requests.finish().tables.values()
    found = [table["time"].cast(pa.int64()).to_numpy() for table in tables]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _as_protobuf(entry: Entry) -> Entry:
    """Convert JSON of the usual form to protobuf, keeping the fingerprint of the sent bytes."""
    signal, json, _ = plain_kind(entry.kind).partition(JSON)
    transcoded = transcode.to_protobuf(entry.payload) if json else None
    if transcoded is None or transcoded[0] != signal:
        return entry
    return replace(entry, kind=sent_as(signal, entry.payload, entry.stamp), payload=transcoded[1])


def _kept(entry: Entry, left: bytes) -> Entry:
    """Return the redacted entry; if changed, its kind keeps the fingerprint of the sent bytes."""
    if left is entry.payload:
        return entry
    known = plain_kind(entry.kind) != entry.kind
    kind = entry.kind if known else sent_as(entry.kind, entry.payload, entry.stamp)
    return replace(entry, kind=kind, payload=left)


def _decode_metrics(
    kind: str,
    entries: list[tuple[Entry, Bound]],
    limits: Limits,
    refused: Mapping[tuple[str, str, str], str],
) -> tuple[Decoded, dict[int, BadInput]]:
    """Decode requests; return the tables of those that could be, and the errors of the others."""
    sink = Sink(refused)
    requests = Requests(sink, limits, refused, sum(len(entry.payload) for entry, _ in entries))
    broken: dict[int, BadInput] = {}
    for number, (entry, bound) in enumerate(entries):
        sink.document = number
        sink.stamp = stamps.pairs(entry.stamp)
        sink.begin(bound)
        try:
            _read(kind, entry.payload, requests, sink, limits)
        except BadInput as error:
            broken[number] = error
    return requests.finish(), broken


def _read(kind: str, payload: bytes, requests: Requests, sink: Sink, limits: Limits) -> None:
    """Read one request that the sink has begun; one that is refused leaves no rows."""
    signal = kind.removesuffix(JSON)
    try:
        if signal == kind:
            requests.read(signal, payload)
        else:
            _read_json(signal, payload, requests, sink, limits)
    except BadInput:
        sink.roll_back()
        raise


def _read_json(signal: str, payload: bytes, requests: Requests, sink: Sink, limits: Limits) -> None:
    """Read JSON more strictly than the importer: no other signal, invalid UTF-8 or Jaeger JSON."""
    if requests.take_json(payload, signal):
        return
    if sink.bound is not None:
        sink.bound.set_json(payload)
    before = len(sink.rejected)
    try:
        otlp_json.read_document(otlp_json.parse(payload), sink, limits, only=signal)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"no JSON: {error.msg} at byte {error.pos}") from error
    for record in sink.rejected[before:]:
        # The importer keeps such a document in the dead letters; a sender gets the error directly.
        if record.path in _JSON_TOP:
            raise BadInput(f"{record.path}: {record.reason}")


def _joined(tables: list[pa.Table]) -> pa.Table:
    """Concatenate tables of one lake table."""
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _outcome(rejected: Sequence[Rejected]) -> Outcome:
    if not rejected:
        return Outcome()
    named = [f"{record.path}: {record.reason}" for record in rejected[:NAMED_REJECTIONS]]
    return Outcome(len(rejected), "; ".join(named))


def write_letters(lake: Path, document: str, letters: list[Letter]) -> None:
    """Write the rejected records of one segment; a replay writes the same file again.

    Raises
    ------
    ApmError
        The disk refused.
    """
    dead_letters.write(lake, document.replace(":", "-"), letters)
