"""Build the Prometheus rules of service level objectives: burn rates and the alerts on them.

In:  the SLOs of specs/slos whose indicator Prometheus can see, and the params.
Out: recording rules under Sloth's names, multi-window burn alerts, their promtool tests.

Prometheus sees what the Collector's spanmetrics connector counts: requests of a service's
operations, failed ones, and those within a bucket of its histogram. Only the lake sees
transactions, columns and quantiles of time slices; its budget is the exact one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from apm_analytics.alerts.prometheus import promtool, rules
from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.settings import Params
from apm_analytics.slo import WINDOWS, Condition, Objective, Selection, Slo, duration_minutes
from apm_analytics.slo import specs as slo_specs
from apm_analytics.transactions import specs as transactions_specs

FILE_NAME = "apm_slo.yml"
TEST_FILE_NAME = "apm_slo_test.yml"
SLOS = "slos"
CALLS = "traces_span_metrics_calls_total"
BUCKETS = "traces_span_metrics_duration_seconds_bucket"
ENTRIES = 'span_kind=~"SPAN_KIND_SERVER|SPAN_KIND_CONSUMER"'
COUNT = "apm:slo_requests:count"
# Severity -> pairs of a burn rate and its long and short window: Sloth's, from the SRE workbook.
BURNS: dict[str, tuple[tuple[float, str, str], ...]] = {
    "page": ((14.4, "1h", "5m"), (6.0, "6h", "30m")),
    "ticket": ((3.0, "1d", "2h"), (1.0, "3d", "6h")),
}
PERIOD = WINDOWS[-1]
COUNTED = ("1h", "6h", "1d", "3d")
OPERATORS = {"lte": "<=", "lt": "<", "gte": ">=", "gt": ">"}
# Long enough for a short window to contain nothing of the outage at the end.
TEST_MINUTES = 24
OUTAGE_MINUTES = 10


@dataclass(frozen=True)
class _Watched:
    """One objective that Prometheus can see: its id and the requests it counts."""

    slo: Slo
    objective: Objective
    number: int

    @property
    def labels(self) -> dict[str, str]:
        """Sloth's labels; each of several objectives has its own id."""
        name = self.slo.name if len(self.slo.objectives) == 1 else f"{self.slo.name}-{self.number}"
        return {
            "sloth_id": f"{self.slo.service}-{name}",
            "sloth_service": self.slo.service,
            "sloth_slo": name,
        }

    @property
    def selector(self) -> str:
        """The labels as PromQL selects them."""
        return promtool.selector(**self.labels)

    @property
    def alert(self) -> str:
        """The alert's name: ApmSloCheckoutAvailability."""
        return "ApmSlo" + "".join(
            part.capitalize() for part in re.split(r"[^a-z0-9]+", self.labels["sloth_slo"])
        )

    def alert_of(self, condition: Condition) -> str:
        """The name of the alert of one of its conditions."""
        return self.alert + "".join(part.capitalize() for part in condition.name.split("-"))

    @property
    def names(self) -> list[str]:
        """What its rules are called, for people: no other objective may use the same."""
        alerts = [self.alert, *map(self.alert_of, self.slo.conditions)]
        return [f"rule group {self.labels['sloth_id']}", *(f"alert {name}" for name in alerts)]

    @property
    def budget(self) -> str:
        """The error budget as a ratio, exact."""
        return f"{1 - self.objective.target:f}"


def files(specs: Path, params: Params, origin: Mapping[str, str]) -> dict[str, bytes]:
    """Return rules and their tests by their path in a release; none when there is no SLO.

    Parameters
    ----------
    specs : the folder with `slos/` and `transactions.yaml`.
    origin : provenance for the heads of the files, see `threshold_files.origin`.

    Raises
    ------
    BadParameter
        A spec is invalid; the message names file and line.
    """
    if not (specs / SLOS).is_dir():
        return {}
    known: frozenset[str] = frozenset()
    if (specs / transactions_specs.FILE_NAME).exists():
        known = frozenset(one.name for one in transactions_specs.load(specs)[0])
    slos = slo_specs.load(specs / SLOS, transactions=known)
    wrong = check_conditions(slos)
    if wrong:
        raise BadParameter("\n".join(wrong))
    if not watched(slos):
        return {}
    return {
        f"prometheus/rules/{FILE_NAME}": rules.as_yaml(document(slos, params), origin).encode(),
        f"prometheus/tests/{TEST_FILE_NAME}": rules.as_yaml(tests(slos, params), origin).encode(),
    }


