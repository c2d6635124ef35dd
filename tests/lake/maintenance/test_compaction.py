"""Compaction merges many parts into few; readers see every row exactly once at any time."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from live_receiver import running
from rows import MONDAY_NS, spans, table

from apm_analytics.ingest.receiver import Config, upkeep
from apm_analytics.lake import query, snapshots
from apm_analytics.lake.hot import HotView
from apm_analytics.lake.maintenance import compaction, merging
from apm_analytics.lake.maintenance.compaction import CLOSED_DAY, OPEN_DAY, choose, compact
from apm_analytics.lake.manifest import Part, live_parts, open_manifest, replaced_parts

HERE = str(Path(__file__).resolve().parents[2] / "support")
MONDAY_S = MONDAY_NS // 10**9
DURING_MONDAY_S = MONDAY_S + 3_600.0
WEDNESDAY_S = MONDAY_S + 2 * 86_400.0


def live(lake: Path) -> list[Part]:
    with open_manifest(lake) as con:
        return live_parts(con)


def times_s(lake: Path) -> list[float]:
    with query.connect(lake) as con:
        found = con.execute("select epoch_ns(time) from spans order by 1").fetchall()
    return [(row[0] - MONDAY_NS) / 1e9 for row in found]


def fill(lake: Path, count: int, *, rows: int = 3, start_s: float = 0.0) -> list[float]:
    """Append small parts in shuffled order; return the times of their rows."""
    order = list(range(count))
    random.Random(7).shuffle(order)
    for number in order:
        at = [start_s + number + step / 10 for step in range(rows)]
        snapshots.append(lake, {"spans": spans(at)}, documents=[f"{start_s} {number}"])
    return sorted(start_s + number + step / 10 for number in range(count) for step in range(rows))


def part(number: int, rows: int) -> Part:
    return Part(f"{number}", "spans", rows, rows * 50, MONDAY_NS + number, MONDAY_NS + number, "0")


def test_many_small_parts_become_one_sorted_part_with_all_their_rows(tmp_path: Path) -> None:
    expected = fill(tmp_path, 20)
    done = compact(tmp_path, now_s=DURING_MONDAY_S)
    assert (done.merged, done.made, done.rows) == (20, 1, 60)
    [made] = live(tmp_path)
    assert (made.rows, made.level) == (60, 1)
    file = pq.ParquetFile(tmp_path / made.path)
    assert file.read()["time"].to_pylist() == sorted(file.read()["time"].to_pylist())
    assert times_s(tmp_path) == pytest.approx(expected)
    columns = {file.schema.column(i).path: i for i in range(len(file.schema))}
    group = file.metadata.row_group(0)
    assert group.column(columns["service_name"]).statistics.has_min_max
    assert not group.column(columns["url_path"]).statistics.has_min_max


def test_tables_days_and_rows_with_nested_values_stay_as_they_were(tmp_path: Path) -> None:
    def rows(second: int) -> dict[str, pa.Table]:
        columns = {
            "time": [MONDAY_NS + second * 10**9],
            "duration_ns": [second],
            "trace_id": [f"{second:032x}"],
            "span_id": [f"{second:016x}"],
            "name": [f"GET /{second}"],
            "attributes": [[("colour", "blue"), ("size", f"{second}")]],
            "events": [[{"time": 1, "name": "e", "attributes": [("a", "b")]}]],
        }
        logs = table("logs", {"time": [MONDAY_NS + second], "body": [f"line {second}"]})
        return {"spans": table("spans", columns), "logs": logs}

    for second in (*range(16), *range(86_400, 86_416)):
        snapshots.append(tmp_path, rows(second))
    asked = "select * exclude (sample_weight) from spans order by time, name"
    with query.connect(tmp_path) as con:
        before = [query.frame(con, asked), query.frame(con, "select * from logs order by time")]
    assert compact(tmp_path, now_s=WEDNESDAY_S).made == 3
    with query.connect(tmp_path) as con:
        after = [query.frame(con, asked), query.frame(con, "select * from logs order by time")]
    assert before[0].equals(after[0]) and before[1].equals(after[1])
    assert sorted((p.table, p.path.split("/")[1]) for p in live(tmp_path)) == [
        ("logs", "date=2026-03-02"),
        ("spans", "date=2026-03-02"),
        ("spans", "date=2026-03-03"),
    ]


def test_nothing_is_done_twice_and_the_data_hash_stays(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    before = snapshots.data_hash(tmp_path)
    compact(tmp_path, now_s=DURING_MONDAY_S)
    assert snapshots.data_hash(tmp_path) == before
    assert compact(tmp_path, now_s=DURING_MONDAY_S) == compaction.Compaction()
    snapshots.append(tmp_path, {"spans": spans([999])})
    assert snapshots.data_hash(tmp_path) != before


def test_replaced_files_stay_for_the_grace_and_go_after_it(tmp_path: Path) -> None:
    expected = fill(tmp_path, 16)
    with query.connect(tmp_path) as reader:
        compact(tmp_path, now_s=DURING_MONDAY_S, grace_s=60)
        assert reader.execute("select count(*) from spans").fetchone() == (48,)
        assert compact(tmp_path, now_s=DURING_MONDAY_S + 59, grace_s=60).removed_files == 0
        assert compact(tmp_path, now_s=DURING_MONDAY_S + 61, grace_s=60).removed_files == 16
        assert query.frame(reader, "select count(*) from spans").item() == 48
    assert len(list(tmp_path.glob("spans/*/*/*"))) == 1
    assert times_s(tmp_path) == pytest.approx(expected)
    with open_manifest(tmp_path) as con:
        assert replaced_parts(con) == []


def test_a_damaged_part_is_reported_and_holds_nothing_else_up(tmp_path: Path) -> None:
    fill(tmp_path, 16)
    fill(tmp_path, 16, start_s=86_400)
    damaged = live(tmp_path)[0]
    (tmp_path / damaged.path).write_bytes(b"no Parquet")
    done = compact(tmp_path, now_s=WEDNESDAY_S)
    assert done.left_out == [damaged] and not done.failed
    assert [part.rows for part in live(tmp_path)] == [3, 45, 48]


def test_a_changed_value_does_not_get_into_a_merged_part(tmp_path: Path) -> None:
    fill(tmp_path, 16)
    damaged = live(tmp_path)[3]
    content = bytearray((tmp_path / damaged.path).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / damaged.path).write_bytes(content)
    done = compact(tmp_path, now_s=WEDNESDAY_S)
    assert done.left_out == [damaged] and damaged in live(tmp_path)
    assert sorted(part.rows for part in live(tmp_path)) == [3, 45]
    compact(tmp_path)  # removes the replaced files
    assert not compaction.due(tmp_path)


def test_an_open_day_waits_for_many_parts_and_a_closed_one_does_not() -> None:
    few = [part(number, 100) for number in range(OPEN_DAY.parts - 1)]
    assert choose(few, OPEN_DAY) == []
    assert choose([*few, part(99, 100)], OPEN_DAY) == [*few, part(99, 100)]
    assert choose(few, CLOSED_DAY) == few
    assert choose([part(0, 100), part(1, 10_000)], CLOSED_DAY) == []


def test_a_part_never_grows_beyond_the_target() -> None:
    chosen = choose([part(number, 100_000) for number in range(30)], CLOSED_DAY)
    assert sum(one.rows for one in chosen) == compaction.TARGET_ROWS


@pytest.mark.parametrize("rows", [50, 5_000])
def test_a_row_is_rewritten_a_few_times_only_however_long_the_lake_is_fed(rows: int) -> None:
    held: list[Part] = []
    rewritten = 0
    arrived = 4_000
    for number in range(arrived):
        held.append(part(number, rows))
        if number % 20 == 0:
            small = [one for one in held if one.rows < compaction.TARGET_ROWS // 2]
            while chosen := choose(small, OPEN_DAY):
                made = part(chosen[0].first_time_ns - MONDAY_NS, sum(p.rows for p in chosen))
                rewritten += made.rows
                held = [p for p in held if p not in chosen] + [made]
                small = [p for p in small if p not in chosen] + [made]
    assert rewritten / (arrived * rows) < 5
    assert len([one for one in held if one.rows < compaction.TARGET_ROWS // 2]) < 40


@pytest.mark.parametrize("overlapping", [True, False])
def test_a_merge_holds_a_few_columns_of_a_few_rows_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlapping: bool
) -> None:
    monkeypatch.setattr(merging, "ROWS_A_GROUP", 500)
    monkeypatch.setattr(merging, "TOGETHER_BYTES", 50_000)
    monkeypatch.setattr(merging, "STRETCH_BYTES", 30_000)
    monkeypatch.setattr(merging, "BATCH_ROWS", 64)
    draw = random.Random(3)
    expected = []
    for number in range(8):
        first = 0 if overlapping else number * 3_000
        at = [round(first + draw.uniform(0, 3_000), 3) for _ in range(400)]
        rows = spans(at)
        pairs = [[("at", f"{t}")] * draw.randint(0, 3) for t in at]
        pairs_type = rows.schema.field("attributes").type
        place = rows.schema.get_field_index("attributes")
        rows = rows.set_column(place, "attributes", pa.array(pairs, pairs_type))
        snapshots.append(tmp_path, {"spans": rows})
        expected += rows.to_pylist()
    groups: dict[int, list[pa.Table]] = {}
    for group, some in merging.in_order_of_time(tmp_path, live(tmp_path)):
        assert some.num_rows <= 550 and some.num_columns < 65
        groups.setdefault(group, []).append(some)
    assert len(groups) == 6
    merged = [
        {name: value for piece in row for name, value in piece.items()}
        for pieces in groups.values()
        for row in zip(*(piece.to_pylist() for piece in pieces), strict=True)
    ]
    assert merged == sorted(expected, key=lambda row: row["time"])


def test_rows_too_large_for_a_row_group_make_more_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "GROUP_BYTES", 20_000)
    draw = random.Random(3)
    for number in range(16):
        body = ["".join(draw.choices("abcdef", k=1_000)) for _ in range(10)]
        rows = table("logs", {"time": [MONDAY_NS + number] * 10, "body": body})
        snapshots.append(tmp_path, {"logs": rows})
    assert compact(tmp_path, now_s=DURING_MONDAY_S).made == 1
    [made] = live(tmp_path)
    assert pq.ParquetFile(tmp_path / made.path).metadata.num_row_groups >= 8


def test_the_process_that_merges_takes_little_memory(tmp_path: Path) -> None:
    rows = 40_000
    for number in range(8):
        at = [number * rows + row for row in range(rows)]
        columns = {
            "time": [MONDAY_NS + one for one in at],
            "duration_ns": at,
            "name": ["GET /carts"] * rows,
            "span_id": [f"{one:016x}" for one in at],
            "trace_id": [f"{one * 7919:032x}" for one in at],
            "url_path": [f"/carts/{one}/items/{one % 7}" for one in at],
        }
        snapshots.append(tmp_path, {"spans": table("spans", columns)})
    script = (
        "import sys; from pathlib import Path;"
        "from apm_analytics.lake.maintenance import compact_process;"
        "assert compact_process.main(Path(sys.argv[1])) == 0;"
        "peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0];"
        "print(int(peak) // 1024, 'pandas' in sys.modules)"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    merged, peak_mb, pandas = asked.stdout.split()
    assert (merged, pandas) == ("8", "False")
    assert int(peak_mb) < 140


def test_a_receiver_has_its_parts_merged_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fill(tmp_path, 20)
    assert compaction.due(tmp_path)
    monkeypatch.setattr(upkeep, "COMPACT_EVERY_S", 0.01)
    with running(Config(tmp_path)) as receiver:
        deadline = time.monotonic() + 60
        merged = 0.0
        while merged < 20 and time.monotonic() < deadline:
            time.sleep(0.05)
            merged = receiver.metrics.compacted_parts._value.get()
    assert merged == 20 and not compaction.due(tmp_path)
    assert times_s(tmp_path) == pytest.approx(expected) and len(live(tmp_path)) == 1


def test_the_hot_view_sees_every_row_once_while_parts_are_replaced(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    view = HotView(tmp_path, minutes=60)
    seen = view.spans().num_rows
    for step in range(1, 4):
        fill(tmp_path, 20, start_s=step * 100)
        if step == 2:
            seen += view.refresh().num_rows
        compact(tmp_path, now_s=DURING_MONDAY_S)
    seen += view.refresh().num_rows
    assert seen == view.spans().num_rows == 240
    assert len(set(view.spans()["time"].to_pylist())) == 240
    assert view.generation == 1


def test_a_hot_view_that_slept_longer_than_the_grace_reads_everything_anew(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    view = HotView(tmp_path, minutes=60)
    fill(tmp_path, 20, start_s=100)
    compact(tmp_path, now_s=DURING_MONDAY_S, grace_s=-1)
    snapshots.append(tmp_path, {"spans": spans([200])})
    view._refreshed_s = time.monotonic() - 3_000  # as if it had slept
    assert view.refresh().num_rows == view.spans().num_rows == 121
    assert view.generation == 2


def test_journal_documents_are_forgotten_with_their_parts_unless_their_segment_is_there(
    tmp_path: Path,
) -> None:
    names = [f"journal:{number}" for number in range(16)]
    for number, name in enumerate(names):
        snapshots.append(tmp_path, {"spans": spans([number])}, documents=[name, f"file {number}"])
    (tmp_path / "journal/writer").mkdir(parents=True)
    (tmp_path / "journal/writer/3.segment").write_bytes(b"")
    compact(tmp_path, now_s=DURING_MONDAY_S, grace_s=-1)
    assert snapshots.known_documents(tmp_path, names) == {"journal:3"}
    files = [f"file {number}" for number in range(16)]
    assert len(snapshots.known_documents(tmp_path, files)) == 16


COMPACTOR = """
import sys, time
from pathlib import Path
from apm_analytics.lake.maintenance.compaction import compact
print("ready", flush=True)
while True:
    compact(Path(sys.argv[1]), grace_s=float(sys.argv[2]))
    time.sleep(0.02)
