"""Business transactions: their outcome, segments, and the hours in which their SLA counts.

Also tests `transactions.specs` and `transactions.hours`, which have no test file of their own.
"""

from datetime import datetime
from pathlib import Path

import pytest
import slo_shop
from transaction_spans import MONDAY, SPECS, Span, noon, write

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.lake import query
from apm_analytics.report.pages import sla
from apm_analytics.transactions import instances
from apm_analytics.transactions import specs as transactions_specs
from apm_analytics.transactions.hours import Hours
from apm_analytics.transactions.instances import Instances

EVENING = datetime(2026, 3, 2, 20)


def gather(
    tmp_path: Path, spans: list[Span], *, until: datetime = EVENING, specs: str = SPECS
) -> Instances:
    write(tmp_path / "lake", spans)
    file = tmp_path / "transactions.yaml"
    file.write_text(specs)
    transactions, hours = transactions_specs.load(file)
    con = query.connect(tmp_path / "lake")
    return instances.gather(con, transactions, hours, since=MONDAY, until=until, timeout_s=60)


def row(found: Instances, name: str) -> dict[str, object]:
    return instances.summary(found).filter(transaction=name).row(0, named=True)


def test_a_root_operation_is_counted_and_judged_in_office_hours(tmp_path: Path) -> None:
    spans = [
        Span(noon(0), "POST /checkout", 0.2),
        Span(noon(1), "POST /checkout", 0.7),  # too slow
        Span(noon(2), "POST /checkout", 0.1, failed=True),
        Span(noon(3), "POST /checkout", 0.3),
        Span(19 * 3_600, "POST /checkout", 0.9),  # in the evening, outside the hours of the SLA
    ]
    result = gather(tmp_path, spans)
    told = row(result, "checkout")

    assert (told["instances"], told["completed"], told["failed"]) == (5, 4, 1)
    assert (told["judged"], told["attained"], told["attainment"]) == (4, 2, 0.5)
    assert told["verdict"] == "met"
    assert told["latency_p50_s"] == pytest.approx(0.5)
    assert told["value"] == 40
    worst = instances.violations(result, "checkout")
    assert worst["duration_s"].to_list() == [0.7, 0.1]
    assert worst["trace_id"].to_list() == ["t0000000000000001", "t0000000000000002"]


def test_a_root_that_has_not_arrived_is_in_flight_then_abandoned(tmp_path: Path) -> None:
    whole = [
        Span(noon(0), "POST /checkout", 0.2, trace="a", span="a1"),
        Span(noon(0), "POST /orders", 0.1, service="orders", trace="a", span="a2", parent="a1"),
    ]
    begun = Span(noon(5), "POST /orders", 0.1, service="orders", trace="b", span="b2", parent="b1")
    now = datetime(2026, 3, 2, 11, 5, 30)
    result = gather(tmp_path, [*whole, begun], until=now)
    assert (row(result, "checkout")["in_flight"], row(result, "checkout")["judged"]) == (1, 1)

    later = instances.gather(
        result.con, result.transactions, {"office": Hours.read("UTC", ["mon-fri 00:00-24:00"])},
        since=MONDAY, until=EVENING, timeout_s=60,
    )  # fmt: skip
    told = row(later, "checkout")
    assert (told["in_flight"], told["abandoned"], told["judged"]) == (0, 1, 2)
    assert told["success_ratio"] == 0.5
    (abandoned,) = instances.violations(later, "checkout").to_dicts()
    assert (abandoned["state"], abandoned["trace_id"]) == ("abandoned", "b")


def test_a_span_that_hangs_below_several_operations_accuses_none(tmp_path: Path) -> None:
    spans = [
        Span(1.0, "POST /checkout", 0.2, trace="a", span="a1"),
        Span(1.0, "auth", 0.1, trace="a", span="a2", parent="a1"),
        Span(2.0, "GET /", 0.2, trace="b", span="b1"),
        Span(2.0, "auth", 0.1, trace="b", span="b2", parent="b1"),
        Span(3.0, "auth", 0.1, trace="c", span="c2", parent="c1"),
    ]
    assert row(gather(tmp_path, spans), "checkout")["instances"] == 1


