"""A part that is missing, cut, changed or replaced costs a query nothing but its own rows."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from rows import spans

import apm_analytics as apm
from apm_analytics import cli
from apm_analytics.foundation.errors import BadInput
from apm_analytics.lake import HotView, answers, damage, manifest, query, snapshots
from apm_analytics.lake.damage import PartsLeftOut
from apm_analytics.lake.maintenance import compaction, erasure, retention
from apm_analytics.lake.maintenance.repair import repair

DAY_S = 86_400


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Five days of 100 spans each, of one user per day."""
    for day in range(5):
        rows = spans([day * DAY_S + second for second in range(100)])
        place = rows.column_names.index("user_id")
        users = rows.schema.field("user_id").type
        rows = rows.set_column(place, rows.schema.field(place), [[f"user-{day}"] * 100])
        assert rows.schema.field("user_id").type == users
        snapshots.append(tmp_path, {"spans": rows})
    return tmp_path


def part(lake: Path, day: int) -> Path:
    [file] = lake.glob(f"spans/date=2026-03-0{2 + day}/*/*.parquet")
    return file


def missing(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[400] ^= 1
    file.write_bytes(content)


def rubbish(file: Path) -> None:
    file.write_bytes(b"x" * file.stat().st_size)


WAYS = [missing, cut, flipped, rubbish]
SUM = "select count(*) as n, sum(hash(spans)::double) as s from spans"


@pytest.mark.parametrize("day", [0, 2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_queries_go_on_without_it_and_say_which_rows_are_missing(
    lake: Path, way: Callable[[Path], None], day: int
) -> None:
    way(part(lake, day))
    said = f"spans: 100 rows from 2026-03-0{2 + day} 00:00 to 2026-03-0{2 + day} 01:00 UTC"
    with pytest.warns(PartsLeftOut, match=said), query.connect(lake) as con:
        assert query.frame(con, SUM)["n"].item() == 400
        listed = query.frame(con, "from missing_parts")
    assert listed["row_count"].to_list() == [100]
    assert listed["reason"].item() == ("missing" if way is missing else "damaged")
    with pytest.warns(PartsLeftOut):
        assert apm.open(lake).query(SUM)["n"].item() == 400
    with pytest.warns(PartsLeftOut):
        assert b"400" in answers.answer(lake, "select count(*) as n from spans where name <> ''")
    with pytest.warns(PartsLeftOut):
        view = HotView(lake, minutes=10 * 1_440)
    assert view.spans().num_rows == 400
    view.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_that_was_open_before_goes_on_too(
    lake: Path, way: Callable[[Path], None]
) -> None:
    with query.connect(lake) as con:
        way(part(lake, 1))
        with pytest.warns(PartsLeftOut, match="100 rows"):
            assert query.frame(con, SUM)["n"].item() == 400


@pytest.mark.parametrize("way", WAYS)
def test_a_file_put_back_counts_again(lake: Path, way: Callable[[Path], None]) -> None:
    file = part(lake, 1)
    content = file.read_bytes()
    way(file)
    with pytest.warns(PartsLeftOut), query.connect(lake) as con:
        query.frame(con, SUM)
    file.write_bytes(content)
    with query.connect(lake) as con:
        assert query.frame(con, SUM)["n"].item() == 500


@pytest.mark.parametrize("way", WAYS)
def test_maintenance_leaves_it_out_and_lists_it(lake: Path, way: Callable[[Path], None]) -> None:
    # As many as in the other part of the day, so that both would be merged.
    snapshots.append(lake, {"spans": spans([DAY_S + 200 + second for second in range(100)])})
    file = next(f for f in lake.glob("spans/date=2026-03-03/*/*.parquet"))
    path = str(file.relative_to(lake))
    way(file)
    done = compaction.compact(lake)
    assert [each.path for each in done.left_out] == [path] and not done.failed
    with pytest.warns(PartsLeftOut):
        run = CliRunner().invoke(
            cli.apm, ["lake", "erase", "--user", "user-3", "--lake", str(lake)]
        )
        assert run.exit_code == 1 and "100 spans" in run.output and path in run.output
        with query.connect(lake) as con:
            users = query.frame(con, "select distinct user_id from spans")["user_id"].to_list()
    assert "user-3" not in users
    periods = retention.RetentionSettings(traces_days=99_999)
    assert [each.path for each in retention.retain(lake, periods).left_out] == [path]
    left = [each.part.path for each in repair(lake)]
    assert left == [path]
    with query.connect(lake) as con:  # without a warning
        query.frame(con, SUM)
    receipt = erasure.erase(lake, "user-1")
    assert receipt.exists()


def test_damage_in_a_read_only_lake_is_left_out_too(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise damage.ApmError("read-only")

    monkeypatch.setattr(manifest, "mark_damaged", refused)
    flipped(part(lake, 2))
    with pytest.warns(PartsLeftOut), query.connect(lake) as con:
        assert query.frame(con, SUM)["n"].item() == 400


def test_a_wrong_statement_does_not_read_the_whole_lake(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(damage, "sha256", hashed.append)
    with query.connect(lake) as con:
        for sql in (
            "selec",
            "select nothing from spans",
            "select name::int from spans",
            "select $one",
            "from read_parquet('/nowhere/else.parquet')",
        ):
            with pytest.raises((query.SqlError, BadInput)):
                query.frame(con, sql)
    assert not hashed


def test_queries_go_on_while_parts_are_erased_and_merged(lake: Path) -> None:
    """Every answer has all rows of the users that are not erased."""
    ended = threading.Event()
    faults: list[Exception] = []

    def ask() -> None:
        con = query.connect(lake)
        try:
            while not ended.is_set():
                counted = query.frame(con, "select count(*) filter (name = 'GET /') from spans")
                assert counted.item() >= 100
                assert apm.open(lake).query("select count(*) from spans").item() >= 100
        except Exception as error:
            faults.append(error)
        finally:
            con.close()

    readers = [threading.Thread(target=ask) for _ in range(2)]
    for reader in readers:
        reader.start()
    for day in range(4):
        erasure.erase(lake, f"user-{day}")
        snapshots.append(lake, {"spans": spans([day * DAY_S + 500])})
        compaction.compact(lake, grace_s=0)
    ended.set()
    for reader in readers:
        reader.join()
    assert not faults
