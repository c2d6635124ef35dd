"""Maintenance, killed before each of its steps: nothing is half done, the next run completes it.

A step is what changes the disk: a file that is opened to be written, renamed or removed, a commit
of the manifest. The process dies in the moment before it, as by kill -9.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from killing import killed_before
from rows import MONDAY_NS, table

from apm_analytics.foundation.settings import RetentionSettings
from apm_analytics.lake import query, snapshots
from apm_analytics.lake.maintenance import compaction, erasure
from apm_analytics.lake.maintenance.retention import retain
from apm_analytics.lake.maintenance.verify import verify
from apm_analytics.lake.manifest import live_parts, open_manifest
from apm_analytics.lake.schema import TABLES

ANNA, BEN = "anna", "benn"  # too short to be masked, which takes no further step
DAY_S = 86_400
NOW_S = MONDAY_NS / 1e9 + 3 * DAY_S
PERIODS = RetentionSettings.model_validate({"logs_days": 1, "services": {"kept": {"logs_days": 9}}})


def compact(lake: Path) -> None:
    compaction.compact(lake, now_s=NOW_S, grace_s=0)


def keep(lake: Path) -> None:
    retain(lake, PERIODS, now_s=NOW_S)


def erase(lake: Path) -> None:
    erasure.erase(lake, ANNA, now_s=NOW_S)


# Each with the tables that it changes.
COMMANDS: dict[str, tuple[Callable[[Path], None], list[tuple[str, ...]]]] = {
    "compact": (compact, [("spans",), ("spans",)]),
    "retain": (keep, [("logs", "metric_points")]),
    "erase": (erase, [("logs",)]),
}


def fill(lake: Path, several: Sequence[Sequence[str]]) -> None:
    """Write snapshots of some tables, and dead letters, with two people and two services."""
    for number, tables in enumerate(several):
        times = [MONDAY_NS + (2 * row + number) * 10**9 for row in range(4)]
        spans = {"duration_ns": [1] * 4, "trace_id": list("abcd"), "span_id": list("abcd")}
        columns = {
            "spans": {**spans, "name": ["n"] * 4},
            "logs": {
                "user_id": [ANNA, BEN, "", ""],
                "body": ["in", "in", "", ""],
                "service_name": ["kept"] + ["gone"] * 3,
            },
            "metric_points": {"name": ["m"] * 4, "kind": ["gauge"] * 4, "value": [1.0] * 4},
        }
        snapshots.append(
            lake, {name: table(name, {**columns[name], "time": times}) for name in tables}
        )
    (lake / "dead_letter").mkdir()
    letters = [{"document": f"broken {user}"} for user in (ANNA, BEN)]
    (lake / "dead_letter" / "one.jsonl").write_text("".join(json.dumps(x) + "\n" for x in letters))


def rows(lake: Path) -> dict[str, list[str]]:
    """All rows that a reader sees, in an order that merging does not change."""
    with open_manifest(lake) as con:
        live = live_parts(con)
    found: dict[str, list[str]] = {name: [] for name in TABLES}
    for part in live:
        found[part.table] += map(
            str, pq.read_table(lake / part.path, partitioning=None).to_pylist()
        )
    return {name: sorted(several) for name, several in found.items()}


def crashes(whole: Path, folder: Path, run: Callable[[Path], None]) -> Iterator[Path]:
    """Yield the lake after each crash of a command that changes it."""
    step = 0
    while True:
        lake = folder / str(step)
        shutil.copytree(whole, lake)
        if not killed_before(step, lake, run):
            return
        yield lake
        shutil.rmtree(lake)
        step += 1


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one thread: a forked child has no other, and would wait for them for ever."""
    connect = query.duckdb.connect
    monkeypatch.setattr(query.duckdb, "connect", lambda: connect(config={"threads": 1}))


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_before_any_step_a_next_run_completes_it(tmp_path: Path, command: str) -> None:
    run, tables = COMMANDS[command]
    whole, done = tmp_path / "whole", tmp_path / "done"
    fill(whole, tables)
    shutil.copytree(whole, done)
    run(done)
    before, after = rows(whole), rows(done)
    assert before != after or command == "compact"
    died = 0
    for lake in crashes(whole, tmp_path, run):
        died += 1
        for name, found in rows(lake).items():
            # Parts are replaced one by one; each is as before or as afterwards.
            alike = [one for one in found if one not in before[name] and one not in after[name]]
            assert not alike, (died, name, alike)
            assert len(found) >= min(len(before[name]), len(after[name]))
        for receipt in lake.glob("receipts/*.json"):
            json.loads(receipt.read_text())
        run(lake)
        assert rows(lake) == after
        found = verify(lake, now_s=NOW_S + DAY_S)
        assert not found.missing and not found.damaged
        with open_manifest(lake) as con:
            named = {part.path for part in live_parts(con)}
        assert all((lake / path).exists() for path in named)
        if command == "erase":
            assert ANNA.encode() not in everything(lake)
            assert list(lake.glob("receipts/*.json"))
    assert died > 5


def everything(lake: Path) -> bytes:
    """All bytes of all files, Parquet decoded."""
    found = []
    for file in lake.rglob("*"):
        if file.suffix == ".parquet":
            found.append(str(pq.read_table(file, partitioning=None).to_pylist()).encode())
        elif file.is_file():
            found.append(file.read_bytes())
    return b"".join(found)
