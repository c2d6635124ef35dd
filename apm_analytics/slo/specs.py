"""Read the service level objectives of specs/slos.

In:  OpenSLO v1 documents (the parts in schema.json).
Out: checked `Slo`s with their indicators, windows and objectives.

An indicator of `type: apm-lake` selects entry spans of the lake by service and operation, or
instances of a transaction of specs/transactions.yaml. `status` and `max_duration_s` say which of
them are good; a `thresholdMetric` is the duration in s, of every request or, with `quantile`,
of a time slice.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.yaml_documents import Document, Step
from apm_analytics.lake.schema import PROMOTED, RESOURCE_COLUMNS, column_name
from apm_analytics.slo import schema
from apm_analytics.slo.model import (
    MONTHS,
    Condition,
    Indicator,
    Objective,
    Selection,
    Slo,
    Window,
    duration_minutes,
)

DEFAULT_WINDOW = "30d"
LONGEST_SLICE_MIN = 1_440
# What a selection may compare: every column with a name of its own.
COLUMNS = {
    **{column: "text" for column in RESOURCE_COLUMNS.values()},
    **{column_name(key): str(kind) for key, kind in PROMOTED.items()},
}


@dataclass
class _Reader:
    documents: Mapping[tuple[str, str], Document]
    transactions: frozenset[str]
    said: list[str] = field(default_factory=list)


def load(path: Path, *, transactions: frozenset[str] = frozenset()) -> list[Slo]:
    """Read and check SLOs.

    Parameters
    ----------
    path : a folder with `*.yaml`, or one file.
    transactions : names that a selection may refer to.

    Returns
    -------
    The SLOs in the order of files and documents.

    Raises
    ------
    NotFound
        No such path.
    BadParameter
        What does not fit, one line each: file, line, place, what was found, what is needed.

    Examples
    --------
    >>> [slo.name for slo in load(Path("specs/slos"))]  # doctest: +SKIP
    ['checkout-latency', 'storefront-availability']
    """
    reader = _Reader(schema.read(path), transactions)
    found = [
        _slo(reader, name, document)
        for (kind, name), document in reader.documents.items()
        if kind == "SLO"
    ]
    for (kind, name), document in reader.documents.items():
        if kind == "SLI":  # also those that no SLO refers to yet
            _indicator(reader, document, ("spec",), name)
        elif kind == "AlertPolicy":
            _condition(reader, document)
    if reader.said:
        raise BadParameter("\n".join(dict.fromkeys(reader.said)))
    return [slo for slo in found if slo is not None]


def _slo(reader: _Reader, name: str, document: Document) -> Slo | None:
    spec = document.data["spec"]
    before = len(reader.said)
    own = [key for key in ("indicator", "indicatorRef") if key in spec]
    if len(own) > 1:
        _say(reader, document, ("spec", own[1]), "found both, needs indicator or indicatorRef")
    services = {name for kind, name in reader.documents if kind == "Service"}
    if services and spec["service"] not in services:
        _say(
            reader,
            document,
            ("spec", "service"),
            f"no Service {spec['service']!r}; there are: {', '.join(sorted(services))}",
        )
    stepwise = [("indicator" in one or "indicatorRef" in one) for one in spec["objectives"]]
    if own and any(stepwise):
        place = ("spec", "objectives", stepwise.index(True))
        _say(reader, document, place, "the SLO has an indicator already; remove one of them")
    if not own and not all(stepwise):
        _say(reader, document, ("spec",), "indicator or indicatorRef is missing")
    window = _window(reader, document)
    if len(reader.said) > before:
        return None
    whole = _indicator(reader, document, ("spec",)) if own else None
    if own and whole is None:
        return None
    objectives = tuple(
        objective
        for number in range(len(spec["objectives"]))
        if (objective := _objective(reader, document, number, whole)) is not None
    )
    names = [objective.name for objective in objectives]
    for number, objective in enumerate(objectives):
        if objective.name in names[:number]:
            place = ("spec", "objectives", number)
            _say(reader, document, place, f"a second objective {objective.name!r}; name it")
    conditions = tuple(_conditions(reader, document))
    if len(reader.said) > before:
        return None
    return Slo(
        name=name,
        title=document.data["metadata"].get("displayName", name),
        service=spec["service"],
        method=spec["budgetingMethod"],
        window=window,
        objectives=objectives,
        composite=not own and len(objectives) > 1,
        description=spec.get("description", ""),
        conditions=conditions,
        where=f"{document.file.name}:{document.line(['metadata', 'name'])}",
    )


def _window(reader: _Reader, document: Document) -> Window:
    said = document.data["spec"].get("timeWindow", [{"duration": DEFAULT_WINDOW}])[0]
    place = ("spec", "timeWindow", 0)
    text, calendar = said["duration"], said.get("calendar")
    if said.get("isRolling", calendar is None) != (calendar is None):
        _say(
            reader,
            document,
            (*place, "isRolling"),
            "needs true without a calendar and false with one",
        )
    if calendar is None:
        return Window(minutes=duration_minutes(text))
    zone = calendar["timeZone"]
    try:
        ZoneInfo(zone)
        start = datetime.fromisoformat(calendar["startTime"])
    except (ZoneInfoNotFoundError, ValueError, OSError):
        wrong = "timeZone" if not _zone_exists(zone) else "startTime"
        need = "a name as in the IANA Time Zone Database, such as Europe/Berlin"
        if wrong == "startTime":
            need = "a day that exists, as in 2026-01-01 00:00:00"
        found = calendar[wrong]
        _say(reader, document, (*place, "calendar", wrong), f"found {found!r}, needs {need}")
        return Window(minutes=1)
    if start.second:
        _say(reader, document, (*place, "calendar", "startTime"), "needs whole minutes")
    unit = text[-1]
    if unit in MONTHS:
        if start.day > 28:
            _say(
                reader,
                document,
                (*place, "calendar", "startTime"),
                "needs a day that every month has: 1 to 28",
            )
        return Window(months=int(text[:-1]) * MONTHS[unit], start=start, zone=zone)
    return Window(minutes=duration_minutes(text), start=start, zone=zone)


def _objective(
    reader: _Reader, document: Document, number: int, whole: Indicator | None
) -> Objective | None:
    data = document.data["spec"]
    said = data["objectives"][number]
    place: tuple[Step, ...] = ("spec", "objectives", number)
    before = len(reader.said)
    targets = [key for key in ("target", "targetPercent") if key in said]
    if len(targets) != 1:
        _say(reader, document, place, "needs either target or targetPercent")
    indicator = whole or _indicator(reader, document, place)
    sliced = data["budgetingMethod"] != "Occurrences"
    if sliced and "timeSliceWindow" not in said:
        _say(reader, document, place, f"{data['budgetingMethod']} needs timeSliceWindow")
    if not sliced and {"timeSliceWindow", "timeSliceTarget"} & said.keys():
        _say(reader, document, place, "Occurrences has no time slices; remove timeSlice*")
    if indicator is None or len(reader.said) > before:
        return None
    threshold = indicator.good is None and indicator.bad is None
    if threshold != ("value" in said and "op" in said):
        need = "op and value" if threshold else "no op and no value"
        _say(reader, document, place, f"a {_kind(indicator)} needs {need}")
    if "compositeWeight" in said and whole:
        _say(reader, document, (*place, "compositeWeight"), "only steps of a composite have one")
    method = data["budgetingMethod"]
    by_quantile = indicator.total.quantile is not None
    if by_quantile and method != "Timeslices":
        _say(reader, document, place, f"a quantile is of a time slice, {method} has none")
    if method == "Timeslices" and not by_quantile and "timeSliceTarget" not in said:
        _say(reader, document, place, "Timeslices needs timeSliceTarget")
    if by_quantile and "timeSliceTarget" in said:
        _say(reader, document, (*place, "timeSliceTarget"), "a quantile has op and value instead")
    slice_min = _slice(reader, document, place, said) if sliced else 0
    if len(reader.said) > before:
        return None
    target = Decimal(repr(said[targets[0]]))
    return Objective(
        name=said.get("displayName", indicator.name),
        target=target / 100 if targets[0] == "targetPercent" else target,
        indicator=indicator,
        op=said.get("op"),
        value=said.get("value"),
        slice_min=slice_min,
        slice_target=said.get("timeSliceTarget"),
        weight=Decimal(repr(said.get("compositeWeight", 1))),
    )


def _slice(
    reader: _Reader, document: Document, place: tuple[Step, ...], said: Mapping[str, Any]
) -> int:
    length = said["timeSliceWindow"]
    minutes = length if isinstance(length, int) else duration_minutes(length)
    if minutes > LONGEST_SLICE_MIN:
        _say(reader, document, (*place, "timeSliceWindow"), f"found {length!r}, needs 1d at most")
    return minutes


def _indicator(
    reader: _Reader, document: Document, place: tuple[Step, ...], name: str = ""
) -> Indicator | None:
    """Read the indicator at a place; with a name, the place is an SLI document's own spec."""
    data = document.data
    for step in place:
        data = data[step]
    if not name and "indicatorRef" in data:
        named = reader.documents.get(("SLI", data["indicatorRef"]))
        if named is None:
            there = ", ".join(sorted(name for kind, name in reader.documents if kind == "SLI"))
            said = f"no SLI {data['indicatorRef']!r}; there are: {there or 'none'}"
            _say(reader, document, (*place, "indicatorRef"), said)
            return None
        return _indicator(reader, named, ("spec",), data["indicatorRef"])
    if not name:
        place = (*place, "indicator")
        name, data = data["indicator"]["metadata"]["name"], data["indicator"]["spec"]
        place = (*place, "spec")
    kinds = [key for key in ("ratioMetric", "thresholdMetric") if key in data]
    if len(kinds) != 1:
        _say(reader, document, place, "needs either ratioMetric or thresholdMetric")
        return None
    if kinds[0] == "thresholdMetric":
        total = _selection(reader, document, (*place, "thresholdMetric"), data["thresholdMetric"])
        for key in ("status", "max_duration_s"):
            if total and getattr(total, key) is not None:
                _say(reader, document, place, f"the duration is compared with value; no {key}")
        return Indicator(name, total) if total else None
    ratio = data["ratioMetric"]
    sides = [key for key in ("good", "bad") if key in ratio]
    if len(sides) != 1:
        _say(reader, document, (*place, "ratioMetric"), "needs either good or bad, beside total")
        return None
    found = {
        key: _selection(reader, document, (*place, "ratioMetric", key), ratio[key])
        for key in ("total", sides[0])
    }
    total, side = found["total"], found[sides[0]]
    if total is None or side is None:
        return None
    at = (*place, "ratioMetric", sides[0], "metricSource", "spec")
    if side.source() != total.source() or not set(total.where) <= set(side.where):
        _say(reader, document, at, f"{sides[0]} must select the requests of total, and narrow them")
    if side.quantile is not None or total.quantile is not None:
        _say(reader, document, at, "a quantile belongs into a thresholdMetric")
    if side == total:
        _say(reader, document, at, f"{sides[0]} is the same as total; add status or max_duration_s")
    return Indicator(name, total, **{sides[0]: side})