def test_a_sequence_in_a_trace_lasts_from_its_first_to_its_last_step(tmp_path: Path) -> None:
    def order(trace: str, at: float, charge: float, *, failed: bool = False) -> list[Span]:
        return [
            Span(at, "POST /orders", 0.9, service="orders", trace=trace, span=f"{trace}1"),
            Span(
                at + 0.3, "POST /charges", charge, failed, "bank", trace, f"{trace}2", f"{trace}1"
            ),
        ]

    spans = [
        *order("a", 100, 0.4),
        *order("b", 200, 0.9),  # 1.2 s: too slow
        *order("c", 300, 0.1, failed=True),
        Span(400, "POST /orders", 0.2, service="orders", trace="d", span="d1"),  # never charged
    ]
    result = gather(tmp_path, spans)
    told = row(result, "order")
    assert (told["completed"], told["failed"], told["abandoned"]) == (2, 1, 1)
    assert (told["judged"], told["attained"], told["verdict"]) == (4, 1, "missed")
    durations = instances.violations(result, "order")
    assert durations.filter(trace_id="b")["duration_s"].item() == pytest.approx(1.2)


def test_a_funnel_follows_the_session_and_a_failed_step_may_be_tried_again(
    tmp_path: Path,
) -> None:
    spans = [
        # buys at the second attempt
        Span(0, "GET /", session="a"),
        Span(60, "POST /cart", 0.2, session="a"),
        Span(90, "POST /checkout", 0.3, failed=True, session="a"),
        Span(120, "POST /checkout", 0.4, session="a"),
        # pays before browsing, which is out of order
        Span(5, "POST /checkout", session="b"),
        Span(50, "GET /search", session="b"),
        # returns after an hour: two attempts
        Span(10, "GET /", session="c"),
        Span(3_700, "GET /", session="c"),
        Span(3_760, "POST /cart", session="c"),
        # fills the cart and fails to pay
        Span(20, "GET /", session="d"),
        Span(40, "POST /cart", session="d"),
        Span(50, "POST /checkout", failed=True, session="d"),
        # still active at the end
        Span(20 * 3_600 - 30, "GET /", session="e"),
        # without a session id there is no funnel
        Span(30, "GET /"),
    ]
    result = gather(tmp_path, spans)
    told = row(result, "buying")

    assert told["instances"] == 6
    assert (told["completed"], told["failed"]) == (1, 1)
    assert (told["abandoned"], told["in_flight"]) == (3, 1)
    # An abandoned session is not a violation; a failed payment is.
    assert (told["judged"], told["attained"]) == (2, 1)
    funnel = instances.funnel(result, "buying")
    assert funnel["step"].to_list() == ["look", "take", "pay"]
    assert funnel["reached"].to_list() == [6, 3, 1]
    bought = query.frame(
        result.con, "select duration_ns, elapsed_ns from transaction_2 where state = 'completed'"
    )
    # The duration of the steps, and the elapsed time.
    assert bought.row(0) == (700_000_000, 120_400_000_000)


def test_a_second_purchase_in_a_session_is_an_instance_of_its_own(tmp_path: Path) -> None:
    once = ["GET /", "POST /cart", "POST /checkout"]
    spans = [Span(30.0 * number, name, session="a") for number, name in enumerate(once * 2)]
    assert row(gather(tmp_path, spans), "buying")["completed"] == 2


def test_parts_by_organization_and_segment_add_up(tmp_path: Path) -> None:
    spans = [
        Span(
            noon(number),
            "POST /checkout",
            0.9 if number % 3 == 0 else 0.1,
            organization=f"org-{number % 2}",
            segment="company" if number % 4 else None,
        )
        for number in range(24)
    ]
    result = gather(tmp_path, spans)
    parts = instances.summary(result, by="organization_id").filter(transaction="checkout")
    assert parts["organization_id"].to_list() == ["org-0", "org-1"]
    assert parts["judged"].to_list() == [12, 12]
    segments = instances.summary(result, by="segment").filter(transaction="checkout")
    assert dict(segments.select("segment", "instances").iter_rows()) == {
        "company": 18,
        "unknown": 6,
    }


def test_spans_that_arrive_twice_are_one_instance(tmp_path: Path) -> None:
    spans = [
        Span(noon(0), "POST /checkout", session="a", trace="a", span="a1"),
        Span(noon(0), "POST /checkout", session="a", trace="a", span="a1"),
        Span(noon(0) - 9, "GET /", session="a", trace="b", span="b1"),
        Span(noon(0) - 9, "GET /", session="a", trace="b", span="b1"),
        Span(noon(0) - 5, "POST /cart", session="a", trace="c", span="c1"),
    ]
    instances = gather(tmp_path, spans)
    assert row(instances, "checkout")["instances"] == 1
    assert row(instances, "buying")["instances"] == 1


