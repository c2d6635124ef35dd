"""`transactions.live`: violations are reported while they happen."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import rows
from click.testing import CliRunner
from transaction_spans import MONDAY, SPECS, Span, noon, write

from apm_analytics.cli import apm
from apm_analytics.lake.hot import HotView
from apm_analytics.transactions import report
from apm_analytics.transactions import specs as transactions_specs
from apm_analytics.transactions.live import Watcher


def watcher(tmp_path: Path) -> Watcher:
    file = tmp_path / "transactions.yaml"
    # An order without its charge is running too; only the checkout matters here.
    head, _, rest = SPECS.partition("  order:")
    file.write_text(head + rest[rest.index("  buying:") :])
    transactions, hours = transactions_specs.load(file)
    return Watcher(HotView(tmp_path / "lake"), transactions, hours, timeout_s=60)


def at(seconds: float) -> datetime:
    return MONDAY + timedelta(seconds=seconds)


def call(trace: str, start: float, seconds: float) -> Span:
    """The child call of a checkout, which arrives when it has ended."""
    return Span(start, "POST /orders", seconds, False, "orders", trace, f"{trace}2", f"{trace}1")


def checkout(trace: str, start: float, seconds: float) -> Span:
    return Span(start, "POST /checkout", seconds, False, "shop", trace, f"{trace}1")


def test_a_violation_is_flagged_while_the_transaction_still_runs(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    write(lake, [checkout("a", noon(0), 0.3), call("a", noon(0) + 0.1, 0.1)])
    watching = watcher(tmp_path)
    assert watching.look(at(noon(0) + 10)).is_empty()

    # The call has ended, the checkout has not: first within its 0.5 s, later beyond.
    write(lake, [call("b", noon(1), 0.2)])
    assert watching.look(at(noon(1) + 0.4)).is_empty()
    (running,) = watching.look(at(noon(1) + 2)).to_dicts()
    assert (running["transaction"], running["state"], running["trace_id"]) == (
        "checkout",
        "in_flight",
        "b",
    )
    assert running["so_far_s"] == 2.0

    # It is reported once, and once more with its outcome.
    assert watching.look(at(noon(1) + 3)).is_empty()
    write(lake, [checkout("b", noon(1), 3.5)])
    (ended,) = watching.look(at(noon(1) + 4)).to_dicts()
    assert (ended["state"], ended["so_far_s"]) == ("completed", 3.5)
    assert watching.look(at(noon(1) + 5)).is_empty()
    assert "checkout has run 2 s (SLA 0.5 s), trace b" in report.line(running)
    assert "checkout completed after 3.5 s" in report.line(ended)


def test_outside_the_hours_of_its_sla_nothing_is_flagged(tmp_path: Path) -> None:
    write(tmp_path / "lake", [checkout("a", 3_600, 2.0)])
    assert watcher(tmp_path).look(at(3_610)).is_empty()


def test_the_commands_print_reports_and_violations(tmp_path: Path) -> None:
    # At the current time, with a calendar that is always open.
    specs = SPECS.replace("mon-fri 09:00-17:00", "mon-sun 00:00-24:00")
    (tmp_path / "transactions.yaml").write_text(specs)
    ago = (datetime.now(UTC) - datetime(2026, 3, 2, tzinfo=UTC)).total_seconds() - 30
    assert rows.MONDAY_NS + ago * 1e9 > rows.MONDAY_NS
    write(tmp_path / "lake", [checkout("a", ago, 2.0)])
    shared = ["--lake", str(tmp_path / "lake"), "--specs", str(tmp_path)]

    seen = CliRunner().invoke(apm, ["transactions", "watch", "--once", *shared])
    assert seen.exit_code == 0, seen.output
    assert "checkout completed after 2 s (SLA 0.5 s), trace a" in seen.output
    told = CliRunner().invoke(apm, ["transactions", "report", "--by", "segment", *shared])
    assert told.exit_code == 0, told.output
    assert "missed" in told.output