def document(slos: Sequence[Slo], params: Params) -> dict[str, Any]:
    """Build the rules file: one group per objective, so that its rules run in order."""
    return {
        "groups": [
            {
                "name": one.labels["sloth_id"],
                "rules": [*_recordings(one), *_alerts(one, params)],
            }
            for one in watched(slos)
        ]
    }


def watched(slos: Sequence[Slo]) -> list[_Watched]:
    """Return the objectives that Prometheus can see."""
    return [
        _Watched(slo, objective, number)
        for slo in slos
        for number, objective in enumerate(slo.objectives, 1)
        if slo.method == "Occurrences" and _visible(objective)
    ]


def tests(slos: Sequence[Slo], params: Params) -> dict[str, Any]:
    """Build promtool tests.

    No page when all is well or on a handful of requests; a page on an outage, which keeps firing
    when the metrics stop.
    """
    plain = [one for one in watched(slos) if not _failing_is_good(one)]
    # Each test evaluates all rules, so objectives share the tests; only inverted ones need others.
    worlds = [plain] if plain else []
    worlds += [[one] for one in watched(slos) if _failing_is_good(one)]
    found = [test for world in worlds for test in _tests(world, params)]
    for number in range(1, max((len(_bounds(one)) for one in plain), default=0)):
        found += _tests([one for one in plain if len(_bounds(one)) > number], params, number)
    return promtool.test_file(FILE_NAME, "1m", found)


def _visible(objective: Objective) -> bool:
    indicator = objective.indicator
    sides = [side for side in (indicator.total, indicator.good, indicator.bad) if side is not None]
    if any(side.transaction or side.where or side.quantile for side in sides):
        return False
    if indicator.total.status or indicator.total.max_duration_s:
        return False
    if indicator.bad is not None and indicator.bad.max_duration_s is not None:
        return False
    return objective.op in (None, "lte", "lt")


def _select(metric: str, selection: Selection, *more: str) -> str:
    pairs = [f"service_name={_quoted(str(selection.service))}"]
    if selection.operations:
        pattern = "|".join(re.escape(name) for name in selection.operations)
        pairs.append(f"span_name=~{_quoted(pattern)}")
    return f"{metric}{{{', '.join([*pairs, ENTRIES, *more])}}}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _ratio(one: _Watched, window: str) -> str:
    """Return the share of bad requests in a window."""
    indicator = one.objective.indicator
    total = f"sum(rate({_select(CALLS, indicator.total)}[{window}]))"
    failed = _select(CALLS, indicator.total, 'status_code="STATUS_CODE_ERROR"')
    good = indicator.good or Selection(max_duration_s=one.objective.value)
    bounds = _bounds(one)
    if not bounds:
        errors = f"(sum(rate({failed}[{window}])) or 0 * {total})"
        if indicator.bad is None and good.status == "error":
            errors = f"({total} - {errors})"
        if indicator.bad is not None and indicator.bad.status == "ok":
            errors = f"({total} - {errors})"
        return f"{errors}\n/\n({total} > 0)"
    several = f"le=~{_quoted('|'.join(map(re.escape, bounds)))}"
    more = [several if len(bounds) > 1 else f'le="{bounds[0]}"']
    if good.status == "ok":
        more.append('status_code!="STATUS_CODE_ERROR"')
    within = f"sum(rate({_select(BUCKETS, indicator.total, *more)}[{window}]))"
    return f"1 - (\n  {within}\n  /\n  ({total} > 0)\n)"


