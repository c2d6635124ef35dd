"""Decode requests on their way into the same parts.

In:  requests of any signal and encoding.
Out: what became of each request; tables with the lake's columns, dead letters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import otlp
from apm_analytics.ingest.decode.records import Limits
from apm_analytics.ingest.decode.requests import Requests
from apm_analytics.ingest.decode.sink import DecodedRequests, Rejected, Sink
from apm_analytics.ingest.files import dead_letters
from apm_analytics.ingest.files.dead_letters import Letter
from apm_analytics.ingest.json import otlp as otlp_json
from apm_analytics.ingest.json import transcode
from apm_analytics.ingest.receiver.repeats import plain_kind, sent_as
from apm_analytics.ingest.redaction.requests import Redactor
from apm_analytics.ingest.units import Units
from apm_analytics.ingest.wire.arrays import encoded, encoded_schema
from apm_analytics.lake.journal.journal import Entry
from apm_analytics.serve.refusals import Reason, Refused

SIGNALS = ("traces", "metrics", "logs")
JSON = "+json"
# Decoded request by request; metrics come in groups.
_ALONE = ("traces", "logs")
_JSON_TOP = ("resourceSpans", "resourceMetrics", "resourceLogs")
# A partial success names this many rejected records; all of them are in the dead letters.
NAMED_REJECTIONS = 3


@dataclass(frozen=True)
class Outcome:
    """What became of one request that was taken: records put aside, and the first reasons."""

    rejected: int = 0
    message: str = ""


@dataclass(frozen=True)
class Taken:
    """A request that was taken: the outcome for its sender, the entry for the journal."""

    outcome: Outcome
    entry: Entry


@dataclass(frozen=True)
class Rows:
    """What a stage gives: one table a lake table, and the dead letters."""

    tables: dict[str, pa.Table]
    letters: list[Letter]


class Stage:
    """Requests that are on their way into the same parts; one thread at a time uses it.

    Spans and logs of all requests go into one set of buffers, so that they share dictionaries.
    Metrics are decoded group by group: whether a unit changed must be known before the answer.

    Parameters
    ----------
    expected : about how many bytes will come.
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
        self, entries: Sequence[Entry], redactor: Redactor | None = None
    ) -> list[Taken | Refused]:
        """Redact and decode entries, each by itself; one that is refused leaves no row.

        Parameters
        ----------
        redactor : left out where the entries are redacted already.

        Raises
        ------
        ApmError
            The manifest, which knows the units, cannot be used.
        """
        results: dict[int, Taken | Refused] = {}
        metrics: dict[str, list[int]] = {}
        # JSON that is journalled already is in the form in which it was taken.
        kept = [one if redactor is None else _as_protobuf(one) for one in entries]
        for place, entry in enumerate(kept):
            kind = plain_kind(entry.kind)
            try:
                if redactor is not None and kind in _ALONE:
                    kept[place], outcome = self._take_redacted(entry, redactor)
                    results[place] = Taken(outcome, kept[place])
                    continue
                if redactor is not None:
                    kept[place] = _kept(entry, redactor.redact(kind, entry.payload))
                if kind.startswith("metrics"):
                    metrics.setdefault(kind, []).append(place)
                    continue
                results[place] = Taken(self._take_one(kind, kept[place].payload), kept[place])
            except BadInput as error:
                results[place] = Refused(Reason.MALFORMED, str(error))
        for kind, places in metrics.items():
            taken = self._take_metrics(kind, [kept[place].payload for place in places])
            for place, result in zip(places, taken, strict=True):
                results[place] = (
                    Taken(result, kept[place]) if isinstance(result, Outcome) else result
                )
        return [results[place] for place in range(len(entries))]

    def finish(self) -> Rows:
        """Give everything; the stage is not used again."""
        tables = {name: _joined(name, several) for name, several in self._metrics.items()}
        letters = self._letters
        for requests in self._requests.values():
            decoded = requests.finish(in_order=True)
            tables.update(decoded.tables)
            letters += map(_letter, decoded.rejected)
        return Rows(tables, letters)

    def _take_redacted(self, entry: Entry, redactor: Redactor) -> tuple[Entry, Outcome]:
        signal = plain_kind(entry.kind)
        requests, sink = self._requests_of(signal)
        before = len(sink.rejected)
        left = requests.read_redacted(signal, entry.payload, redactor)
        return _kept(entry, left), _outcome(sink.rejected[before:])

    def _take_one(self, kind: str, payload: bytes) -> Outcome:
        signal = kind.removesuffix(JSON)
        requests, sink = self._requests_of(signal)
        before = len(sink.rejected)
        if signal == kind:
            requests.read(signal, payload)
        else:
            _read_json(signal, payload, requests, sink, self._limits)
        return _outcome(sink.rejected[before:])

    def _requests_of(self, signal: str) -> tuple[Requests, Sink]:
        sink = self._sinks.get(signal)
        if sink is None:
            sink = self._sinks[signal] = Sink()
            self._requests[signal] = Requests(sink, self._limits, None, self._expected)
        return self._requests[signal], sink

    def _take_metrics(self, kind: str, payloads: list[bytes]) -> list[Outcome | Refused]:
        decoded = _decode_metrics(kind, payloads, self._limits, {})
        refused = self._units.refused(decoded.tables)
        if refused:
            # Rare: read again, now that it is known which metrics to put aside.
            decoded = _decode_metrics(kind, payloads, self._limits, refused)
        for name, table in decoded.tables.items():
            self._metrics.setdefault(name, []).append(table)
        self._letters += map(_letter, decoded.rejected)
        rejected: dict[int, list[Rejected]] = {}
        for record in decoded.rejected:
            rejected.setdefault(record.document, []).append(record)
        return [
            Refused(Reason.MALFORMED, decoded.broken[number])
            if number in decoded.broken
            else _outcome(rejected.get(number, []))
            for number in range(len(payloads))
        ]


