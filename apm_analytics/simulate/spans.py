"""Write the spans of a recording, one file per day.

In:  `Timeline`, `Fleet`, an approximate number of spans.
Out: OTLP trace files; counts in `Observed` (for metrics); the spans that leave a log record.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from apm_analytics.simulate import catalog
from apm_analytics.simulate.calls import FAILED_STATUS, SLOTS, Call
from apm_analytics.simulate.fields import SCHEMA_URL, SCOPE_VERSION, add_attributes
from apm_analytics.simulate.fleet import Fleet
from apm_analytics.simulate.observed import Observed
from apm_analytics.simulate.timeline import (
    DAY_NS,
    SPANS,
    WINDOW_NS,
    WINDOWS_PER_DAY,
    Flags,
    Floats,
    Ints,
    Timeline,
)
from apm_analytics.simulate.visits import Scene, Visit, walk
from apm_analytics.simulate.wire import (
    Bytes,
    DelimitedFile,
    Template,
    Words,
    digits,
    grouped,
    hex_text,
    mixed,
    prefixed,
    sentinel,
    with_sentinels,
    word_bytes,
)

MAX_REQUEST = 1_800_000  # bytes
BLOCK_NS = DAY_NS // 24  # time range of a request, at most
SPANS_FIELD = 2  # of ScopeSpans
SAMPLED, KNOWN, REMOTE = 0x1, 0x100, 0x200  # span flags
TRACE_SALT, TRACE_SALT_2, SPAN_SALT, USER_SALT, SESSION_SALT, CART_SALT, STAGE_SALT = range(1, 8)
IDS = {"trace": 16, "span": 8, "parent": 8, "start": 8, "end": 8}
LINK_IDS = {"link_trace": 16, "link_span": 8}
WIDTHS = {**IDS, **LINK_IDS, **SLOTS}
OK, OWN_FAILURE, PASSED_ON = range(3)
KINDS = {
    "internal": Span.SPAN_KIND_INTERNAL,
    "server": Span.SPAN_KIND_SERVER,
    "client": Span.SPAN_KIND_CLIENT,
    "producer": Span.SPAN_KIND_PRODUCER,
    "consumer": Span.SPAN_KIND_CONSUMER,
}
Resolve = Callable[[str], Bytes]


@dataclass(frozen=True)
class Noteworthy:
    """Spans that leave a log record: all failures, or all successes, of one call on one day."""

    call: Call
    failed: bool
    times: Ints
    trace_ids: Bytes
    span_ids: Bytes
    resources: Ints


class SpanWriter:
    """Writes spans from templates, with the demand scaled to the requested number of spans."""

    def __init__(self, timeline: Timeline, fleet: Fleet, spans: int) -> None:
        self._timeline = timeline
        self._fleet = fleet
        expected = sum(weight * expected_spans(call) for weight, call in catalog.JOURNEYS)
        # Requests per window of a journey of weight 1 at the mean demand.
        self._unit = spans / expected / timeline.windows
        # Number of visits begun before each window.
        self._begun: Floats = np.concatenate(
            [[0.0], np.cumsum(timeline.demand * self._unit * catalog.VISITS)]
        )
        scopes = sorted({call.scope for _, journey in catalog.JOURNEYS for call in calls(journey)})
        self._scopes = {scope: place for place, scope in enumerate(scopes)}
        self._encoded_scopes = [
            InstrumentationScope(name=scope, version=SCOPE_VERSION).SerializeToString()
            for scope in scopes
        ]
        self._templates: dict[tuple[int, int, int], Template] = {}

    def write_day(self, day: int, path: Path, observed: Observed) -> tuple[int, list[Noteworthy]]:
        """Write the spans of requests that begin on a day; return their number and the events."""
        rng = self._timeline.random(SPANS, day)
        rows: list[bytes] = []
        times: list[Ints] = []
        groups: list[Ints] = []
        noteworthy: list[Noteworthy] = []
        next_id = (day + 1) << 40
        for journey, (weight, call) in enumerate(catalog.JOURNEYS):
            starts = self._arrivals(day, weight, rng)
            visits = walk(call, starts.size, self._scene(starts), rng)
            requests = _Requests(starts, visits, next_id, rng, self._visit_number)
            next_id += starts.size * len(visits)
            requests.drop_after(self._timeline.end_ns)
            for place, visit in enumerate(visits):
                begins = starts + visit.start
                instance = requests.instance(visit.call.service)
                resources = np.where(
                    instance == 0,
                    self._fleet.serving(visit.call.service, 0, begins),
                    self._fleet.serving(visit.call.service, 1, begins),
                )
                observed.see(visit, begins)
                for outcome, chosen in _outcomes(visit):
                    if not chosen.size:
                        continue
                    template = self._template(journey, place, visit, outcome)
                    rows += template.fill(
                        chosen.size,
                        {slot: requests.values(slot, place)[chosen] for slot in template.slots},
                    )
                    times.append(begins[chosen])
                    groups.append(
                        resources[chosen] * len(self._scopes) + self._scopes[visit.call.scope]
                    )
                    if outcome == OWN_FAILURE or (outcome == OK and visit.call.log_event):
                        noteworthy.append(
                            Noteworthy(
                                visit.call,
                                outcome == OWN_FAILURE,
                                (begins + visit.duration)[chosen],
                                requests.values("trace", place)[chosen],
                                requests.values("span", place)[chosen],
                                resources[chosen],
                            )
                        )
        if rows:  # an empty file would look damaged
            with DelimitedFile(path) as file:
                for request in self._requests(rows, np.concatenate(times), np.concatenate(groups)):
                    file.write(request)
        return len(rows), noteworthy

    def _arrivals(self, day: int, weight: float, rng: np.random.Generator) -> Ints:
        timeline = self._timeline
        first = day * WINDOWS_PER_DAY
        expected = timeline.demand[first : first + WINDOWS_PER_DAY] * (self._unit * weight)
        counts = rng.poisson(expected)
        windows = np.repeat(np.arange(first, first + WINDOWS_PER_DAY), counts)
        within = rng.integers(0, WINDOW_NS, windows.size)
        starts: Ints = timeline.start_ns + windows * WINDOW_NS + within
        lottery = rng.random(starts.size)
        stays = np.ones(starts.size, dtype=bool)
        for effect, begins, ends in timeline.effects():
            if effect.demand < 1:
                stays &= ~((starts >= begins) & (starts < ends) & (lottery >= effect.demand))
        return starts[stays]

    def _visit_number(self, times: Floats) -> Words:
        """Return the number of the last visit that began before each time (ns)."""
        timeline = self._timeline
        edges = timeline.start_ns + np.arange(timeline.windows + 1) * WINDOW_NS
        return np.interp(times, edges, self._begun).astype(np.uint64)

    def _scene(self, starts: Ints) -> Scene:
        timeline = self._timeline
        windows = (starts - timeline.start_ns) // WINDOW_NS
        effects = [
            (effect, (starts >= begins) & (starts < ends))
            for effect, begins, ends in timeline.effects()
        ]
        return Scene(
            load=timeline.demand[windows],
            paces={service: pace[windows] for service, pace in timeline.paces.items()},
            effects=[(effect, meets) for effect, meets in effects if meets.any()],
        )

    def _template(self, journey: int, place: int, visit: Visit, outcome: int) -> Template:
        key = (journey, place, outcome)
        if key not in self._templates:
            self._templates[key] = Template(_message(visit, outcome), WIDTHS, SPANS_FIELD)
        return self._templates[key]

    def _requests(self, rows: list[bytes], times: Ints, groups: Ints) -> Iterator[bytes]:
        order = np.argsort(times, kind="stable")
        boxed = np.empty(len(rows), dtype=object)
        boxed[:] = rows
        boxed, times, groups = boxed[order], times[order], groups[order]
        sizes = np.cumsum(np.fromiter(map(len, boxed), dtype=np.int64, count=len(rows)))
        first = 0
        while first < len(rows):
            block_end = (times[first] // BLOCK_NS + 1) * BLOCK_NS
            full = sizes[first] + MAX_REQUEST
            last = min(np.searchsorted(times, block_end), np.searchsorted(sizes, full))
            piece = slice(first, max(int(last), first + 1))
            yield self._request(boxed[piece], groups[piece])
            first = piece.stop

    def _request(self, rows: np.ndarray[tuple[int], np.dtype[np.object_]], groups: Ints) -> bytes:
        order = np.argsort(groups, kind="stable")
        keys, firsts = np.unique(groups[order], return_index=True)
        ordered = rows[order].tolist()
        bounds = [*firsts.tolist(), len(ordered)]
        resources, scopes = np.divmod(keys, len(self._scopes))
        return grouped(
            (
                (
                    self._fleet.resources[resource].encoded,
                    ordered[bounds[place] : bounds[place + 1]],
                    self._encoded_scopes[scope],
                )
                for place, (resource, scope) in enumerate(
                    zip(resources.tolist(), scopes.tolist(), strict=True)
                )
            ),
            schema_url=SCHEMA_URL,
        )


def calls(journey: Call) -> Iterator[Call]:
    """List the calls of a tree, parents before children."""
    yield journey
    for child in journey.children:
        yield from calls(child)
    if journey.then:
        yield from calls(journey.then)


def expected_spans(call: Call) -> float:
    """Return the mean number of spans of a call that never fails, with those below it."""
    below = sum(expected_spans(child) for child in call.children)
    return call.share * (1 + below + (expected_spans(call.then) if call.then else 0))


def _outcomes(visit: Visit) -> tuple[tuple[int, Ints], ...]:
    return (
        (OK, np.flatnonzero(visit.present & ~visit.failed)),
        (OWN_FAILURE, np.flatnonzero(visit.present & visit.own_failure)),
        (PASSED_ON, np.flatnonzero(visit.present & visit.failed & ~visit.own_failure)),
    )


class _Requests:
    """The values of one journey's requests: ids, times, people, products."""

    def __init__(
        self,
        starts: Ints,
        visits: list[Visit],
        first_id: int,
        rng: np.random.Generator,
        visit_number: Callable[[Floats], Words],
    ) -> None:
        self._starts = starts
        self._visits = visits
        self._number = starts.size
        ids = first_id + np.arange(starts.size * len(visits), dtype=np.uint64)
        self._ids: Words = ids.reshape(starts.size, len(visits))
        chance = rng.random((starts.size, 3))
        # A visit is one person's pages within some minutes, in the order of a purchase.
        stage_s = catalog.STAGES_S.get(visits[0].call.name, 0.0)
        apart = _share(mixed(self._ids[:, 0], STAGE_SALT)) - 0.5
        begun = starts - 1e9 * (stage_s + catalog.STAGE_SPREAD_S * apart)
        self._sessions = mixed(visit_number(begun), SESSION_SALT)
        # A few people visit often, a few products are requested often.
        self._user: Ints = (_share(mixed(self._sessions, USER_SALT)) ** 2 * catalog.USERS).astype(
            np.int64
        )
        self._product: Ints = 1000 + (chance[:, 1] ** 3 * 9000).astype(np.int64)
        self._order: Ints = 10_000_000 + (chance[:, 2] * 90_000_000).astype(np.int64)
        self._made: dict[tuple[str, int], Bytes] = {}

    def drop_after(self, end_ns: int) -> None:
        """Drop the requests with spans that would end at the recording's end or later."""
        ends = [self._starts + visit.start + visit.duration for visit in self._visits]
        late: Flags = (
            np.maximum.reduce(
                [
                    np.where(visit.present, end, 0)
                    for visit, end in zip(self._visits, ends, strict=True)
                ]
            )
            >= end_ns
        )
        if late.any():
            for visit in self._visits:
                visit.present = visit.present & ~late

    def instance(self, service: str) -> Ints:
        """Return the instance of a service that answers each request."""
        bit = [known.name for known in catalog.SERVICES].index(service)
        chosen: Ints = (mixed(self._ids[:, 0], SPAN_SALT) >> np.uint64(bit) & np.uint64(1)).astype(
            np.int64
        )
        return chosen

    def values(self, slot: str, place: int) -> Bytes:
        """Return a slot's bytes for every request, at one place of the tree."""
        shared = slot in SLOTS
        key = (slot, 0 if shared else place)
        if key not in self._made:
            self._made[key] = self._of_request(slot) if shared else self._of_call(slot, place)
        return self._made[key]

    def _of_call(self, slot: str, place: int) -> Bytes:
        visit = self._visits[place]
        if slot == "span":
            return word_bytes(mixed(self._ids[:, place], SPAN_SALT))
        if slot == "trace":
            # A consumer has a separate trace, whose id derives from that of its first call.
            own = mixed(self._ids[:, self._root(place)], TRACE_SALT)
            return np.concatenate([word_bytes(own), word_bytes(mixed(own, TRACE_SALT_2))], axis=1)
        if slot == "parent" and visit.parent is not None:
            return self.values("span", visit.parent)
        if slot.startswith("link_") and visit.link is not None:
            return self.values(slot.removeprefix("link_"), visit.link)
        begins = self._starts + visit.start
        return word_bytes(begins if slot == "start" else begins + visit.duration)

    def _root(self, place: int) -> int:
        while (parent := self._visits[place].parent) is not None:
            place = parent
        return place

    def _of_request(self, slot: str) -> Bytes:
        if slot == "product":
            return digits(self._product, 4)
        if slot == "order":
            return digits(self._order, 8)
        if slot == "organization":
            return prefixed("org-", digits(self._user % catalog.ORGANIZATIONS, 2))
        if slot == "client":
            return prefixed("198.51.100.", digits(100 + self._user % 150, 3))
        people = self._user.astype(np.uint64)
        if slot == "user":
            return prefixed("u-", hex_text(word_bytes(mixed(people, USER_SALT))[:, :4]))
        if slot == "cart":
            return hex_text(word_bytes(mixed(self._sessions, CART_SALT))[:, :4])
        return hex_text(word_bytes(self._sessions))


