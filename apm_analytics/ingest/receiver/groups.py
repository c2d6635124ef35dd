"""Decode a group of requests that arrived together.

In:  requests of any signal and encoding.
Out: tables with the lake's columns, dead letters, and what became of each request.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from apm_analytics.errors import BadInput
from apm_analytics.ingest import dead_letters, otlp
from apm_analytics.ingest.dead_letters import Letter
from apm_analytics.ingest.receiver.refusals import Reason, Refused
from apm_analytics.ingest.records import Limits
from apm_analytics.ingest.sink import DecodedRequests, Rejected, Sink
from apm_analytics.lake import snapshots
from apm_analytics.lake.journal import Entry
from apm_analytics.lake.schema import METRIC_TABLES

SIGNALS = ("traces", "metrics", "logs")
JSON = "+json"
_JSON_TOP = ("resourceSpans", "resourceMetrics", "resourceLogs")
# A partial success names this many rejected records; all of them are in the dead letters.
NAMED_REJECTIONS = 3


@dataclass(frozen=True)
class Outcome:
    """What became of one request that was taken: records put aside, and the first reasons."""

    rejected: int = 0
    message: str = ""


@dataclass
class Group:
    """What came of decoding: `results` has one outcome or refusal a request, in order."""

    tables: dict[str, list[pa.Table]] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)
    results: list[Outcome | Refused] = field(default_factory=list)

    def add_to(self, other: "Group") -> None:
        """Put the rows and letters behind those of another group."""
        for name, tables in self.tables.items():
            other.tables.setdefault(name, []).extend(tables)
        other.letters.extend(self.letters)


class Units:
    """The unit that each metric began with; the manifest is asked once for each."""

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._known: dict[tuple[str, str], str] = {}

    def refused(self, tables: dict[str, pa.Table]) -> dict[tuple[str, str, str], str]:
        """Find the metrics whose unit is not the one they began with, and say so for each."""
        seen = _units(tables)
        fresh = [found for found in seen if found[:2] not in self._known]
        if fresh:
            self._known.update(snapshots.check_units(self._lake, fresh))
        return {
            (service, metric, unit): (
                f"metric {metric} of {service} changed its unit from "
                f"{self._known[service, metric]!r} to {unit!r}; "
                "give the metric a new name, or convert the values before sending"
            )
            for service, metric, unit in seen
            if self._known[service, metric] != unit
        }


def decode(requests: Sequence[Entry], units: Units) -> Group:
    """Decode requests together; each gets its own outcome.

    Raises
    ------
    ApmError
        The manifest, which knows the units, cannot be used.
    """
    group = Group(results=[Outcome()] * len(requests))
    limits = Limits.around_now()
    by_kind: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        by_kind.setdefault(request.kind, []).append(place)
    for kind, places in by_kind.items():
        payloads = [requests[place].payload for place in places]
        decoded = _decode_kind(kind, payloads, limits, {})
        refused = units.refused(decoded.tables)
        if refused:
            # Rare: read again, now that it is known which metrics to put aside.
            decoded = _decode_kind(kind, payloads, limits, refused)
        for name, table in decoded.tables.items():
            group.tables.setdefault(name, []).append(table)
        group.letters.extend(map(_letter, decoded.rejected))
        for number, place in enumerate(places):
            if number in decoded.broken:
                group.results[place] = Refused(Reason.MALFORMED, decoded.broken[number])
        for number, outcome in _partial(decoded.rejected).items():
            group.results[places[number]] = outcome
    return group


def _decode_kind(
    kind: str, payloads: list[bytes], limits: Limits, refused: dict[tuple[str, str, str], str]
) -> DecodedRequests:
    signal = kind.removesuffix(JSON)
    if signal == kind:
        return otlp.decode_requests(signal, payloads, limits, refused)
    sink = Sink(refused)
    broken: dict[int, str] = {}
    for number, payload in enumerate(payloads):
        sink.document = number
        try:
            otlp.read_json(payload, sink, limits)
        except BadInput as error:
            broken[number] = str(error)
    decoded = sink.finish()
    rejected = []
    for record in decoded.rejected:
        # Importing keeps such a document for a person; a sender can be told at once.
        if record.path in _JSON_TOP:
            broken[record.document] = f"{record.path}: {record.reason}"
        else:
            rejected.append(record)
    return DecodedRequests(decoded.tables, rejected, decoded.warnings, broken)


def _partial(rejected: Sequence[Rejected]) -> dict[int, Outcome]:
    counts = Counter(record.document for record in rejected)
    named: dict[int, list[str]] = {}
    for record in rejected:
        reasons = named.setdefault(record.document, [])
        if len(reasons) < NAMED_REJECTIONS:
            reasons.append(f"{record.path}: {record.reason}")
    return {number: Outcome(count, "; ".join(named[number])) for number, count in counts.items()}


def _letter(rejected: Rejected) -> Letter:
    return {
        "signal": rejected.signal,
        "path": rejected.path,
        "reason": rejected.reason,
        "record": rejected.record,
    }


def _units(tables: dict[str, pa.Table]) -> list[tuple[str, str, str]]:
    columns = ["service_name", "name", "unit"]
    seen: list[tuple[str, str, str]] = []
    for table_name in METRIC_TABLES:
        if table_name in tables:
            groups = tables[table_name].select(columns).group_by(columns, use_threads=False)
            rows = groups.aggregate([]).to_pylist()
            seen += [(row["service_name"], row["name"], row["unit"]) for row in rows]
    return seen


def write_letters(lake: Path, document: str, letters: list[Letter]) -> None:
    """Keep the rejected records of one segment; a replay writes the same file again.

    Raises
    ------
    ApmError
        The disk refused.
    """
    dead_letters.write(lake, document.replace(":", "-"), letters)
