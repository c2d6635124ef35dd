"""Parts appear whole, once, and in order."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from rows import MONDAY_NS, spans

from apm_analytics.foundation.errors import ApmError, BadInput
from apm_analytics.lake import manifest, parts, query, snapshots


def count(lake: Path) -> int:
    found = query.connect(lake).execute("select count(*) from spans").fetchone()
    assert found
    return int(found[0])


def test_append_sorts_rows_and_lets_no_part_cross_midnight(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([90_000, 10, 5, 3700])})
    parts = sorted(tmp_path.glob("spans/date=*/hour=*/*.parquet"))
    assert [str(part.parent.relative_to(tmp_path)) for part in parts] == [
        "spans/date=2026-03-02/hour=00",
        "spans/date=2026-03-03/hour=01",
    ]
    first = pq.read_table(parts[0])["time"].to_numpy().astype("int64")
    assert list(first - MONDAY_NS) == [5 * 10**9, 10 * 10**9, 3700 * 10**9]


def test_a_part_that_is_full_ends_with_its_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ROWS_A_PART", 3)
    hours = [0, 1, 2, 3, 3600, 3601, 7200, 7201, 7202]
    snapshots.append(tmp_path, {"spans": spans(hours)})
    found = sorted(tmp_path.glob("spans/date=*/hour=*/*.parquet"))
    assert [pq.read_metadata(part).num_rows for part in found] == [4, 5]


def test_parts_are_plain_parquet_that_any_engine_reads(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([1, 2, 3700])})
    found = duckdb.execute(f"select count(*) from '{tmp_path}/spans/*/*/*.parquet'").fetchone()
    assert found == (3,)


def test_a_document_is_taken_once(tmp_path: Path) -> None:
    assert snapshots.append(tmp_path, {"spans": spans([1, 2])}, documents=["a"]) == 2
    before = snapshots.data_hash(tmp_path)
    assert snapshots.append(tmp_path, {"spans": spans([1, 2])}, documents=["a"]) == 0
    assert count(tmp_path) == 2
    assert snapshots.data_hash(tmp_path) == before
    assert snapshots.known_documents(tmp_path, ["a", "b"]) == {"a"}


def test_a_batch_with_a_document_known_in_part_is_refused_whole(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([1])}, documents=["a"])
    with pytest.raises(ApmError, match="run the same import again"):
        snapshots.append(tmp_path, {"spans": spans([1, 2])}, documents=["a", "b"])
    assert count(tmp_path) == 1
    assert not list(tmp_path.glob("spans/**/.*.tmp"))


def test_the_data_hash_follows_the_data(tmp_path: Path) -> None:
    snapshots.append(tmp_path / "one", {"spans": spans([1, 2])}, documents=["a"])
    snapshots.append(tmp_path / "two", {"spans": spans([1, 2])}, documents=["a"])
    assert snapshots.data_hash(tmp_path / "one") == snapshots.data_hash(tmp_path / "two")
    snapshots.append(tmp_path / "two", {"spans": spans([3])}, documents=["b"])
    assert snapshots.data_hash(tmp_path / "one") != snapshots.data_hash(tmp_path / "two")


def test_a_reader_keeps_the_snapshot_it_opened(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([1])})
    reader = query.connect(tmp_path)
    snapshots.append(tmp_path, {"spans": spans([2])})
    assert reader.execute("select count(*) from spans").fetchone() == (1,)
    assert count(tmp_path) == 2


def test_columns_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="kind"):
        snapshots.append(tmp_path, {"spans": spans([1]).drop_columns(["kind"])})
    with pytest.raises(BadInput, match="no lake table is called 'span'"):
        snapshots.append(tmp_path, {"span": spans([1])})


def test_the_first_unit_of_a_metric_stays(tmp_path: Path) -> None:
    assert snapshots.check_units(tmp_path, [("shop", "latency", "ms")]) == {
        ("shop", "latency"): "ms"
    }
    assert snapshots.check_units(tmp_path, [("shop", "latency", "s"), ("web", "latency", "s")]) == {
        ("shop", "latency"): "ms",
        ("web", "latency"): "s",
    }


def test_status_sums_parts_rows_and_times(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([0, 86_400])})
    row = snapshots.status(tmp_path).row(0, named=True)
    assert (row["table"], row["parts"], row["rows"]) == ("spans", 2, 2)
    assert str(row["first_time"]) == "2026-03-02 00:00:00"
    assert str(row["last_time"]) == "2026-03-03 00:00:00"


def test_sweep_removes_only_old_files_that_no_snapshot_names(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([1])})
    folder = next(tmp_path.glob("spans/*/*"))
    old, young = folder / ".old.tmp", folder / "young.parquet"
    for file in (old, young):
        file.write_bytes(b"left behind")
    os.utime(old, (time.time() - 2 * snapshots.ABANDONED_S,) * 2)
    assert snapshots.sweep(tmp_path) == 1
    assert young.exists() and not old.exists()
    assert count(tmp_path) == 1


def test_a_damaged_manifest_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / manifest.FILE_NAME).write_bytes(
        b"this is no database, however long it may be " * 99
    )
    with pytest.raises(manifest.LostManifest, match="apm lake rebuild"):
        snapshots.status(tmp_path)


SUPPORT = str(Path(__file__).resolve().parents[1] / "support")
WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from rows import spans
from apm_analytics.lake import snapshots
lake = Path(sys.argv[1])
for batch in range(1000):
    rows = spans([batch * 10 + step / 100 + hour * 3600 for hour in range(5) for step in range(4)])
    snapshots.append(lake, {"spans": rows}, documents=[f"batch {batch}"])
    print(batch, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_only_whole_batches(tmp_path: Path) -> None:
    for attempt, delay_s in enumerate((0.0, 0.01, 0.03, 0.07, 0.11)):
        writer = subprocess.Popen(
            [
                sys.executable,
                "-c",
                WRITER,
                str(tmp_path),
                SUPPORT,
            ],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout
        for _ in range(3 * attempt + 1):
            assert writer.stdout.readline()
        time.sleep(delay_s)
        writer.send_signal(signal.SIGKILL)
        acknowledged = len(writer.stdout.read().splitlines()) + 3 * attempt + 1
        writer.stdout.close()
        writer.wait()
        rows = count(tmp_path)
        assert rows % 20 == 0
        assert rows >= acknowledged * 20


def test_a_disk_that_refuses_leaves_the_lake_as_it_was(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"spans": spans([1])}, documents=["a"])
    script = (
        "import sys, resource, signal\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from rows import spans\n"
        "from apm_analytics.foundation.errors import ApmError\n"
        "from apm_analytics.lake import snapshots\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try: snapshots.append(Path(sys.argv[1]), {'spans': spans([2, 3])}, documents=['b'])\n"
        "except ApmError as error: print(error); sys.exit(3)\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            str(tmp_path),
            SUPPORT,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    assert "run the same command again" in done.stdout
    assert count(tmp_path) == 1
    assert snapshots.append(tmp_path, {"spans": spans([2, 3])}, documents=["b"]) == 2