def _as_protobuf(entry: Entry) -> Entry:
    """Give JSON of the usual form as protobuf, with the fingerprint of what was sent."""
    signal, json, _ = plain_kind(entry.kind).partition(JSON)
    found = transcode.to_protobuf(entry.payload) if json else None
    if found is None or found[0] != signal:
        return entry
    return Entry(sent_as(signal, entry.payload), found[1])


def _kept(entry: Entry, left: bytes) -> Entry:
    """Give the entry of what redaction left; changed, it keeps the fingerprint of what was sent."""
    if left is entry.payload:
        return entry
    known = plain_kind(entry.kind) != entry.kind
    return Entry(entry.kind if known else sent_as(entry.kind, entry.payload), left)


def _decode_metrics(
    kind: str, payloads: list[bytes], limits: Limits, refused: Mapping[tuple[str, str, str], str]
) -> DecodedRequests:
    if not kind.endswith(JSON):
        return otlp.decode_requests(kind, payloads, limits, refused)
    sink = Sink(refused)
    requests = Requests(sink, limits, refused, sum(map(len, payloads)))
    broken: dict[int, str] = {}
    for number, payload in enumerate(payloads):
        sink.document = number
        try:
            _read_json(kind.removesuffix(JSON), payload, requests, sink, limits)
        except BadInput as error:
            broken[number] = str(error)
    decoded = requests.finish()
    return DecodedRequests(decoded.tables, decoded.rejected, decoded.warnings, broken)


def _read_json(signal: str, payload: bytes, requests: Requests, sink: Sink, limits: Limits) -> None:
    """Read stricter than importing does: no other signal, no damaged UTF-8, no Jaeger's JSON."""
    if requests.take_json(payload, signal):
        return
    before = len(sink.rejected)
    try:
        otlp_json.read_document(otlp_json.parse(payload), sink, limits, only=signal)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"no JSON: {error.msg} at byte {error.pos}") from error
    for record in sink.rejected[before:]:
        # Importing keeps such a document for a person; a sender can be told at once.
        if record.path in _JSON_TOP:
            del sink.rejected[before:]
            raise BadInput(f"{record.path}: {record.reason}")


def _joined(name: str, tables: list[pa.Table]) -> pa.Table:
    """Put tables of one lake table together; some came by the library, with plain texts."""
    if len(tables) == 1:
        return tables[0]
    wanted = encoded_schema(name)
    alike = [
        table if table.schema.types == wanted.types else encoded(name, table) for table in tables
    ]
    return pa.concat_tables(alike).unify_dictionaries().combine_chunks()


def _outcome(rejected: Sequence[Rejected]) -> Outcome:
    if not rejected:
        return Outcome()
    named = [f"{record.path}: {record.reason}" for record in rejected[:NAMED_REJECTIONS]]
    return Outcome(len(rejected), "; ".join(named))


def _letter(rejected: Rejected) -> Letter:
    return {
        "signal": rejected.signal,
        "path": rejected.path,
        "reason": rejected.reason,
        "record": rejected.record,
    }


def write_letters(lake: Path, document: str, letters: list[Letter]) -> None:
    """Keep the rejected records of one segment; a replay writes the same file again.

    Raises
    ------
    ApmError
        The disk refused.
    """
    dead_letters.write(lake, document.replace(":", "-"), letters)
