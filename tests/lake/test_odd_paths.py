"""The name of a folder is never a pattern, whatever characters it has.

Beside each lake lies another whose name the first one matches as a pattern, with other rows.
"""

from pathlib import Path

import pytest
from rows import MONDAY_NS, spans, table

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.frames import read_parquet
from apm_analytics.foundation.settings import RetentionSettings
from apm_analytics.lake import query, snapshots
from apm_analytics.lake.damage import PartsLeftOut
from apm_analytics.lake.hot import HotView
from apm_analytics.lake.maintenance import compaction, retention
from apm_analytics.lake.maintenance.erasure import erase
from apm_analytics.lake.maintenance.verify import verify

NAMES = [
    ("a[b]", "ab"),
    ("a*", "ab"),
    ("a?", "ab"),
    ("**", "ab"),
    ("[!a]*", "bb"),
    ("[a", "ab"),
    ('it\'s "here"', "ab"),
    ("wörk 日本 $x %20 {y} #1", "ab"),
    ("back\\slash", "ab"),
    ("~", "ab"),
    ("date=2026-01-01", "ab"),
]


def services(lake: Path) -> list[str]:
    with query.connect(lake) as con:
        sql = "select service_name as service from spans order by all"
        return query.frame(con, sql)["service"].to_list()


def write(lake: Path, service: str) -> None:
    for second in range(3):
        snapshots.append(lake, {"spans": spans([second], service=service)}, documents=[f"{second}"])


@pytest.mark.parametrize(("name", "beside"), NAMES)
def test_a_lake_is_kept_in_a_folder_of_any_name(tmp_path: Path, name: str, beside: str) -> None:
    lake, other = tmp_path / name / "lake", tmp_path / beside / "lake"
    write(other, "other")
    write(lake, "shop")
    assert services(lake) == ["shop"] * 3
    assert HotView(lake).spans().num_rows == 3
    compaction.compact(lake, grace_s=0)
    assert services(lake) == ["shop"] * 3 and verify(lake).sound
    assert services(other) == ["other"] * 3 and verify(other).sound


@pytest.mark.parametrize(("name", "beside"), NAMES[:8])
def test_erasure_and_retention_change_this_lake_only(
    tmp_path: Path, name: str, beside: str
) -> None:
    lakes = [tmp_path / beside, tmp_path / name]
    day_ns = 24 * 3_600 * 10**9
    for lake in lakes:
        rows = {
            "time": [MONDAY_NS, MONDAY_NS + 1],
            "service_name": ["old", "shop"],
            "user_id": ["anna-17", "ben-18"],
        }
        snapshots.append(lake, {"logs": table("logs", rows)})
        points = {
            "time": [MONDAY_NS + number * 10**9 for number in range(30)],
            "name": ["load"] * 30,
            "kind": ["gauge"] * 30,
            "value": [1.0] * 30,
        }
        snapshots.append(lake, {"metric_points": table("metric_points", points)})
    erase(lakes[1], "anna-17")
    done = retention.retain(lakes[1], RetentionSettings(), now_s=(MONDAY_NS + 10 * day_ns) / 1e9)
    assert (done.points_before, done.points_after) == (30, 1)
    for lake, kept in zip(lakes, (2, 1), strict=True):
        with query.connect(lake) as con:
            assert query.frame(con, "select user_id from logs").height == kept
        assert verify(lake).sound


def test_a_missing_part_is_not_replaced_by_that_of_a_lake_beside_it(tmp_path: Path) -> None:
    lake, other = tmp_path / "a[b]", tmp_path / "ab"
    write(other, "other")
    write(lake, "shop")
    next(lake.glob("spans/*/*/*.parquet")).unlink()
    with pytest.warns(PartsLeftOut, match="1 part is missing"):
        assert services(lake) == ["shop"] * 2


def test_a_path_that_duckdb_cannot_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a\\b[c]", "shop")
    with pytest.raises(BadParameter, match="backslash"):
        services(tmp_path / "a\\b[c]")


@pytest.mark.parametrize(("name", "beside"), NAMES)
def test_a_frame_is_read_from_a_folder_of_any_name(tmp_path: Path, name: str, beside: str) -> None:
    for folder, service in ((beside, "other"), (name, "shop")):
        (tmp_path / folder).mkdir()
        frame = query.frame(query.offline(), f"select '{service}' as service")
        frame.write_parquet(tmp_path / folder / "x[1].parquet")
    assert read_parquet(tmp_path / name / "x[1].parquet")["service"].to_list() == ["shop"]
