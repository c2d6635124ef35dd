"""Walk call trees: compute when each call starts and ends, and which calls fail.

In:  a call tree of `catalog`, a number of requests, and their scene (load, pace, effects).
Out: one `Visit` per call of the tree, with arrays over the requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apm_analytics.simulate.calls import Call
from apm_analytics.simulate.timeline import Flags, Floats, Ints
from apm_analytics.simulate.troubles import Effect

BEFORE = 45  # percent of a call's own time that passes before its children
QUEUE_MS = 150.0  # mean wait of a message for its consumer
LEAST_LOAD = 0.3  # below this load own times stay the same
MS = 1_000_000  # ns


@dataclass(frozen=True)
class Scene:
    """The conditions of the requests; arrays have one value per request."""

    load: Floats  # 1 is the mean
    paces: dict[str, Floats]
    effects: Sequence[tuple[Effect, Flags]]  # and which requests it applies to


@dataclass
class Visit:
    """One call of the tree for all requests. Times in ns from the request's start."""

    call: Call
    operation: str  # the entry operation it belongs to
    parent: int | None  # place in the list of visits
    link: int | None  # the sender's place, for a consumer
    present: Flags
    own_failure: Flags
    failed: Flags
    duration: Ints
    start: Ints  # from the parent's start until placed, then from the request's


def walk(journey: Call, number: int, scene: Scene, rng: np.random.Generator) -> list[Visit]:
    """Simulate `number` requests of one journey, parents before children.

    The random numbers do not depend on the scene, so two scenes can be compared request by
    request.
    """
    visits: list[Visit] = []
    _measure(journey, np.ones(number, dtype=bool), scene, rng, visits, None, "")
    for visit in visits:
        before = visit.parent if visit.parent is not None else visit.link
        if before is not None:
            visit.start = visit.start + visits[before].start
    return visits


def fits(effect: Effect, call: Call, operation: str) -> bool:
    """Return whether an effect applies to a call that belongs to an entry operation."""
    return (
        effect.demand == 1.0
        and effect.service in ("", call.service)
        and effect.operation in ("", operation)
        and effect.peer in ("", call.peer)
        and not (effect.own and call.name != operation)
    )


def _measure(
    call: Call,
    called: Flags,
    scene: Scene,
    rng: np.random.Generator,
    visits: list[Visit],
    parent: int | None,
    operation: str,
) -> Visit:
    number = called.size
    if call.kind in ("server", "consumer"):
        operation = call.name
    present = called & (rng.random(number) < call.share) if call.share < 1 else called
    failing = np.full(number, call.failing)
    own = np.exp(rng.normal(0, call.spread, number)) * (call.own_ms * MS)
    own *= 1 + call.load * (np.maximum(scene.load, LEAST_LOAD) - 1)
    own *= scene.paces[call.service]
    for effect, meets in scene.effects:
        if fits(effect, call, operation):
            own[meets] *= effect.slower
            failing[meets] += effect.failing
    own_ns = own.astype(np.int64)
    cursor = own_ns * BEFORE // 100
    rest = own_ns - cursor
    nowhere = np.zeros(number, dtype=np.int64)
    visit = Visit(call, operation, parent, None, present, called, called, nowhere, nowhere)
    place = len(visits)
    visits.append(visit)
    failed = np.zeros(number, dtype=bool)
    for child in call.children:
        # A failed call ends its caller; the calls after it are not made.
        below = _measure(child, present & ~failed, scene, rng, visits, place, operation)
        below.start = cursor
        cursor = cursor + below.duration
        failed = failed | below.failed
    visit.own_failure = present & ~failed & (rng.random(number) < failing)
    visit.failed = failed | visit.own_failure
    visit.duration = np.where(present, cursor + rest, 0)
    if call.then:
        message = len(visits)
        _measure(call.then, present & ~visit.failed, scene, rng, visits, None, operation)
        wait = rng.exponential(QUEUE_MS * MS, number).astype(np.int64)
        visits[message].link = place
        visits[message].start = visit.duration + wait
    return visit
