"""Budgets, burn rates and their data, compared with a recount in plain Python.

Tests `slo.report`, and through it `slo.events`, `slo.budget`, `slo.ledger` and `slo.tables`.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import rows
import slo_shop
from slo_shop import Request, moment

from apm_analytics.foundation.errors import BadParameter, NotEnoughData
from apm_analytics.lake import query, snapshots
from apm_analytics.signals import calendar
from apm_analytics.slo import ledger
from apm_analytics.slo import specs as slo_specs
from apm_analytics.slo.report import Given, SloReport, reports

WEEK = slo_shop.requests(seed=1, count=4_000, hours=7 * 24 - 1)


def report(lake: Path, specs: Path, given: Given | None = None, **more: object) -> SloReport:
    with query.connect(lake) as con:
        return reports(con, slo_specs.load(specs), given or slo_shop.given(), **more)[0]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of a week."""
    lake = tmp_path_factory.mktemp("week") / "lake"
    slo_shop.write(lake, WEEK)
    return lake


def end_of(found: list[Request]) -> datetime:
    last = slo_shop.MONDAY + timedelta(seconds=max(one.at_s for one in found))
    return last.replace(second=0, microsecond=0) + timedelta(minutes=1)


def test_a_budget_is_exact_to_the_last_event(week: Path, tmp_path: Path) -> None:
    folder = slo_shop.save(tmp_path, slo_shop.slo(objective="target: 0.96"))
    budget = report(week, folder).budgets[0]

    failed = sum(one.failed for one in WEEK)
    assert (budget.total, budget.bad) == (len(WEEK), failed)
    assert budget.allowed == Decimal("0.04") * len(WEEK)
    assert budget.left == Decimal("0.04") * len(WEEK) - failed
    assert budget.verdict == "missed"


def test_a_latency_objective_counts_every_slow_request(week: Path, tmp_path: Path) -> None:
    folder = slo_shop.save(tmp_path, slo_shop.threshold("target: 0.85, op: lt, value: 0.6"))
    budget = report(week, folder).budgets[0]

    assert budget.bad == sum(one.seconds >= 0.6 for one in WEEK)
    assert budget.verdict == "met"


def test_a_span_that_arrives_twice_counts_once(tmp_path: Path) -> None:
    found = WEEK[:500]
    slo_shop.write(tmp_path / "lake", found)
    slo_shop.write(tmp_path / "lake", found[:100])
    budget = report(tmp_path / "lake", slo_shop.save(tmp_path, slo_shop.slo())).budgets[0]

    assert (budget.total, budget.bad) == (500, sum(one.failed for one in found))


