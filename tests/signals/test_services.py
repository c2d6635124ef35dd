"""`signals.services`: requests per service in windows that fit a chart."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
import rows
import small_run

from apm_analytics.foundation.errors import NotEnoughData
from apm_analytics.lake import query, snapshots
from apm_analytics.signals import services


def test_requests_are_counted_at_the_entry_of_each_service(tmp_path: Path) -> None:
    run = small_run.write(tmp_path, trained=False)
    with query.connect(run.lake) as con:
        frame = services.requests(con)
    requests = {name: part["requests"].sum() for (name,), part in frame.group_by("service_name")}
    assert requests == {"storefront": 5760, "payment": 2304, "cart": 2304}
    last = frame.filter(service_name="payment").sort("time").row(-1, named=True)
    assert last["window_s"] == 3600 and last["rate_per_s"] == pytest.approx(48 / 3600)
    assert last["latency_p95_s"] > 1 and 0.1 < last["error_ratio"] < 0.6


def test_the_width_of_a_window_is_round_and_fits_the_chart() -> None:
    start = datetime(2026, 3, 1)
    widths = [
        services.window_width(start, start + timedelta(hours=hours), 180)
        for hours in (1, 2.5, 24, 28 * 24, 400 * 24)
    ]
    assert widths == [60, 60, 900, 21_600, 86_400]


def test_a_period_can_be_cut_out(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": rows.spans([0, 60, 7200])})
    with query.connect(tmp_path) as con:
        frame = services.requests(con, until=datetime(2026, 3, 2, 1))
    assert frame["requests"].sum() == 2


def test_a_lake_without_spans_says_what_to_do(tmp_path: Path) -> None:
    with query.connect(empty_lake(tmp_path)) as con, pytest.raises(NotEnoughData, match="import"):
        services.requests(con)


def empty_lake(folder: Path) -> Path:
    columns = {"time": [rows.MONDAY_NS], "body": ["hello"]}
    snapshots.append(folder, {"logs": rows.table("logs", columns)})
    return folder
