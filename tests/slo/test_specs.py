"""OpenSLO documents: supported fields, and errors with their line.

Tests `slo.specs`, and through it `slo.schema` and `slo.model`.
"""

from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
import slo_shop

from apm_analytics.foundation.errors import BadParameter, NotFound
from apm_analytics.slo import specs as slo_specs
from apm_analytics.slo.model import Window

BERLIN = Window(months=1, start=datetime(2026, 1, 1), zone="Europe/Berlin")


def refused(folder: Path, *documents: str) -> str:
    with pytest.raises(BadParameter) as caught:
        slo_specs.load(slo_shop.save(folder, *documents))
    return str(caught.value)


def test_the_slos_of_the_workspace_fit(workspace: Path) -> None:
    slos = {
        slo.name: slo
        for slo in slo_specs.load(workspace / "specs" / "slos", transactions=frozenset({"order"}))
    }

    assert slos["checkout-availability"].objectives[0].target == Decimal("0.985")
    assert slos["buying-journey"].composite
    assert [one.weight for one in slos["buying-journey"].objectives] == [1, 1, 2]
    assert slos["search-latency"].objectives[0].slice_min == 15


def test_a_target_in_percent_is_exact(tmp_path: Path) -> None:
    folder = slo_shop.save(tmp_path, slo_shop.slo(objective="targetPercent: 99.95"))

    assert slo_specs.load(folder)[0].objectives[0].target == Decimal("0.9995")