def _bounds(one: _Watched) -> list[str]:
    """Return how Prometheus may write the bucket of the requests that are fast enough.

    Version 3 adds `.0` to whole numbers; very large and small ones have an exponent in all
    versions. An objective without a limit has none.
    """
    indicator = one.objective.indicator
    seconds = (indicator.good or Selection(max_duration_s=one.objective.value)).max_duration_s
    if indicator.bad is not None or seconds is None:
        return []
    exact = Decimal(f"{seconds:.12g}").normalize()
    bounds = [f"{exact:f}"]
    if "." not in bounds[0]:
        bounds.append(f"{bounds[0]}.0")
    if not -4 <= exact.adjusted() < 6:
        bounds.append(f"{seconds:.{len(exact.as_tuple().digits) - 1}e}")
    return bounds


def _recordings(one: _Watched) -> Iterator[dict[str, Any]]:
    def rule(record: str, expr: str, **more: str) -> dict[str, Any]:
        return {"record": record, "expr": expr, "labels": {**one.labels, **more}}

    for window in WINDOWS[:-1]:
        yield rule(f"slo:sli_error:ratio_rate{window}", _ratio(one, window), sloth_window=window)
    five = f"slo:sli_error:ratio_rate5m{one.selector}"
    yield rule(
        f"slo:sli_error:ratio_rate{PERIOD}",
        f"sum_over_time({five}[{PERIOD}])\n/ ignoring (sloth_window)\n"
        f"count_over_time({five}[{PERIOD}])",
        sloth_window=PERIOD,
    )
    total = _select(CALLS, one.objective.indicator.total)
    for window in COUNTED:
        yield rule(COUNT, f"sum(increase({total}[{window}]))", sloth_window=window)
    yield rule("slo:objective:ratio", f"vector({one.objective.target:f})")
    yield rule("slo:error_budget:ratio", f"vector({one.budget})")
    yield rule("slo:time_period:days", f"vector({PERIOD.removesuffix('d')})")
    for name, window in (("current", "5m"), ("period", PERIOD)):
        yield rule(
            f"slo:{name}_burn_rate:ratio",
            f"max(slo:sli_error:ratio_rate{window}{one.selector}) without (sloth_window)\n"
            f"/ on (sloth_id, sloth_slo, sloth_service)\n"
            f"slo:error_budget:ratio{one.selector}",
        )
    yield rule(
        "slo:period_error_budget_remaining:ratio", f"1 - slo:period_burn_rate:ratio{one.selector}"
    )
    yield rule("sloth_slo_info", "vector(1)", sloth_objective=f"{one.objective.target * 100:f}")


def _alerts(one: _Watched, params: Params) -> Iterator[dict[str, Any]]:
    for severity, pairs in BURNS.items():
        burns = "\nor\n".join(_burning(one, *pair, params.slo.min_events) for pair in pairs)
        yield {
            "alert": one.alert,
            "expr": f"(\n{burns}\n)\nor\n{_frozen(one, severity)}",
            "labels": {"severity": severity, "sloth_severity": severity},
            "annotations": _annotations(one),
        }
    for condition in one.slo.conditions:
        passed = f"{condition.threshold!r} * {one.budget}"
        ratio = f"slo:sli_error:ratio_rate{condition.lookback}{one.selector}"
        yield {
            "alert": one.alert_of(condition),
            "expr": f"max({ratio} {OPERATORS[condition.op]} ({passed})) without (sloth_window)",
            "for": rules.duration(condition.after_s),
            "labels": {"severity": condition.severity},
            "annotations": _annotations(one),
        }


def _burning(one: _Watched, factor: float, long: str, short: str, least: int) -> str:
    def above(window: str) -> str:
        ratio = f"slo:sli_error:ratio_rate{window}{one.selector}"
        return f"max({ratio} > ({factor:g} * {one.budget})) without (sloth_window)"

    count = promtool.selector(**one.labels, sloth_window=long)
    return (
        f"(\n  {above(short)}\n  and\n  {above(long)}\n"
        f"  and\n  max({COUNT}{count} >= {least}) without (sloth_window)\n)"
    )


def _frozen(one: _Watched, severity: str) -> str:
    """Return the expression that keeps an alert firing while its ratio cannot be measured."""
    fired = promtool.selector(
        alertname=one.alert, alertstate="firing", sloth_severity=severity, **one.labels
    )
    return (
        f"(\n  max by (sloth_id, sloth_service, sloth_slo) (ALERTS{fired})\n"
        f"  unless on (sloth_id)\n  slo:sli_error:ratio_rate5m{one.selector}\n)"
    )