def _selection(
    reader: _Reader, document: Document, place: tuple[Step, ...], metric: Mapping[str, Any]
) -> Selection | None:
    source = metric["metricSource"]
    place = (*place, "metricSource")
    reference = source.get("metricSourceRef")
    if reference is not None and ("DataSource", reference) not in reader.documents:
        _say(reader, document, (*place, "metricSourceRef"), f"no DataSource {reference!r}")
        return None
    if reference is None and "type" not in source:
        _say(reader, document, place, "needs type: apm-lake, or a metricSourceRef")
        return None
    spec, place = source["spec"], (*place, "spec")
    before = len(reader.said)
    if ("transaction" in spec) == ("service" in spec):
        _say(reader, document, place, "needs either a service or a transaction")
    if "transaction" in spec and ("operation" in spec or "quantile" in spec):
        _say(reader, document, place, "a transaction has its own operations, and no quantile")
    if "transaction" in spec and spec["transaction"] not in reader.transactions:
        there = ", ".join(sorted(reader.transactions)) or "none"
        said = f"no transaction {spec['transaction']!r}; there are: {there}"
        _say(reader, document, (*place, "transaction"), said)
    for column, value in spec.get("where", {}).items():
        if column not in COLUMNS:
            said = f"no column {column!r} in lake/schema.py; there are: {', '.join(COLUMNS)}"
            _say(reader, document, (*place, "where", column), said)
        elif (COLUMNS[column] == "int64") != isinstance(value, int):
            said = f"found {value!r}, but the column holds {COLUMNS[column]}"
            _say(reader, document, (*place, "where", column), said)
    if len(reader.said) > before:
        return None
    operations = spec.get("operation", [])
    return Selection(
        service=spec.get("service"),
        operations=(operations,) if isinstance(operations, str) else tuple(operations),
        transaction=spec.get("transaction"),
        status=spec.get("status"),
        max_duration_s=spec.get("max_duration_s"),
        quantile=spec.get("quantile"),
        where=tuple(sorted(spec.get("where", {}).items())),
    )