@pytest.mark.parametrize(
    ("document", "line", "expected"),
    [
        (slo_shop.slo().replace("budgetingMethod", "budgettingMethod"), 14, "budgetingMethod"),
        (slo_shop.slo(method="Ocurrences"), 14, "'Ocurrences', needs one of Occurrences"),
        (slo_shop.slo().replace("kind: SLO", "kind: SLObjective"), 2, "needs one of"),
        (slo_shop.slo().replace("openslo/v1", "openslo/v2"), 1, "needs 'openslo/v1'"),
        (slo_shop.slo(objective="target: 1.0"), 16, "1.0"),
        (slo_shop.slo(objective="target: 0.9, targetPercent: 90"), 16, "either target or"),
        (slo_shop.slo(objective="target: 0.9, op: lte, value: 3"), 16, "no op and no value"),
        (slo_shop.slo(good=", status: okay"), 11, "needs one of ok, error"),
        (slo_shop.slo(good=""), 11, "the same as total"),
        (slo_shop.slo(good=", where: {colour: red}, status: ok"), 11, "no column 'colour'"),
        (slo_shop.slo(good=", where: {server_port: https}"), 11, "holds int64"),
        (slo_shop.slo(window="{duration: 4x, isRolling: true}"), 13, "4x"),
        (slo_shop.slo(window="{duration: 4w, isRolling: false}"), 13, "needs true"),
        (
            slo_shop.slo(
                window="{duration: 1M, calendar: "
                "{startTime: 2026-01-01 00:00:00, timeZone: Europe/Berlinn}}"
            ),
            13,
            "'Europe/Berlinn', needs a name as in the IANA",
        ),
        (
            slo_shop.slo(
                window="{duration: 1M, calendar: "
                "{startTime: 2026-02-30 00:00:00, timeZone: Europe/Berlin}}"
            ),
            13,
            "a day that exists",
        ),
        (slo_shop.slo(method="Timeslices"), 16, "needs timeSliceWindow"),
        (slo_shop.slo(method="Timeslices", objective="target: 0.9, timeSliceWindow: 5m"), 16,
         "needs timeSliceTarget"),
        (slo_shop.slo(objective="target: 0.9, timeSliceWindow: 5m"), 16, "no time slices"),
        (slo_shop.threshold("target: 0.9"), 14, "needs op and value"),
        (slo_shop.threshold("target: 0.9, op: lte, value: 1", quantile=", quantile: 0.9"), 14,
         "a quantile needs time slices"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_line(
    tmp_path: Path, document: str, line: int, expected: str
) -> None:
    message = refused(tmp_path, document)

    assert expected in message
    assert f"slos.yaml:{line}: " in message


def test_the_line_counts_on_through_the_documents_of_a_file(tmp_path: Path) -> None:
    message = refused(tmp_path, slo_shop.slo(), slo_shop.slo(name="other", method="Sometimes"))

    assert f"slos.yaml:{slo_shop.slo().count(chr(10)) + 1 + 14}: spec.budgetingMethod" in message


def test_two_documents_of_one_name_are_refused(tmp_path: Path) -> None:
    assert "'answers' is already used at" in refused(tmp_path, slo_shop.slo(), slo_shop.slo())


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    doubled = slo_shop.slo().replace("  service: shop\n", "  service: shop\n  service: store\n")

    assert "slos.yaml:7: spec.service is on line 6 already" in refused(tmp_path, doubled)


def test_a_typo_is_answered_with_the_field_that_was_meant(tmp_path: Path) -> None:
    assert "did you mean 'objectives'?" in refused(
        tmp_path, slo_shop.slo().replace("objectives", "objektives")
    )


def test_an_indicator_and_a_policy_that_do_not_exist_are_named(tmp_path: Path) -> None:
    document = slo_shop.slo().replace("timeWindow:", "alertPolicies: [fast-burn]\n  timeWindow:")
    message = refused(tmp_path, document)
    assert "no AlertPolicy 'fast-burn'" in message

    composite = """apiVersion: openslo/v1
kind: SLO
metadata: {name: journey}
spec:
  service: shop
  budgetingMethod: Occurrences
  objectives:
    - {target: 0.9, indicatorRef: nowhere}
    - {target: 0.9, indicatorRef: nowhere-else}
"""
    message = refused(tmp_path, composite)
    assert "slos.yaml:8: spec.objectives.0.indicatorRef: no SLI 'nowhere'" in message


def test_a_transaction_that_does_not_exist_is_named(tmp_path: Path) -> None:
    document = slo_shop.slo().replace("service: shop, operation: GET /", "transaction: purchase")

    assert "no transaction 'purchase'; there are: none" in refused(tmp_path, document)
    assert slo_specs.load(tmp_path, transactions=frozenset({"purchase"}))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no SLOs at"):
        slo_specs.load(tmp_path / "nothing")


def test_a_month_is_one_of_the_contracts_time_zone() -> None:
    # Daylight saving begins on 29 March 2026 in Berlin: the month is an hour shorter.
    start, end = BERLIN.month(2026, 3)
    assert (start, end) == (datetime(2026, 2, 28, 23), datetime(2026, 3, 31, 22))
    assert (end - start).total_seconds() == 31 * 86_400 - 3_600


def test_a_month_that_begins_on_the_15th_does_so_everywhere() -> None:
    window = Window(months=1, start=datetime(2025, 6, 15, 6), zone="America/New_York")
    assert window.month(2026, 3) == (datetime(2026, 3, 15, 10), datetime(2026, 4, 15, 10))


@pytest.mark.parametrize(
    ("at", "period"),
    [
        # At 23:00 UTC of 28 February it is March in Berlin; the last moment before is February's.
        (datetime(2026, 2, 28, 23), (datetime(2026, 1, 31, 23), datetime(2026, 2, 28, 23))),
        (datetime(2026, 2, 28, 23, 1), (datetime(2026, 2, 28, 23), datetime(2026, 3, 31, 22))),
        (datetime(2025, 12, 31, 22), (datetime(2025, 11, 30, 23), datetime(2025, 12, 31, 23))),
    ],
)
def test_the_present_window_of_a_calendar_follows_its_zone(
    at: datetime, period: tuple[datetime, datetime]
) -> None:
    assert BERLIN.period(at) == period


def test_hourly_windows_tell_the_repeated_hour_apart() -> None:
    # On 25 October 2026 Berlin's clock shows 02:00 to 03:00 twice.
    window = Window(minutes=1_440, start=datetime(2026, 1, 1, 2, 30), zone="Europe/Berlin")
    first, last = window.period(datetime(2026, 10, 25, 0, 45))
    assert first == datetime(2026, 10, 25, 0, 30)
    assert last == datetime(2026, 10, 26, 1, 30)


def test_a_quarter_starts_with_its_months() -> None:
    window = Window(months=3, start=datetime(2026, 1, 1))
    assert window.period(datetime(2026, 6, 30, 12)) == (datetime(2026, 4, 1), datetime(2026, 7, 1))
    assert window.period(datetime(2025, 12, 31)) == (datetime(2025, 10, 1), datetime(2026, 1, 1))