def slices(found: list[Request], until: datetime, minutes: int) -> dict[int, list[Request]]:
    start = until - timedelta(days=7)
    sliced: dict[int, list[Request]] = {}
    for one in slo_shop.tally(found, start, until):
        after = slo_shop.MONDAY + timedelta(seconds=one.at_s) - start
        sliced.setdefault(int(after // timedelta(minutes=minutes)), []).append(one)
    return {
        number: members
        for number, members in sliced.items()
        if len(members) >= slo_shop.LIMITS.slice_events
    }


def test_time_slices_are_counted_as_a_whole(week: Path, tmp_path: Path) -> None:
    folder = slo_shop.save(
        tmp_path,
        slo_shop.slo("Timeslices", "target: 0.9, timeSliceTarget: 0.9, timeSliceWindow: 30m"),
    )
    budget = report(week, folder).budgets[0]

    expected = slices(WEEK, end_of(WEEK), 30)
    bad = sum(
        10 * sum(not one.failed for one in members) < 9 * len(members)
        for members in expected.values()
    )
    assert (budget.total, budget.bad) == (len(expected), bad)
    assert budget.unmeasured == 7 * 48 - len(expected)
    assert budget.unit == "slices of 30 min"


def test_ratio_time_slices_give_every_slice_the_same_weight(week: Path, tmp_path: Path) -> None:
    folder = slo_shop.save(
        tmp_path, slo_shop.slo("RatioTimeslices", "target: 0.9, timeSliceWindow: 60")
    )
    budget = report(week, folder).budgets[0]

    expected = slices(WEEK, end_of(WEEK), 60)
    ratios = [sum(one.failed for one in members) / len(members) for members in expected.values()]
    assert float(budget.bad) == pytest.approx(sum(ratios), rel=1e-12)
    assert float(budget.attainment or 0) == pytest.approx(1 - sum(ratios) / len(ratios))


def test_a_quantile_is_held_against_every_slice(week: Path, tmp_path: Path) -> None:
    document = slo_shop.threshold(
        "target: 0.9, op: lte, value: 0.3, timeSliceWindow: 1h",
        quantile=", quantile: 0.5",
        method="Timeslices",
    )
    budget = report(week, slo_shop.save(tmp_path, document)).budgets[0]

    expected = slices(WEEK, end_of(WEEK), 60)

    def median(members: list[Request]) -> float:
        ordered = sorted(one.seconds for one in members)
        half = len(ordered) // 2
        return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2

    bad = sum(median(members) > 0.3 for members in expected.values())
    assert (budget.total, budget.bad) == (len(expected), bad)


def test_burn_rates_look_back_exactly_their_windows(week: Path, tmp_path: Path) -> None:
    slo_report = report(week, slo_shop.save(tmp_path, slo_shop.slo(objective="target: 0.9")))
    rates = {one.window: one for one in slo_report.burns}

    at = end_of(WEEK)
    assert list(rates) == ["5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d"]
    for window, hours in (("1h", 1), ("6h", 6), ("1d", 24), ("3d", 72)):
        own = slo_shop.tally(WEEK, at - timedelta(hours=hours), at)
        failed = sum(one.failed for one in own)
        assert rates[window].total == len(own)
        assert rates[window].rate == pytest.approx(Decimal(failed) / len(own) / Decimal("0.1"))
    # Too few requests, and a window that begins before the data.
    assert rates["5m"].rate is None
    assert rates["30d"].rate is None


def test_maintenance_does_not_count_and_overlaps_count_once(week: Path, tmp_path: Path) -> None:
    entries = [
        calendar.Entry("maintenance", name, start.replace(tzinfo=UTC), end.replace(tzinfo=UTC),
                       services)
        for name, start, end, services in (
            ("upgrade", moment(24), moment(30), ("shop",)),
            ("network", moment(28), moment(33), ()),
            ("other", moment(60), moment(70), ("warehouse",)),
        )
    ]  # fmt: skip
    folder = slo_shop.save(tmp_path, slo_shop.slo())
    slo_report = report(week, folder, slo_shop.given(calendar.of(entries)))

    out = slo_shop.tally(WEEK, moment(24), moment(33))
    budget = slo_report.budgets[0]
    assert budget.excluded_total == len(out)
    assert budget.excluded_bad == sum(one.failed for one in out)
    assert budget.total == len(WEEK) - len(out)
    assert [entry.name for entry in slo_report.maintenance] == ["upgrade", "network"]


def test_late_data_restate_what_was_said(tmp_path: Path) -> None:
    lake, out = tmp_path / "lake", tmp_path / "out"
    calendar_week = (
        "{duration: 1w, calendar: {startTime: 2026-03-02 00:00:00, timeZone: Europe/Berlin}}"
    )
    folder = slo_shop.save(tmp_path / "slos", slo_shop.slo(window=calendar_week))
    slo_shop.write(lake, [one for one in WEEK if one.at_s < 80 * 3_600])
    first = report(lake, folder)
    when = datetime(2026, 3, 6, tzinfo=UTC)
    ledger.add(out, first.budgets, stated_at=when, data_hash="before", run_id="one")

    # No late data: data after that moment restate nothing.
    slo_shop.write(lake, [one for one in WEEK if one.at_s >= 80 * 3_600])
    given = slo_shop.given(stated=ledger.read(out))
    assert report(lake, folder, given).restatements == ()

    late = [Request(40 * 3_600 + number, 0.1, number < 7) for number in range(20)]
    slo_shop.write(lake, late, salt=1)
    (changed,) = report(lake, folder, given).restatements
    assert changed.total_now - changed.total_before == 20
    assert changed.bad_now - changed.bad_before == 7
    assert (changed.run_id, changed.data_hash) == ("one", "before")


def test_the_ledger_keeps_what_changed_and_repeats_nothing(week: Path, tmp_path: Path) -> None:
    budgets = report(week, slo_shop.save(tmp_path / "slos", slo_shop.slo())).budgets
    when = datetime(2026, 3, 9, tzinfo=UTC)
    for run in ("one", "two"):
        ledger.add(tmp_path, budgets, stated_at=when, data_hash="same", run_id=run)
    ledger.add(tmp_path, budgets, stated_at=when, data_hash="other", run_id="three")

    assert [one.run_id for one in ledger.read(tmp_path)] == ["one", "three"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (slo_shop.slo().replace("service: shop, o", "service: shopp, o"), "no service 'shopp'"),
        (slo_shop.slo().replace("GET /", "GET /nowhere"), "no operation 'GET /nowhere'"),
    ],
)
def test_a_name_that_the_lake_does_not_know_is_insufficient(
    week: Path, tmp_path: Path, document: str, message: str
) -> None:
    budget = report(week, slo_shop.save(tmp_path, document)).budgets[0]

    assert message in budget.reason
    assert (budget.verdict, budget.attainment, budget.left) == ("insufficient", None, None)


def test_little_traffic_is_insufficient(tmp_path: Path) -> None:
    slo_shop.write(tmp_path / "lake", [Request(60.0 * number, 0.1, True) for number in range(9)])
    budget = report(tmp_path / "lake", slo_shop.save(tmp_path, slo_shop.slo())).budgets[0]

    assert budget.reason == "9 requests, at least 10 are needed"


def test_a_period_outside_the_data_is_insufficient(week: Path, tmp_path: Path) -> None:
    folder = slo_shop.save(tmp_path, slo_shop.slo())
    for month in ("2025-12", "2026-06"):
        budget = report(week, folder, month=month).budgets[0]
        assert "do not reach into the period" in budget.reason


def test_a_hole_in_the_data_is_named_and_lowers_what_is_covered(tmp_path: Path) -> None:
    found = [one for one in WEEK if not 30 * 3_600 <= one.at_s < 36 * 3_600]
    slo_shop.write(tmp_path / "lake", found)
    data = report(tmp_path / "lake", slo_shop.save(tmp_path, slo_shop.slo())).completeness

    holes = [(began, ended) for began, ended in data.gaps if began > slo_shop.MONDAY]
    assert len(holes) == 1
    began, ended = holes[0]
    assert began <= moment(30) and ended >= moment(36)
    assert timedelta(hours=6) <= ended - began <= timedelta(hours=6, minutes=30)
    # The window of 7 days begins an hour before the first request.
    assert 1 - 7.5 / 168 < data.covered < 1 - 6.9 / 168


def test_what_if_keeps_the_counts_and_changes_the_budget(week: Path, tmp_path: Path) -> None:
    slo_report = report(week, slo_shop.save(tmp_path, slo_shop.slo()), what_if=[Decimal("0.999")])

    assert slo_report.what_if[0].bad == slo_report.budgets[0].bad
    assert slo_report.what_if[0].allowed == Decimal("0.001") * len(WEEK)
    assert (slo_report.budgets[0].verdict, slo_report.what_if[0].verdict) == ("met", "missed")


def test_a_composite_is_the_weighted_mean_of_its_steps(tmp_path: Path) -> None:
    pages, carts = WEEK, slo_shop.requests(seed=2, count=800, hours=160, name="POST /cart")
    slo_shop.write(tmp_path / "lake", [*pages, *carts])
    step = """apiVersion: openslo/v1
kind: SLI
metadata: {{name: {name}}}
spec:
  ratioMetric:
    bad: {{metricSource: {{type: apm-lake, spec: {{service: shop, operation: {op}, status: error}}}}}}
    total: {{metricSource: {{type: apm-lake, spec: {{service: shop, operation: {op}}}}}}}
"""  # noqa: E501
    journey = """apiVersion: openslo/v1
kind: SLO
metadata: {name: journey}
spec:
  service: shop
  timeWindow: [{duration: 1w, isRolling: true}]
  budgetingMethod: Occurrences
  objectives:
    - {displayName: look, target: 0.9, indicatorRef: pages}
    - {displayName: take, target: 0.8, indicatorRef: carts, compositeWeight: 3}
"""
    folder = slo_shop.save(
        tmp_path,
        journey,
        step.format(name="pages", op="GET /"),
        step.format(name="carts", op="POST /cart"),
    )
    look, take, whole = report(tmp_path / "lake", folder).budgets

    assert (look.total, take.total) == (len(pages), len(carts))
    failed = [sum(one.failed for one in found) / len(found) for found in (pages, carts)]
    assert float(whole.attainment or 0) == pytest.approx(1 - (failed[0] + 3 * failed[1]) / 4)
    assert whole.target == Decimal("0.825")


def test_bad_requests_lead_to_their_traces(week: Path, tmp_path: Path) -> None:
    violations = report(week, slo_shop.save(tmp_path, slo_shop.slo()), violations=5).violations

    assert violations.height == 5
    assert violations["trace_id"].null_count() == 0
    assert violations["duration_s"].is_sorted(descending=True)


def test_an_empty_lake_is_not_enough(tmp_path: Path) -> None:
    logs = rows.table("logs", {"time": [rows.MONDAY_NS], "body": ["started"]})
    snapshots.append(tmp_path / "lake", {"logs": logs})
    with pytest.raises(NotEnoughData, match="no span"):
        report(tmp_path / "lake", slo_shop.save(tmp_path, slo_shop.slo()))


@pytest.mark.parametrize("month", ["2026-13", "March", "2026"])
def test_a_month_that_does_not_exist_is_refused(week: Path, tmp_path: Path, month: str) -> None:
    with pytest.raises(BadParameter, match="needs one like 2026-03"):
        report(week, slo_shop.save(tmp_path, slo_shop.slo()), month=month)


def test_a_sampled_request_counts_for_those_it_stands_for(tmp_path: Path) -> None:
    # The threshold c of OpenTelemetry's sampling keeps a quarter: each stands for four.
    count = 40
    ids = [f"{number:016x}" for number in range(count)]
    spans = rows.table(
        "spans",
        {
            "time": [rows.MONDAY_NS + number * 10**9 for number in range(count)],
            "duration_ns": [10**8] * count,
            "trace_id": [one * 2 for one in ids],
            "span_id": ids,
            "trace_state": ["ot=th:c" if number % 2 else None for number in range(count)],
            "name": ["GET /"] * count,
            "kind": ["server"] * count,
            "status_code": ["error" if number < 4 else "unset" for number in range(count)],
            "service_name": ["shop"] * count,
        },
    )
    snapshots.append(tmp_path / "lake", {"spans": spans})
    slo_report = report(tmp_path / "lake", slo_shop.save(tmp_path, slo_shop.slo()))
    budget = slo_report.budgets[0]
    assert (budget.total, budget.bad) == (20 + 4 * 20, 2 + 4 * 2)
    assert slo_report.completeness.sampled == 20
