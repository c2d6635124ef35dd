"""Build promtool tests in which each alert fires, and in which it does not.

In:  the signals, the params and the thresholds to be published.
Out: two promtool test files: one with made-up operations (bound passed, bound kept, too little
     traffic, change of the hour, stale, absent, gone) and real ones with their published bounds;
     one for the end of the week.

Live values are written under their recorded names, so the tests do not depend on the promql in
the specs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from apm_analytics.alerts.prometheus import promtool, rules
from apm_analytics.alerts.prometheus.promtool import (
    MODEL,
    RUN_ID,
    START_HOUR,
    TRAINED,
    Series,
    Test,
)
from apm_analytics.alerts.prometheus.rules import Facts
from apm_analytics.alerts.prometheus.signal_specs import SignalSpec
from apm_analytics.foundation.settings import Params
from apm_analytics.foundation.time import HOURS_PER_WEEK

FILE_NAME = "apm_thresholds_test.yml"
WEEK_FILE_NAME = "apm_week_test.yml"
# Names that need correct quoting.
SERVICE = 'test "shop"'
REPLAYED = "0.25"
PASSED, KEPT, FEW = "GET /passed/{id}\\näh", "GET /kept", "GET /few"


@dataclass(frozen=True)
class _Plan:
    """The inputs that all tests share."""

    signals: Mapping[str, SignalSpec]
    params: Params
    notebooks: str

    @property
    def guard(self) -> float:
        """The rate (1/s) below which some alert does not fire."""
        thresholds = self.params.thresholds
        return max(
            self.params.features.min_requests / self.params.features.window_s,
            thresholds.min_requests / thresholds.sustained_s,
            # In a busy operation every tenth request may fail.
            thresholds.min_failures / thresholds.sustained_s,
        )

    @property
    def few(self) -> float:
        """A rate (1/s) at which no alert fires."""
        thresholds = self.params.thresholds
        return 0.5 * min(
            self.params.features.min_requests / self.params.features.window_s,
            thresholds.min_requests / thresholds.sustained_s,
        )

    @property
    def busy(self) -> float:
        """A rate (1/s) that passes every guard and is above the static lower bound."""
        return max(10 * self.guard, 4 * (self.signals["rate"].fallback.lower or 0))

    @property
    def settled(self) -> int:
        """Minutes after which an alert fires for certain, if it should."""
        return math.ceil(self.params.thresholds.for_s / 60) + 10

    @property
    def resolved(self) -> int:
        """Minutes after which an alert has stopped for certain, once its bound is kept again."""
        thresholds = self.params.thresholds
        return math.ceil((thresholds.sustained_s + thresholds.keep_firing_s) / 60) + 2

    @property
    def watched(self) -> list[tuple[SignalSpec, str]]:
        """Every signal with each of its bounds."""
        return [(spec, bound) for spec in self.signals.values() for bound in spec.bounds]

    def operation(self, name: str, minutes: int | None = None) -> promtool.Operation:
        return promtool.Operation(SERVICE, name, minutes or self.settled + 5)

    def with_traffic(self, of: promtool.Operation, spec: SignalSpec, rate: float) -> list[Series]:
        """Return the request rate beside another signal; none beside the rate itself."""
        return [] if spec.name == "rate" else [of.live(self.signals["rate"], rate)]

    def facts(self, name: str, value: float, threshold: float, expected: float = 0.0) -> Facts:
        """Return the values that the annotations must hold."""
        return Facts(
            service=SERVICE,
            operation=name,
            value=f"{value:.4g}",
            threshold=f"{threshold:.4g}",
            expected=f"{expected:.4g}",
            model=MODEL,
            run_id=RUN_ID,
            notebook=f"{self.notebooks}/{RUN_ID}/notebooks/{rules.NOTEBOOK}",
            replayed=REPLAYED,
        )


def document(
    signals: Mapping[str, SignalSpec], params: Params, notebooks: str, thresholds: pl.DataFrame
) -> dict[str, Any]:
    """Build the tests of the rules that `rules.document` builds.

    Parameters
    ----------
    signals, params, notebooks : as passed to `rules.document`.
    thresholds : as `alerts.thresholds.thresholds` returns them.

    Returns
    -------
    A promtool test file as a mapping, for `rules.as_yaml`.
    """
    plan = _Plan(signals, params, notebooks)
    tests = [_learned(plan, spec, bound) for spec, bound in plan.watched]
    tests += [_boundary(plan), *_static(plan), *_stale(plan), _gone(plan)]
    for spec, bound in plan.watched:
        tests += _published(plan, spec, bound, thresholds)
    return promtool.test_file(rules.FILE_NAME, "1m", tests)


def week_document(signals: Mapping[str, SignalSpec]) -> dict[str, Any]:
    """Build the test that Saturday 23:00 UTC is hour 167 of the week and Sunday 00:00 hour 0.

    It spans three days, so it has its own file, which evaluates only twice per hour.
    """
    midnight = (HOURS_PER_WEEK - START_HOUR) * 60
    operation = promtool.Operation(SERVICE, PASSED, midnight + 40)
    signal = next(iter(signals))
    recorded = _recorded("upper", SERVICE, PASSED, signal)
    test = {
        "name": "the week ends on Saturday 24:00 UTC",
        "interval": "1m",
        "input_series": operation.hourly("upper", signal, {167: 1.0, 0: 2.0}),
        "promql_expr_test": [
            promtool.expects(recorded, midnight - 90, None),
            promtool.expects(recorded, midnight - 30, 1.0),
            promtool.expects(recorded, midnight, 2.0),
            promtool.expects(recorded, midnight + 30, 2.0),
        ],
    }
    return promtool.test_file(rules.FILE_NAME, "30m", [test])


def _learned(plan: _Plan, spec: SignalSpec, bound: str) -> Test:
    """An alert fires when its bound is passed, unless there is too little traffic."""
    threshold = plan.busy if spec.name == "rate" else 0.5
    few = threshold if spec.name != "rate" else 0.4 * plan.few
    expected = 0.75 if bound == "upper" else 1.5
    passed, kept = (2.0, 0.5) if bound == "upper" else (0.5, 2.0)
    inputs = [promtool.trained(plan.settled + 5)]
    for name, value, bound_value, rate in (
        (PASSED, passed * threshold, threshold, plan.busy),
        (KEPT, kept * threshold, threshold, plan.busy),
        (FEW, passed * few, few, plan.few),
    ):
        operation = plan.operation(name)
        inputs += [operation.live(spec, value), operation.info(spec.name)]
        inputs += [operation.replayed(spec.name, bound, float(REPLAYED))]
        inputs += plan.with_traffic(operation, spec, rate)
        inputs += operation.hourly(bound, spec.name, bound_value)
        inputs += operation.hourly("expected", spec.name, expected * bound_value)
    alert = rules.alert_name(spec, bound, "Baseline")
    facts = plan.facts(PASSED, passed * threshold, threshold, expected * threshold)
    fired = _fired(spec, PASSED, rules.learned_annotations(spec, bound, facts))
    return promtool.test(alert, inputs, [(alert, plan.settled, fired)])


def _boundary(plan: _Plan) -> Test:
    """The same live value passes the bound of the first hours, and not that of the next."""
    switch = math.ceil(plan.settled / 60) * 60
    keeps = math.ceil(plan.params.thresholds.keep_firing_s / 60)
    hours = promtool.hours(switch)
    inputs = [promtool.trained(switch + keeps + 5)]
    checks = []
    for spec, bound in plan.watched:
        alert = rules.alert_name(spec, bound, "Baseline")
        operation = plan.operation(alert, switch + keeps + 5)
        scale = plan.busy if spec.name == "rate" else 0.1
        tight, loose = (1.0, 3.0) if bound == "upper" else (3.0, 1.0)
        later = promtool.hours(switch + keeps + 5)
        values = {hour: scale * (tight if hour in hours[:-1] else loose) for hour in later}
        inputs += [operation.live(spec, 2 * scale)]
        inputs += plan.with_traffic(operation, spec, plan.busy)
        inputs += operation.hourly(bound, spec.name, values)
        inputs += operation.hourly("expected", spec.name, values)
        firing = _firing(spec, alert, SERVICE, alert)
        checks += [
            promtool.expects(firing, switch + keeps - 1, 1.0),
            promtool.expects(firing, switch + keeps, None),
        ]
    return {
        "name": "learned alerts follow the hour of the week",
        "interval": "1m",
        "input_series": inputs,
        "promql_expr_test": checks,
    }


def _static(plan: _Plan) -> list[Test]:
    """Static alerts fire without a baseline and on a stale one, not beside a fresh one."""
    minutes = plan.settled + 5
    live: list[Series] = []
    baseline: list[Series] = []
    off: list[Series] = []
    without, stale, fresh, silent = [], [], [], []
    for spec, bound in plan.watched:
        threshold = getattr(spec.fallback, bound)
        if threshold is None:
            continue
        alert = rules.alert_name(spec, bound, "Static")
        passed, kept = (2.0 * threshold, 0.5 * threshold)
        if bound == "lower":
            passed, kept = 0.0, 2.0 * threshold
        for name, value in ((alert, passed), (f"{alert} kept", kept)):
            operation = plan.operation(name)
            # Much traffic at first: the static lower bound needs traffic before.
            burst = f"{100 * plan.busy!r}x1 {promtool.steady(value, minutes)}"
            live.append(operation.live(spec, burst if spec.name == "rate" else value))
            live += plan.with_traffic(operation, spec, plan.busy)
        # A learned bound is passed as well, but it is stale and must not fire.
        learned = plan.operation(alert)
        edge = 0.5 * threshold if bound == "upper" else 2 * plan.busy
        baseline += [*learned.hourly(bound, spec.name, edge), learned.info(spec.name)]
        baseline += learned.hourly("expected", spec.name, edge)
        off.append(learned.marked("apm_alert_off", spec.name, bound))
        facts = plan.facts(alert, passed, threshold)
        says = rules.static_annotations(spec, bound, facts)
        stale.append((alert, plan.settled, _fired(spec, alert, says)))
        unknown = replace(facts, run_id="unknown", notebook="unknown")
        says = rules.static_annotations(spec, bound, unknown)
        without.append((alert, plan.settled, _fired(spec, alert, says)))
        fresh.append((alert, plan.settled, _NO_ALERT))
        silent.append((rules.alert_name(spec, bound, "Baseline"), plan.settled, _NO_ALERT))
    if not live:
        return []
    old = promtool.series(TRAINED, promtool.steady(-plan.params.thresholds.max_age_s - 60, minutes))
    return [
        promtool.test("static alerts stand in for no baseline", live, without),
        promtool.test(
            "static alerts stand in for a stale baseline, which is silent",
            [*live, *baseline, old],
            [*stale, *silent],
        ),
        promtool.test(
            "static alerts are silent beside a fresh baseline",
            [*live, *baseline, promtool.trained(minutes)],
            fresh,
        ),
        promtool.test(
            "static alerts that the gate turned off are silent",
            [*live, *off, promtool.trained(minutes)],
            fresh,
        ),
    ]


def _stale(plan: _Plan) -> list[Test]:
    """The alert is quiet up to the maximum age, and fires beyond it or without a timestamp."""
    age = plan.params.thresholds.max_age_s
    wait = math.ceil(plan.params.thresholds.for_s / 60)
    minutes = wait + 20
    info = plan.operation(PASSED, minutes).info("rate")
    alert = rules.STALE

    def fired(run_id: str) -> list[dict[str, Any]]:
        labels = {"severity": rules.STALE_SEVERITY}
        return [{"exp_labels": labels, "exp_annotations": rules.stale_annotations(age, run_id)}]

    # Too old after ten minutes.
    ageing = promtool.series(TRAINED, promtool.steady(600 - age, minutes))
    return [
        promtool.test(
            f"{alert} waits for the age, then fires",
            [ageing, info],
            [(alert, 10 + wait, _NO_ALERT), (alert, 12 + wait, fired(RUN_ID))],
        ),
        promtool.test(f"{alert} fires on nothing", [], [(alert, 2 + wait, fired("unknown"))]),
        promtool.test(
            f"{alert} is quiet on fresh thresholds",
            [promtool.trained(minutes), info],
            [(alert, minutes - 1, _NO_ALERT)],
        ),
    ]


def _gone(plan: _Plan) -> Test:
    """An operation whose live series vanished counts as rate 0."""
    spec = plan.signals["rate"]
    operation = plan.operation(PASSED)
    alert = rules.alert_name(spec, "lower", "Baseline")
    inputs = [
        operation.live(spec, f"{2 * plan.busy!r}x2 stale"),
        operation.info("rate"),
        promtool.trained(plan.settled + 5),
        operation.replayed("rate", "lower", float(REPLAYED)),
        *operation.hourly("lower", "rate", plan.busy),
        *operation.hourly("expected", "rate", plan.busy),
    ]
    seen = math.ceil(plan.params.thresholds.sustained_s / 60)
    held = [2 * plan.busy if minute <= 2 else 0.0 for minute in range(plan.settled + 1)][-seen:]
    facts = plan.facts(PASSED, sum(held) / len(held), plan.busy, plan.busy)
    fired = _fired(spec, PASSED, rules.learned_annotations(spec, "lower", facts))
    return promtool.test(
        f"{alert} fires when the series is gone", inputs, [(alert, plan.settled, fired)]
    )


def _published(plan: _Plan, spec: SignalSpec, bound: str, thresholds: pl.DataFrame) -> list[Test]:
    """Test the published series whose bound varies most over the tested hours."""
    # In the second hour, sustained values span the first one for a while.
    seen = math.ceil(plan.params.thresholds.sustained_s / 60)
    minutes = max(plan.settled + plan.resolved + 5, 60 + seen)
    milder = max if bound == "upper" else min
    rows = thresholds.filter(
        pl.col("signal") == spec.name,
        pl.col("bound") == bound,
        pl.col("hour_of_week").is_in(promtool.hours(minutes)),
    )
    most_varied = (
        rows.group_by("service_name", "operation")
        .agg(least=pl.col("value").min(), most=pl.col("value").max())
        .filter(pl.col("least") > 0)  # nothing is below 0, and twice 0 is not above it
        .sort(
            pl.col("most") / pl.col("least"),
            "service_name",
            "operation",
            descending=[True, False, False],
        )
    )
    if most_varied.is_empty():
        return []
    service, name, least, most = most_varied.row(0)
    own = rows.filter(pl.col("service_name") == service, pl.col("operation") == name)
    values: dict[int, float] = dict(own.sort("hour_of_week").select("hour_of_week", "value").rows())
    # The bound is passed until the alert fires, and kept from then on. There is always enough
    # traffic, so that only the bound decides.
    passed, kept = (2 * most, 0.5 * least) if bound == "upper" else (0.5 * least, 2 * most)
    if spec.name == "rate" and bound == "upper":
        passed = max(passed, plan.busy)
    traffic = plan.busy
    if spec.name == "error_ratio":
        least = plan.params.thresholds.min_failures / plan.params.thresholds.sustained_s
        traffic = max(traffic, 2 * least / passed)
    operation = promtool.Operation(service, name, minutes)
    alert = rules.alert_name(spec, bound, "Baseline")
    firing = _firing(spec, alert, service, name)
    recorded = _recorded(bound, service, name, spec.name)
    return [
        {
            "name": f"{alert} on a published bound",
            "interval": "1m",
            "input_series": [
                promtool.trained(minutes),
                operation.live(spec, f"{passed!r}x{plan.settled} {promtool.steady(kept, minutes)}"),
                *plan.with_traffic(operation, spec, traffic),
                *operation.hourly(bound, spec.name, values),
                *operation.hourly("expected", "rate", plan.busy),
            ],
            "promql_expr_test": [
                promtool.expects(firing, plan.settled, 1.0),
                promtool.expects(firing, plan.settled + plan.resolved, None),
                promtool.expects(recorded, 59, values[START_HOUR]),
                promtool.expects(recorded, 60, milder(values[START_HOUR], values[START_HOUR + 1])),
                promtool.expects(recorded, 60 + seen, values[START_HOUR + 1]),
            ],
        }
    ]


_NO_ALERT: list[dict[str, Any]] = []


def _recorded(bound: str, service: str, operation: str, signal: str) -> str:
    labels = promtool.selector(service=service, operation=operation, signal=signal)
    return f"apm:baseline_{bound}:current{labels}"


def _firing(spec: SignalSpec, alert: str, service: str, operation: str) -> str:
    """The series that Prometheus keeps of a firing alert, without its annotations."""
    labels = {"alertname": alert, "alertstate": "firing", "service": service}
    labels |= {"operation": operation, "severity": spec.severity, "signal": spec.name}
    return f"ALERTS{promtool.selector(**labels)}"


def _fired(spec: SignalSpec, operation: str, says: dict[str, str]) -> list[dict[str, Any]]:
    labels = {"service": SERVICE, "operation": operation}
    labels |= {"signal": spec.name, "severity": spec.severity}
    return [{"exp_labels": labels, "exp_annotations": says}]
