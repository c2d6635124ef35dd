"""The hot view holds the last minutes, every span once."""

import time
from pathlib import Path

import pyarrow as pa
import pytest
from rows import spans

from apm_analytics.foundation.errors import BadParameter, NotFound
from apm_analytics.lake import snapshots
from apm_analytics.lake.hot import COLUMNS, HotView
from apm_analytics.lake.schema import TABLES

MINUTE = 60.0


def ids(rows: pa.Table) -> list[str]:
    return sorted(rows["span_id"].to_pylist())


def test_a_refresh_gives_what_is_new_and_the_view_keeps_the_last_minutes(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([0, 10 * MINUTE])})
    view = HotView(tmp_path, minutes=15)
    assert view.spans().num_rows == 2
    assert view.refresh().num_rows == 0
    new = spans([16 * MINUTE, 17 * MINUTE])
    snapshots.append(tmp_path, {"spans": new})
    assert ids(view.refresh()) == ids(new)
    assert ids(view.spans()) == ids(spans([10 * MINUTE, 16 * MINUTE, 17 * MINUTE]))
    assert view.generation == 1


def test_a_long_run_of_small_parts_keeps_every_span_once_in_few_pieces(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([0])})
    view = HotView(tmp_path, minutes=15)
    for second in range(1, 71):
        snapshots.append(tmp_path, {"spans": spans([second], name=f"GET /{second}")})
        if second % 3 == 0:
            view.refresh()
    view.refresh()
    assert ids(view.spans()) == ids(spans(range(71)))
    assert view.spans()["time"].num_chunks < 40


def test_sql_sees_weights_and_entry_spans_of_what_is_held(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([1])})
    view = HotView(tmp_path)
    asked = "select count(*) as n, sum(sample_weight) as weight from entry_spans where name = $name"
    assert view.query(asked, {"name": "GET /"}).row(0) == (1, 1.0)
    snapshots.append(tmp_path, {"spans": spans([2])})
    view.refresh()
    assert view.query(asked, {"name": "GET /"}).row(0) == (2, 2.0)


def test_a_span_dated_in_the_future_does_not_push_out_the_others(tmp_path: Path) -> None:
    future_s = time.time() + 10 * 86_400 - 1_772_409_600
    now_s = time.time() - 1_772_409_600
    snapshots.append(tmp_path, {"spans": spans([now_s - 60])})
    view = HotView(tmp_path, minutes=15)
    snapshots.append(tmp_path, {"spans": spans([future_s])})
    view.refresh()
    assert view.spans().num_rows == 2


def test_columns_are_those_asked_for_and_odd_ones_are_refused(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([1])})
    view = HotView(tmp_path, columns=[*COLUMNS, "attributes"])
    assert view.spans().column_names == [*COLUMNS, "attributes"]
    assert set(COLUMNS) < set(TABLES["spans"].names)
    with pytest.raises(BadParameter, match=r"unknown columns \['colour'\]"):
        HotView(tmp_path, columns=[*COLUMNS, "colour"])
    with pytest.raises(BadParameter, match="trace_state"):
        HotView(tmp_path, columns=["time", "name"])
    with pytest.raises(BadParameter, match="minutes"):
        HotView(tmp_path, minutes=0)
    with pytest.raises(NotFound, match="no lake"):
        HotView(tmp_path / "nowhere")