def _conditions(reader: _Reader, document: Document) -> Iterator[Condition]:
    for number, said in enumerate(document.data["spec"].get("alertPolicies", [])):
        name = said if isinstance(said, str) else said["alertPolicyRef"]
        policy = reader.documents.get(("AlertPolicy", name))
        if policy is None:
            place = ("spec", "alertPolicies", number)
            _say(reader, document, place, f"no AlertPolicy {name!r} in these files")
        else:
            found = _condition(reader, policy)
            if found:
                yield found


def _condition(reader: _Reader, policy: Document) -> Condition | None:
    data = policy.data["spec"]
    place: tuple[Step, ...] = ("spec", "conditions", 0)
    for number, target in enumerate(data.get("notificationTargets", [])):
        if ("AlertNotificationTarget", target["targetRef"]) not in reader.documents:
            where = ("spec", "notificationTargets", number, "targetRef")
            _say(reader, policy, where, f"no AlertNotificationTarget {target['targetRef']!r}")
    said = data["conditions"][0]
    if "conditionRef" in said:
        named = reader.documents.get(("AlertCondition", said["conditionRef"]))
        if named is None:
            _say(reader, policy, (*place, "conditionRef"), f"no AlertCondition {said!r}")
            return None
        said = named.data
    burn = said["spec"]["condition"]
    return Condition(
        name=policy.data["metadata"]["name"],
        severity=said["spec"]["severity"],
        op=burn.get("op", "gte"),
        threshold=burn["threshold"],
        lookback=burn["lookbackWindow"],
        after_s=60 * duration_minutes(burn["alertAfter"]) if "alertAfter" in burn else 0,
    )


def _say(reader: _Reader, document: Document, place: tuple[Step, ...], said: str) -> None:
    reader.said.append(document.problem(place, said))


def _kind(indicator: Indicator) -> str:
    ratio = indicator.good is not None or indicator.bad is not None
    return "ratioMetric" if ratio else "thresholdMetric"


def _zone_exists(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return bool(re.fullmatch(r"[A-Za-z0-9_+\-/]+", name))