"""
READER = """
import json, sys, time
from pathlib import Path
from apm_analytics.lake import query
lake, stop = Path(sys.argv[1]), Path(sys.argv[2])
looked = rows = 0
while True:
    last = stop.exists()
    with query.connect(lake) as con:
        asked = "select count(*), count(distinct span_id), count(distinct time) from spans"
        for _ in range(2):
            n, ids, times = con.execute(asked).fetchone()
            assert n == ids == times and n % 2 == 0 and n >= rows, (n, ids, times, rows)
            rows = n
    looked += 1
    if looked == 1:
        print("ready", flush=True)
    if last:
        break
    time.sleep(0.05)
print(json.dumps([looked, rows]))
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_readers_always_see_every_row_once_while_compactors_are_killed(tmp_path: Path) -> None:
    lake, stop = tmp_path / "lake", tmp_path / "stop"
    fill(lake, 2)
    reader = start(READER, lake, stop)
    killed = [start(COMPACTOR, lake, 30) for _ in range(2)]
    for one in (reader, *killed):
        assert one.stdout and one.stdout.readline() == "ready\n"
    with snapshots.kept_open(lake):
        for number in range(1_000, 1_060):
            # The first is killed while it writes; the other continues and is killed at its end.
            if number == 1_030:
                killed[0].send_signal(signal.SIGKILL)
            snapshots.append(lake, {"spans": spans([number, number + 0.5])})
    killed[1].send_signal(signal.SIGKILL)
    for one in killed:
        one.communicate()
    stop.touch()
    said, failed = reader.communicate()
    assert reader.returncode == 0, failed
    looked, rows = json.loads(said)
    assert looked > 1
    assert rows == len(times_s(lake)) == 6 + 60 * 2
    before = snapshots.data_hash(lake)
    compact(lake)
    assert snapshots.data_hash(lake) == before
    assert len(set(times_s(lake))) == rows
    assert any(one.level for one in live(lake))