def _annotations(one: _Watched) -> dict[str, str]:
    return {
        "summary": f"{one.slo.title} burns its error budget too fast",
        "description": f"{one.objective.name}: at this rate the budget of "
        f"{Decimal(one.budget) * 100:f} % is gone before its period ends. "
        f"The exact budget: apm slo report --slo {one.slo.name}",
    }


def _failing_is_good(one: _Watched) -> bool:
    good, bad = one.objective.indicator.good, one.objective.indicator.bad
    return (good is not None and good.status == "error") or (bad is not None and bad.status == "ok")


def _tests(world: Sequence[_Watched], params: Params, spelling: int = 0) -> Iterator[promtool.Test]:
    many, end = 10 * params.slo.min_events, TEST_MINUTES
    quiet, outage = f"0+0x{end}", OUTAGE_MINUTES
    names = [one.alert for one in world]
    note = " (another spelling of le)" if spelling else ""

    def test(title: str, fine: str, broken: str, minutes: int, fires: bool) -> promtool.Test:
        found: dict[str, promtool.Series] = {}
        for one in world:
            for series in _inputs(one, fine, broken, spelling):
                found[series["series"]] = series
        checks = [
            (one.alert, minute, [_fired(one, "page"), _fired(one, "ticket")] if fires else [])
            for one in world
            for minute in ((outage, minutes) if fires else (minutes,))
        ]
        named = f"{title}{note}: {', '.join(names)}"
        return promtool.test(named, list(found.values()), checks)

    yield test("quiet when all is well", f"0+{many}x{end}", quiet, end, False)
    yield test(
        "pages when everything fails, and goes on when the numbers stop",
        f"0+0x{outage} _x{end}",
        f"0+{many}x{outage} _x{end}",
        end,
        True,
    )
    yield test("says nothing on a handful of requests", quiet, f"0+1x{end}", end, False)


def _inputs(one: _Watched, fine: str, broken: str, spelling: int) -> list[promtool.Series]:
    """Return what the Collector counts while `fine` requests succeed and `broken` ones fail.

    Parameters
    ----------
    spelling : which of `_bounds` its bucket has.
    """
    indicator = one.objective.indicator
    operations = indicator.total.operations
    shared = {
        "service_name": str(indicator.total.service),
        "span_name": operations[0] if operations else "any",
        "span_kind": "SPAN_KIND_SERVER",
    }
    if _failing_is_good(one):
        fine, broken = broken, fine
    found = [
        promtool.series(CALLS, fine, status_code="STATUS_CODE_UNSET", **shared),
        promtool.series(CALLS, broken, status_code="STATUS_CODE_ERROR", **shared),
    ]
    if bounds := _bounds(one):
        status = {"status_code": "STATUS_CODE_UNSET", "le": bounds[spelling]}
        found.append(promtool.series(BUCKETS, fine, **status, **shared))
    return found


def _fired(one: _Watched, severity: str) -> dict[str, Any]:
    return {
        "exp_labels": {"severity": severity, "sloth_severity": severity, **one.labels},
        "exp_annotations": _annotations(one),
    }


def check_names(slos: Sequence[Slo]) -> list[str]:
    """Return an error per rule group and alert that two objectives share."""
    first: dict[str, _Watched] = {}
    return [
        f"{one.slo.where}: its {name} is also that of {first[name].slo.name} at "
        f"{first[name].slo.where}; rename one of them"
        for one in watched(slos)
        for name in one.names
        if first.setdefault(name, one) is not one
    ]


def check_conditions(slos: Sequence[Slo]) -> list[str]:
    """Return an error per alert condition that looks back over a window without a recording."""
    known = {duration_minutes(window) for window in WINDOWS}
    return [
        f"{slo.where}: {condition.name} looks back over {condition.lookback}; "
        f"recorded are {', '.join(WINDOWS)}"
        for slo in slos
        for condition in slo.conditions
        if duration_minutes(condition.lookback) not in known
    ]
