"""Read the service level objectives of specs/slos.

In:  OpenSLO v1 documents (the subset in schema.json).
Out: checked `Slo`s with their indicators, windows and objectives.

An indicator of `type: apm-lake` selects entry spans of the lake by service and operation, or
instances of a transaction of specs/transactions.yaml. `status` and `max_duration_s` define which
of them are good. A `thresholdMetric` is the duration in s of every request or, with `quantile`, of
a time slice.
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
# The columns that a selection's `where` may compare.
COLUMNS = {
    **{column: "text" for column in RESOURCE_COLUMNS.values()},
    **{column_name(key): str(kind) for key, kind in PROMOTED.items()},
}


@dataclass
class _Reader:
    documents: Mapping[tuple[str, str], Document]
    transactions: frozenset[str]
    problems: list[str] = field(default_factory=list)


def load(path: Path, *, transactions: frozenset[str] = frozenset()) -> list[Slo]:
    """Read and check SLOs.

    Parameters
    ----------
    path : a folder with `*.yaml` or `*.yml`, or one file.
    transactions : names that a selection may refer to.

    Returns
    -------
    The SLOs in the order of files and documents.

    Raises
    ------
    NotFound
        No such path.
    BadParameter
        One line per problem: file, line, key, what was found, what is needed.

    Examples
    --------
    >>> [slo.name for slo in load(Path("specs/slos"))]  # doctest: +SKIP
    ['checkout-latency', 'storefront-availability']
    """
    reader = _Reader(schema.read(path), transactions)
    slos = [
        _slo(reader, name, document)
        for (kind, name), document in reader.documents.items()
        if kind == "SLO"
    ]
    for (kind, name), document in reader.documents.items():
        if kind == "SLI":  # also unused ones
            _indicator(reader, document, ("spec",), name)
        elif kind == "AlertPolicy":
            _condition(reader, document)
    if reader.problems:
        raise BadParameter("\n".join(dict.fromkeys(reader.problems)))
    return [slo for slo in slos if slo is not None]


def _slo(reader: _Reader, name: str, document: Document) -> Slo | None:
    spec = document.data["spec"]
    before = len(reader.problems)
    shared = [key for key in ("indicator", "indicatorRef") if key in spec]
    if len(shared) > 1:
        _complain(
            reader,
            document,
            ("spec", shared[1]),
            "found both, needs either indicator or indicatorRef",
        )
    services = {name for kind, name in reader.documents if kind == "Service"}
    if services and spec["service"] not in services:
        _complain(
            reader,
            document,
            ("spec", "service"),
            f"no Service {spec['service']!r}; there are: {', '.join(sorted(services))}",
        )
    stepwise = [("indicator" in one or "indicatorRef" in one) for one in spec["objectives"]]
    if shared and any(stepwise):
        place = ("spec", "objectives", stepwise.index(True))
        _complain(reader, document, place, "the SLO already has an indicator; remove one of them")
    if not shared and not all(stepwise):
        _complain(reader, document, ("spec",), "indicator or indicatorRef is missing")
    window = _window(reader, document)
    if len(reader.problems) > before:
        return None
    whole = _indicator(reader, document, ("spec",)) if shared else None
    if shared and whole is None:
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
            _complain(
                reader,
                document,
                place,
                f"a second objective {objective.name!r}; give it another name",
            )
    conditions = tuple(_conditions(reader, document))
    if len(reader.problems) > before:
        return None
    return Slo(
        name=name,
        title=document.data["metadata"].get("displayName", name),
        service=spec["service"],
        method=spec["budgetingMethod"],
        window=window,
        objectives=objectives,
        composite=not shared and len(objectives) > 1,
        description=spec.get("description", ""),
        conditions=conditions,
        where=f"{document.file.name}:{document.line(['metadata', 'name'])}",
    )


def _window(reader: _Reader, document: Document) -> Window:
    fields = document.data["spec"].get("timeWindow", [{"duration": DEFAULT_WINDOW}])[0]
    place = ("spec", "timeWindow", 0)
    text, calendar = fields["duration"], fields.get("calendar")
    if fields.get("isRolling", calendar is None) != (calendar is None):
        _complain(
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
        value = calendar[wrong]
        _complain(reader, document, (*place, "calendar", wrong), f"found {value!r}, needs {need}")
        return Window(minutes=1)
    if start.second:
        _complain(reader, document, (*place, "calendar", "startTime"), "needs whole minutes")
    unit = text[-1]
    if unit in MONTHS:
        if start.day > 28:
            _complain(
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
    fields = data["objectives"][number]
    place: tuple[Step, ...] = ("spec", "objectives", number)
    before = len(reader.problems)
    targets = [key for key in ("target", "targetPercent") if key in fields]
    if len(targets) != 1:
        _complain(reader, document, place, "needs either target or targetPercent")
    indicator = whole or _indicator(reader, document, place)
    sliced = data["budgetingMethod"] != "Occurrences"
    if sliced and "timeSliceWindow" not in fields:
        _complain(reader, document, place, f"{data['budgetingMethod']} needs timeSliceWindow")
    if not sliced and {"timeSliceWindow", "timeSliceTarget"} & fields.keys():
        _complain(reader, document, place, "Occurrences has no time slices; remove timeSlice*")
    if indicator is None or len(reader.problems) > before:
        return None
    threshold = indicator.good is None and indicator.bad is None
    if threshold != ("value" in fields and "op" in fields):
        need = "op and value" if threshold else "no op and no value"
        _complain(reader, document, place, f"a {_kind(indicator)} needs {need}")
    if "compositeWeight" in fields and whole:
        _complain(
            reader, document, (*place, "compositeWeight"), "only steps of a composite have a weight"
        )
    method = data["budgetingMethod"]
    by_quantile = indicator.total.quantile is not None
    if by_quantile and method != "Timeslices":
        _complain(
            reader, document, place, f"a quantile needs time slices, which {method} does not have"
        )
    if method == "Timeslices" and not by_quantile and "timeSliceTarget" not in fields:
        _complain(reader, document, place, "Timeslices needs timeSliceTarget")
    if by_quantile and "timeSliceTarget" in fields:
        _complain(
            reader, document, (*place, "timeSliceTarget"), "a quantile has op and value instead"
        )
    slice_min = _slice(reader, document, place, fields) if sliced else 0
    if len(reader.problems) > before:
        return None
    target = Decimal(repr(fields[targets[0]]))
    return Objective(
        name=fields.get("displayName", indicator.name),
        target=target / 100 if targets[0] == "targetPercent" else target,
        indicator=indicator,
        op=fields.get("op"),
        value=fields.get("value"),
        slice_min=slice_min,
        slice_target=fields.get("timeSliceTarget"),
        weight=Decimal(repr(fields.get("compositeWeight", 1))),
    )


def _slice(
    reader: _Reader, document: Document, place: tuple[Step, ...], fields: Mapping[str, Any]
) -> int:
    length = fields["timeSliceWindow"]
    minutes = length if isinstance(length, int) else duration_minutes(length)
    if minutes > LONGEST_SLICE_MIN:
        _complain(
            reader, document, (*place, "timeSliceWindow"), f"found {length!r}, needs 1d at most"
        )
    return minutes


def _indicator(
    reader: _Reader, document: Document, place: tuple[Step, ...], name: str = ""
) -> Indicator | None:
    """Read the indicator at a place; a `name` means that the place is the spec of an SLI."""
    data = document.data
    for step in place:
        data = data[step]
    if not name and "indicatorRef" in data:
        named = reader.documents.get(("SLI", data["indicatorRef"]))
        if named is None:
            there = ", ".join(sorted(name for kind, name in reader.documents if kind == "SLI"))
            problem = f"no SLI {data['indicatorRef']!r}; there are: {there or 'none'}"
            _complain(reader, document, (*place, "indicatorRef"), problem)
            return None
        return _indicator(reader, named, ("spec",), data["indicatorRef"])
    if not name:
        place = (*place, "indicator")
        name, data = data["indicator"]["metadata"]["name"], data["indicator"]["spec"]
        place = (*place, "spec")
    kinds = [key for key in ("ratioMetric", "thresholdMetric") if key in data]
    if len(kinds) != 1:
        _complain(reader, document, place, "needs either ratioMetric or thresholdMetric")
        return None
    if kinds[0] == "thresholdMetric":
        total = _selection(reader, document, (*place, "thresholdMetric"), data["thresholdMetric"])
        for key in ("status", "max_duration_s"):
            if total and getattr(total, key) is not None:
                _complain(
                    reader, document, place, f"the duration is compared with value; remove {key}"
                )
        return Indicator(name, total) if total else None
    ratio = data["ratioMetric"]
    sides = [key for key in ("good", "bad") if key in ratio]
    if len(sides) != 1:
        _complain(
            reader, document, (*place, "ratioMetric"), "needs either good or bad, beside total"
        )
        return None
    selections = {
        key: _selection(reader, document, (*place, "ratioMetric", key), ratio[key])
        for key in ("total", sides[0])
    }
    total, side = selections["total"], selections[sides[0]]
    if total is None or side is None:
        return None
    at = (*place, "ratioMetric", sides[0], "metricSource", "spec")
    if side.source() != total.source() or not set(total.where) <= set(side.where):
        _complain(
            reader, document, at, f"{sides[0]} must select the requests of total, and narrow them"
        )
    if side.quantile is not None or total.quantile is not None:
        _complain(reader, document, at, "a quantile belongs in a thresholdMetric")
    if side == total:
        _complain(
            reader, document, at, f"{sides[0]} is the same as total; add status or max_duration_s"
        )
    return Indicator(name, total, **{sides[0]: side})


def _selection(
    reader: _Reader, document: Document, place: tuple[Step, ...], metric: Mapping[str, Any]
) -> Selection | None:
    source = metric["metricSource"]
    place = (*place, "metricSource")
    reference = source.get("metricSourceRef")
    if reference is not None and ("DataSource", reference) not in reader.documents:
        _complain(reader, document, (*place, "metricSourceRef"), f"no DataSource {reference!r}")
        return None
    if reference is None and "type" not in source:
        _complain(reader, document, place, "needs type: apm-lake, or a metricSourceRef")
        return None
    spec, place = source["spec"], (*place, "spec")
    before = len(reader.problems)
    if ("transaction" in spec) == ("service" in spec):
        _complain(reader, document, place, "needs either a service or a transaction")
    if "transaction" in spec and ("operation" in spec or "quantile" in spec):
        _complain(reader, document, place, "a transaction has its own operations, and no quantile")
    if "transaction" in spec and spec["transaction"] not in reader.transactions:
        there = ", ".join(sorted(reader.transactions)) or "none"
        problem = f"no transaction {spec['transaction']!r}; there are: {there}"
        _complain(reader, document, (*place, "transaction"), problem)
    for column, value in spec.get("where", {}).items():
        if column not in COLUMNS:
            problem = f"no column {column!r} in lake/schema.py; there are: {', '.join(COLUMNS)}"
            _complain(reader, document, (*place, "where", column), problem)
        elif (COLUMNS[column] == "int64") != isinstance(value, int):
            problem = f"found {value!r}, but the column holds {COLUMNS[column]}"
            _complain(reader, document, (*place, "where", column), problem)
    if len(reader.problems) > before:
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
    for number, reference in enumerate(document.data["spec"].get("alertPolicies", [])):
        name = reference if isinstance(reference, str) else reference["alertPolicyRef"]
        policy = reader.documents.get(("AlertPolicy", name))
        if policy is None:
            place = ("spec", "alertPolicies", number)
            _complain(reader, document, place, f"no AlertPolicy {name!r} in these files")
        else:
            condition = _condition(reader, policy)
            if condition:
                yield condition


def _condition(reader: _Reader, policy: Document) -> Condition | None:
    data = policy.data["spec"]
    place: tuple[Step, ...] = ("spec", "conditions", 0)
    for number, target in enumerate(data.get("notificationTargets", [])):
        if ("AlertNotificationTarget", target["targetRef"]) not in reader.documents:
            where = ("spec", "notificationTargets", number, "targetRef")
            _complain(reader, policy, where, f"no AlertNotificationTarget {target['targetRef']!r}")
    condition = data["conditions"][0]
    if "conditionRef" in condition:
        named = reader.documents.get(("AlertCondition", condition["conditionRef"]))
        if named is None:
            _complain(reader, policy, (*place, "conditionRef"), f"no AlertCondition {condition!r}")
            return None
        condition = named.data
    burn = condition["spec"]["condition"]
    return Condition(
        name=policy.data["metadata"]["name"],
        severity=condition["spec"]["severity"],
        op=burn.get("op", "gte"),
        threshold=burn["threshold"],
        lookback=burn["lookbackWindow"],
        after_s=60 * duration_minutes(burn["alertAfter"]) if "alertAfter" in burn else 0,
    )


def _complain(reader: _Reader, document: Document, place: tuple[Step, ...], problem: str) -> None:
    reader.problems.append(document.problem(place, problem))


def _kind(indicator: Indicator) -> str:
    ratio = indicator.good is not None or indicator.bad is not None
    return "ratioMetric" if ratio else "thresholdMetric"


def _zone_exists(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return bool(re.fullmatch(r"[A-Za-z0-9_+\-/]+", name))
