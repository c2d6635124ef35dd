"""A lost manifest costs nothing: it is made again, and nothing is deleted meanwhile."""

import os
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from killing import killed_before
from rows import MONDAY_NS, spans, table

from apm_analytics import cli
from apm_analytics.foundation.errors import ApmError, NotFound
from apm_analytics.foundation.settings import RetentionSettings
from apm_analytics.lake import manifest, parts, quarantine, query, snapshots
from apm_analytics.lake.maintenance import compaction, erasure, repair
from apm_analytics.lake.maintenance.rebuild import rebuild
from apm_analytics.lake.maintenance.retention import retain
from apm_analytics.lake.maintenance.verify import verify
from apm_analytics.lake.manifest import LostManifest, open_manifest

DAY_S = 86_400
NOW_S = MONDAY_NS / 1e9 + 3 * DAY_S
KEEP = RetentionSettings(logs_days=9_999, traces_days=9_999, metrics_days=9_999)
PERSON = "somebody-else"


def fill(lake: Path, count: int, *, first: int = 0) -> None:
    """Append snapshots of spans, logs and gauges, each with a document."""
    for number in range(first, first + count):
        at = [number * 10.0, number * 10.0 + DAY_S]
        times = [MONDAY_NS + int(t * 1e9) for t in at]
        users = [PERSON if number % 5 == 0 else "benn", "benn"]
        logs = {"time": times, "body": [f"log {number}"] * 2, "user_id": users}
        gauges = {"time": times, "name": ["m"] * 2, "kind": ["gauge"] * 2, "value": [1.0, 2.0]}
        tables = {
            "spans": spans(at),
            "logs": table("logs", logs),
            "metric_points": table("metric_points", gauges),
        }
        kept = {name: rows for name, rows in tables.items() if name != "logs" or number % 3}
        snapshots.append(lake, kept, documents=[f"document {number}"], source="a test")


def rows(lake: Path) -> Counter[str]:
    """Return all rows of all tables."""
    counted: Counter[str] = Counter()
    with query.connect(lake) as con:
        for name in ("spans", "logs", "metric_points", "exp_histogram_points"):
            counted.update(f"{name} {row}" for row in query.frame(con, f"from {name}").rows())
    return counted


def deleted(lake: Path) -> None:
    for file in lake.glob("manifest.sqlite*"):
        file.unlink()


def deleted_alone(lake: Path) -> None:
    (lake / manifest.FILE_NAME).unlink()


def emptied(lake: Path) -> None:
    (lake / manifest.FILE_NAME).write_bytes(b"")