def _share(words: Words) -> Floats:
    """Spread words over [0, 1)."""
    shares: Floats = (words >> np.uint64(11)).astype(np.float64) / 2.0**53
    return shares


def _message(visit: Visit, outcome: int) -> bytes:
    call = visit.call
    attributes = _attributes(call.attributes)
    span = Span(
        name=call.name,
        kind=KINDS[call.kind],
        trace_id=sentinel("trace", 16),
        span_id=sentinel("span", 8),
        start_time_unix_nano=_number("start"),
        end_time_unix_nano=_number("end"),
        flags=SAMPLED | KNOWN,
    )
    if visit.parent is not None:
        span.parent_span_id = sentinel("parent", 8)
        if call.kind == "server":
            span.flags |= REMOTE
    if visit.link is not None:
        link = span.links.add()
        link.trace_id = sentinel("link_trace", 16)
        link.span_id = sentinel("link_span", 8)
        link.flags = SAMPLED | KNOWN | REMOTE
    if outcome != OK:
        own = outcome == OWN_FAILURE
        if call.kind == "server" or not own:
            if "http.response.status_code" in attributes:
                attributes["http.response.status_code"] = FAILED_STATUS
        else:
            attributes.pop("http.response.status_code", None)  # there was no response
        attributes["error.type"] = call.error_type if own else str(FAILED_STATUS)
        span.status.code = Status.STATUS_CODE_ERROR
        if own:
            span.status.message = call.error_text
            event = span.events.add()
            event.name = "exception"
            event.time_unix_nano = _number("end")
            add_attributes(event.attributes, exception_attributes(call))
    add_attributes(span.attributes, attributes)
    return span.SerializeToString()


def exception_attributes(call: Call) -> dict[str, str | int | float]:
    """Return the attributes of an exception event or log record for a call's own failure."""
    where = f'  File "/app/{call.service}/main.py", in {call.name.split()[0].lower()}\n'
    return {
        "exception.type": call.error_type,
        "exception.message": call.error_text,
        "exception.stacktrace": "Traceback (most recent call last):\n"
        f"{where}{call.error_type}: {call.error_text}",
    }


def _attributes(declared: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    return {
        key: with_sentinels(value, SLOTS) if isinstance(value, str) else value
        for key, value in declared.items()
    }


def _number(slot: str) -> int:
    return int.from_bytes(sentinel(slot, 8), "little")