def test_nothing_measured_is_insufficient(tmp_path: Path) -> None:
    told = instances.summary(gather(tmp_path, [Span(1.0, "GET /nothing")]))
    assert told["verdict"].to_list() == ["insufficient"] * 3
    assert told["attainment"].to_list() == [None] * 3


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("owner: shop", "owmer: shop", 6, "owmer"),
        ("objective: 0.5", "objective: 1.5", 8, "less than 1"),
        ("threshold_s: 0.5", "threshold_s: 0", 8, "greater than 0"),
        ("Europe/Berlin", "Europe/Berlinn", 2, "IANA"),
        ("09:00-17:00", "17:00-09:00", 2, "ends before it starts"),
        ("mon-fri 09", "mo-fri 09", 2, "match pattern"),
        ("09:00-17:00]", "09:00-17:00, fri 18:00-19:00]", 2, "already has hours"),
        ("calendar: office", "calendar: offfice", 1, "there are: office"),
        ("across: session", "across: sesion", 20, "'trace' or 'session'"),
        ("operation: POST /cart}", "operation: GET /}", 17, "in two steps"),
        ("currency: EUR", "currency: euro", 9, "match pattern"),
    ],
)
def test_a_spec_that_does_not_fit_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    file = tmp_path / "transactions.yaml"
    file.write_text(SPECS.replace(old, new, 1))
    with pytest.raises(BadParameter) as caught:
        transactions_specs.load(file)
    assert message in str(caught.value)
    assert f"{file}:{line}: " in str(caught.value)


def test_office_hours_follow_daylight_saving() -> None:
    office = Hours.read("Europe/Berlin", ["mon-sun 09:00-17:00"])
    # Daylight saving time begins in the night to Sunday, 29 March 2026.
    intervals = office.intervals(datetime(2026, 3, 28), datetime(2026, 3, 30))
    assert intervals == [
        (datetime(2026, 3, 28, 8), datetime(2026, 3, 28, 16)),
        (datetime(2026, 3, 29, 7), datetime(2026, 3, 29, 15)),
    ]


def test_the_night_of_the_change_has_its_real_length() -> None:
    night = Hours.read("Europe/Berlin", ["mon-sun 00:00-24:00"])
    lengths = {
        (end - start).total_seconds() / 3_600
        for day in (datetime(2026, 3, 29), datetime(2026, 10, 25))
        for start, end in night.intervals(day, day.replace(hour=12))
        if start.date() < day.date()
    }
    assert lengths == {23.0, 25.0}


def test_a_closed_day_has_no_hours() -> None:
    office = Hours.read("UTC", ["mon-fri 09:00-17:00"], [datetime(2026, 3, 3).date()])
    days = {start.day for start, _ in office.intervals(MONDAY, datetime(2026, 3, 9))}
    assert days == {2, 4, 5, 6}


def test_the_transactions_of_the_workspace_fit(workspace: Path) -> None:
    transactions, hours = transactions_specs.load(workspace / "specs")
    assert [one.name for one in transactions] == ["checkout", "order", "buying"]
    assert set(hours) == {"office"}


def test_an_slo_may_be_on_a_transaction(tmp_path: Path) -> None:
    spans = [Span(100.0 * number, "GET /", session=f"{number}") for number in range(40)]
    spans += [Span(100.0 * number + 5, "POST /cart", session=f"{number}") for number in range(40)]
    spans += [
        Span(100.0 * number + 9, "POST /checkout", 2.0 if number < 4 else 0.1, session=f"{number}")
        for number in range(20)
    ]
    write(tmp_path / "lake", spans)
    (tmp_path / "transactions.yaml").write_text(SPECS)
    document = slo_shop.slo(good=", status: ok, max_duration_s: 1.0")
    document = document.replace("service: shop, operation: GET /", "transaction: buying")
    slo_shop.save(tmp_path / "slos", document)
    sla_report = sla.collect(tmp_path / "lake", tmp_path, specs=tmp_path)
    # Too few for a verdict by the workspace's params, but still counted.
    (budget,) = sla_report.reports[0].budgets
    assert (budget.total, budget.bad) == (20, 4)
    assert sla_report.reports[0].violations["trace_id"].null_count() == 0