def pages_overwritten(lake: Path, chosen: Callable[[int], bool]) -> None:
    file = lake / manifest.FILE_NAME
    content = bytearray(file.read_bytes())
    for page in range(len(content) // 4096):
        if chosen(page):
            content[page * 4096 : (page + 1) * 4096] = random.Random(page).randbytes(4096)
    file.write_bytes(content)


def first_page(lake: Path) -> None:
    pages_overwritten(lake, lambda page: page == 0)


def pages_of_parts(lake: Path) -> None:
    with sqlite3.connect(lake / manifest.FILE_NAME) as con:
        [(root,)] = con.execute(
            "select rootpage from sqlite_master where name = 'parts'"
        ).fetchall()
    con.close()
    pages_overwritten(lake, lambda page: page == root - 1)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child has one thread: it would wait for ever for what others do."""
    connect = query.duckdb.connect
    monkeypatch.setattr(query.duckdb, "connect", lambda: connect(config={"threads": 1}))


LOSSES = [deleted, deleted_alone, emptied, first_page, pages_of_parts]


def imported(lake: Path) -> None:
    fill(lake, 1, first=900)


def erased(lake: Path) -> None:
    erasure.erase(lake, "nobody-at-all")


DOING = [imported, snapshots.sweep, erased, compaction.compact, lambda lake: retain(lake, KEEP)]


@pytest.mark.parametrize("backup", [True, False])
@pytest.mark.parametrize("lose", LOSSES)
def test_a_lost_manifest_is_refused_by_all_and_made_again(
    tmp_path: Path, lose: Callable[[Path], None], backup: bool
) -> None:
    fill(tmp_path, 12)
    if backup:
        compaction.compact(tmp_path, now_s=NOW_S)
        fill(tmp_path, 4, first=12)
    before, data_hash = rows(tmp_path), snapshots.data_hash(tmp_path)
    files = {file: file.stat().st_size for file in tmp_path.rglob("*.parquet")}
    for file in files:
        os.utime(file, (time.time() - 2 * DAY_S,) * 2)
    lose(tmp_path)
    for do in DOING:
        with pytest.raises(LostManifest, match="apm lake rebuild"):
            do(tmp_path)
    with pytest.raises(LostManifest, match="apm lake rebuild"):
        query.connect(tmp_path)
    assert {file: file.stat().st_size for file in tmp_path.rglob("*.parquet")} == files
    done = rebuild(tmp_path)
    assert done.base == ("backup" if backup else "parts") and not done.missing
    assert rows(tmp_path) == before
    assert snapshots.data_hash(tmp_path) == data_hash
    known = [f"document {number}" for number in range(16 if backup else 12)]
    assert snapshots.known_documents(tmp_path, known) == set(known)
    assert snapshots.check_units(tmp_path, [("", "m", "other")])
    for do in DOING:
        do(tmp_path)
    again = rebuild(tmp_path)
    assert (again.base, again.taken_in, again.missing) == ("manifest", [], [])
    assert verify(tmp_path, now_s=time.time() + DAY_S).sound


def test_an_older_manifest_put_back_loses_nothing(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    older = (tmp_path / manifest.FILE_NAME).read_bytes()
    fill(tmp_path, 10, first=6)
    compaction.compact(tmp_path, now_s=NOW_S, grace_s=0)
    compaction.compact(tmp_path, now_s=NOW_S + 1, grace_s=0)
    fill(tmp_path, 3, first=16)
    before = rows(tmp_path)
    deleted(tmp_path)
    (tmp_path / manifest.FILE_NAME).write_bytes(older)
    for file in tmp_path.rglob("*.parquet"):
        os.utime(file, (time.time() - 2 * DAY_S,) * 2)
    with pytest.warns(UserWarning):
        snapshots.sweep(tmp_path)
    erasure.erase(tmp_path, "nobody-at-all")
    compaction.compact(tmp_path, now_s=NOW_S)
    fill(tmp_path, 1, first=19)
    expected = before + rows_of(19, tmp_path.parent / "alone")
    done = rebuild(tmp_path)
    assert done.base == "manifest" and not done.missing
    assert rows(tmp_path) == expected
    known = [f"document {number}" for number in range(16, 20)]
    assert snapshots.known_documents(tmp_path, known) == set(known)


def rows_of(number: int, folder: Path) -> Counter[str]:
    fill(folder, 1, first=number)
    return rows(folder)


@pytest.mark.parametrize("seed", range(8))
def test_any_history_is_found_again(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    lake = tmp_path / "lake"
    now_s, number = NOW_S, 0
    for _ in range(14):
        doing = draw.choice(["fill", "fill", "compact", "retain", "erase", "expire"])
        now_s += 60
        if doing == "fill":
            count = draw.randrange(1, 6)
            fill(lake, count, first=number)
            number += count
        elif number:
            if doing == "compact":
                compaction.compact(lake, now_s=now_s)
            elif doing == "expire":
                compaction.compact(lake, now_s=now_s, grace_s=0)
            elif doing == "retain":
                retain(lake, KEEP, now_s=now_s)
            else:
                erasure.erase(lake, PERSON, now_s=now_s)
    before, data_hash = rows(lake), snapshots.data_hash(lake)
    for lose in (deleted, emptied, lambda lake: (lake / manifest.BACKUP_NAME).unlink()):
        if (lake / manifest.BACKUP_NAME).exists():
            lose(lake)
            if not (lake / manifest.BACKUP_NAME).exists():
                deleted(lake)
        done = rebuild(lake)
        assert rows(lake) == before, done
        assert snapshots.data_hash(lake) == data_hash


def test_what_a_killed_compaction_left_does_not_count_twice(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    fill(whole, 3)
    before = rows(whole)
    step = 0
    while True:
        lake = tmp_path / str(step)
        shutil.copytree(whole, lake)
        if not killed_before(step, lake, lambda lake: compaction.compact(lake, now_s=NOW_S)):
            break
        if step % 2:
            deleted(lake)
        rebuild(lake)
        assert rows(lake) == before, step
        compaction.compact(lake, now_s=NOW_S, grace_s=0)
        compaction.compact(lake, now_s=NOW_S + 1, grace_s=0)
        rebuild(lake)
        assert rows(lake) == before, step
        shutil.rmtree(lake)
        step += 1
    assert step > 20


@pytest.mark.parametrize("lose", [deleted, first_page, None])
def test_rebuild_killed_before_any_step_is_finished_by_the_next(
    tmp_path: Path, lose: Callable[[Path], None] | None
) -> None:
    whole = tmp_path / "whole"
    fill(whole, 8)
    older = (whole / manifest.FILE_NAME).read_bytes()
    compaction.compact(whole, now_s=NOW_S)
    fill(whole, 2, first=8)
    before = rows(whole)
    if lose is None:
        deleted(whole)
        (whole / manifest.FILE_NAME).write_bytes(older)
    else:
        lose(whole)
    step = 0
    while True:
        lake = tmp_path / str(step)
        shutil.copytree(whole, lake)
        if not killed_before(step, lake, rebuild):
            break
        rebuild(lake)
        assert rows(lake) == before, step
        assert verify(lake, now_s=time.time() + DAY_S).sound
        shutil.rmtree(lake)
        step += 1
    assert step > 3


def test_repair_killed_before_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    fill(whole, 4)
    first, second, *_ = sorted(whole.glob("spans/*/*/*.parquet"))
    first.unlink()
    content = second.read_bytes()
    second.write_bytes(content[: len(content) // 2])
    step = 0
    while True:
        lake = tmp_path / str(step)
        shutil.copytree(whole, lake)
        if not killed_before(step, lake, repair.repair):
            break
        repair.repair(lake)
        assert len(rows(lake)) == 20 - 2, step
        moved = [*quarantine.files(lake, quarantine.DAMAGED)]
        assert [file.read_bytes() for file in moved] == [content[: len(content) // 2]]
        shutil.rmtree(lake)
        step += 1
    assert step > 2


def test_a_killed_import_is_finished_or_taken_again_but_never_twice(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    fill(whole, 2)
    both = rows(whole) + rows_of(2, tmp_path / "alone")
    step = 0
    while True:
        lake = tmp_path / str(step)
        shutil.copytree(whole, lake)
        if not killed_before(step, lake, lambda lake: fill(lake, 1, first=2)):
            break
        if step % 2:
            deleted(lake)
        rebuild(lake)
        fill(lake, 1, first=2)
        assert rows(lake) == both, step
        shutil.rmtree(lake)
        step += 1
    assert step > 5


def test_journalled_rows_that_will_be_replayed_are_not_taken_in(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    before = rows(tmp_path)
    facts = parts.Facts("left", documents=("journal:one", "journal:two"), last=False)
    written = [*parts.write_parts(tmp_path, "spans", spans([5]), "left", facts)]
    parts.put_in_place(tmp_path, written)
    segment = tmp_path / "journal" / "writer" / "one.segment"
    segment.parent.mkdir(parents=True)
    segment.touch()
    deleted(tmp_path)
    rebuild(tmp_path)
    assert rows(tmp_path) == before
    snapshots.append(tmp_path, {"spans": spans([5])}, documents=["journal:one"])
    rebuild(tmp_path)
    assert len(rows(tmp_path)) == len(before) + 1


def test_damaged_parts_go_to_quarantine_and_cost_only_themselves(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    first, second, *_ = sorted(tmp_path.glob("spans/*/*/*.parquet"))
    content = bytearray(first.read_bytes())
    content[len(content) // 3] ^= 1
    first.write_bytes(content)
    second.write_bytes(b"no part")
    deleted(tmp_path)
    done = rebuild(tmp_path)
    assert sorted(done.set_aside) == sorted(str(f.relative_to(tmp_path)) for f in (first, second))
    assert len(rows(tmp_path)) == 6 * 2 * 2 + 4 * 2 - 2


def test_nothing_is_started_where_parts_lie_and_nowhere_is_no_lake(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="check the path"):
        rebuild(tmp_path / "nowhere")
    with pytest.raises(NotFound, match="check the path"):
        rebuild(tmp_path)
    assert not list(tmp_path.iterdir())


def test_quarantine_keeps_files_for_30_days(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    stray = next(tmp_path.glob("spans/*/*/*.parquet")).with_name("notes.txt")
    stray.write_text("mine")
    os.utime(stray, (0, 0))
    now_s = time.time()
    with pytest.warns(UserWarning, match="quarantine"):
        assert snapshots.sweep(tmp_path, now_s=now_s) == 1
    assert snapshots.sweep(tmp_path, now_s=now_s + 30 * DAY_S) == 0
    [kept] = quarantine.files(tmp_path, quarantine.UNKNOWN)
    assert kept.read_text() == "mine" and quarantine.origin(tmp_path, kept) == stray
    assert snapshots.sweep(tmp_path, now_s=now_s + 32 * DAY_S) == 1
    assert not kept.exists()


def test_erasure_reaches_files_in_quarantine(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    older = (tmp_path / manifest.FILE_NAME).read_bytes()
    fill(tmp_path, 6, first=6)
    deleted(tmp_path)
    (tmp_path / manifest.FILE_NAME).write_bytes(older)
    erasure.erase(tmp_path, PERSON)
    assert [*quarantine.files(tmp_path, quarantine.UNKNOWN)]
    rebuild(tmp_path)
    found = rows(tmp_path)
    assert not any(PERSON in row for row in found)
    assert sum("benn" in row for row in found) == 8 * 2 - 2


def test_a_manifest_replaced_under_a_writer_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    with (
        pytest.raises(ApmError, match="replaced meanwhile"),
        open_manifest(tmp_path, create=True) as con,
    ):
        deleted(tmp_path)
        rebuild(tmp_path)
        with manifest.transaction(con):
            raise AssertionError("not reached")


def test_the_commands_say_what_was_done(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    deleted(tmp_path)
    run = CliRunner().invoke
    done = run(cli.apm, ["lake", "status", "--lake", str(tmp_path)])
    assert isinstance(done.exception, LostManifest)
    done = run(cli.apm, ["lake", "rebuild", "--lake", str(tmp_path)])
    assert done.exit_code == 0 and "made again from the parts" in done.output
    next(tmp_path.glob("spans/*/*/*.parquet")).unlink()
    done = run(cli.apm, ["lake", "repair", "--lake", str(tmp_path)])
    assert "gone from spans: 1 rows from 2026-03-0" in done.output
    done = run(cli.apm, ["lake", "repair", "--lake", str(tmp_path)])
    assert "nothing is missing" in done.output
