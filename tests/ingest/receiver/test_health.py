"""A receiver whose lake, manifest or writer is lost says so, refuses, and recovers or ends.

Tests receiver.health, receiver.pipeline and receiver.writer together. The clock is tested in
test_clock.
"""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import httpx
import otlp_requests
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from live_receiver import count, exporting, running, wait_until
from warm_receiver import Started, started

from apm_analytics.foundation.errors import ApmError
from apm_analytics.ingest.receiver import Config, Receiver, service, writer
from apm_analytics.lake import snapshots
from apm_analytics.lake.manifest import FILE_NAME
from apm_analytics.serve.refusals import STATUS_TRAILER

ROWS = 10


def spans(first: int) -> bytes:
    return otlp_requests.traces(ROWS, first=first).SerializeToString()


def readiness(receiver: Receiver | Started) -> str:
    return httpx.get(f"http://127.0.0.1:{receiver.admin_port}/readyz").text


def assert_refused(receiver: Receiver | Started, reason: str, cause: str) -> None:
    """Check /readyz, the metrics, and the refusals of both protocols."""
    wait_until(lambda: reason in readiness(receiver))
    admin = f"http://127.0.0.1:{receiver.admin_port}"
    assert httpx.get(f"{admin}/readyz").status_code == 503
    metrics = httpx.get(f"{admin}/metrics").text
    assert f'apm_receiver_trouble{{cause="{cause}"}} 1.0' in metrics
    assert "apm_receiver_ready 0.0" in metrics
    with exporting(receiver.grpc_port) as export, pytest.raises(grpc.RpcError) as refused:
        export(spans(900))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason in refused.value.details() and "free space" not in refused.value.details()
    trailer = dict(refused.value.trailing_metadata())[STATUS_TRAILER]
    assert Status.FromString(trailer).details[0].Is(RetryInfo.DESCRIPTOR)
    answer = httpx.post(
        f"http://127.0.0.1:{receiver.http_port}/v1/traces",
        content=spans(900),
        headers={"content-type": "application/x-protobuf"},
    )
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
    assert reason.encode() in answer.content


def assert_recovered(receiver: Receiver | Started, lake: Path, rows: int) -> None:
    """Check that the receiver accepts again, and how many rows there are with the new ones."""
    wait_until(lambda: readiness(receiver) == "ready\n")
    with exporting(receiver.grpc_port) as export:
        assert export(spans(500)) == b""
    wait_until(lambda: count(lake) == rows + ROWS)
    metrics = httpx.get(f"http://127.0.0.1:{receiver.admin_port}/metrics").text
    assert "apm_receiver_ready 1.0" in metrics
    assert "apm_receiver_trouble" in metrics and "} 1.0" not in "".join(
        line for line in metrics.splitlines() if "apm_receiver_trouble" in line
    )


def copied(manifest: Path, copy: Path) -> None:
    with closing(sqlite3.connect(manifest)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def moved_away(lake: Path) -> Callable[[], object]:
    aside = lake.with_name("aside")
    lake.rename(aside)
    return lambda: aside.rename(lake)


def unmounted(lake: Path) -> Callable[[], object]:
    back = moved_away(lake)
    lake.mkdir()

    def mount() -> None:
        lake.rmdir()
        back()

    return mount


def deleted(lake: Path) -> Callable[[], object]:
    """Delete the lake; a backup of it without the journal is put back."""
    backup = lake.with_name("backup")
    shutil.copytree(lake, backup, ignore=shutil.ignore_patterns("journal", "*-wal", "*-shm"))
    copied(lake / FILE_NAME, backup / FILE_NAME)
    shutil.rmtree(lake)
    return lambda: backup.rename(lake)


def without_manifest(lake: Path) -> Callable[[], object]:
    aside = lake / "aside.sqlite"
    (lake / FILE_NAME).rename(aside)
    return lambda: aside.rename(lake / FILE_NAME)


LOSSES = {
    "moved away": (moved_away, "the lake folder is gone", "lake_gone"),
    "unmounted": (unmounted, "the lake folder is gone", "lake_gone"),
    "deleted": (deleted, "the lake folder is gone", "lake_gone"),
    "no manifest": (without_manifest, "the lake's manifest is gone", "manifest_gone"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_lake_is_named_and_no_other_is_begun_in_its_place(tmp_path: Path, loss: str) -> None:
    lose, reason, cause = LOSSES[loss]
    lake = tmp_path / "lake"
    with started(lake) as receiver:
        with exporting(receiver.grpc_port) as export:
            assert export(spans(1)) == b""
        wait_until(lambda: count(lake) == ROWS)
        find_again = lose(lake)
        assert_refused(receiver, reason, cause)
        assert not (lake / "spans").exists() or loss == "no manifest"
        assert not (lake / FILE_NAME).exists()
        find_again()
        assert_recovered(receiver, lake, ROWS)
        receiver.stop()
    assert count(lake) == 2 * ROWS


def test_what_was_acknowledged_before_the_lake_was_lost_is_written_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    monkeypatch.setattr(writer, "FLUSH_S", 3.0)
    with running(Config(lake)) as receiver:
        with exporting(receiver.grpc_port) as export:
            assert export(spans(1)) == b""
        find_again = deleted(lake)
        assert_refused(receiver, "the lake folder is gone", "lake_gone")
        find_again()
        wait_until(lambda: readiness(receiver) == "ready\n")
        wait_until(lambda: count(lake) == ROWS)


def test_a_removed_journal_folder_is_made_again(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with started(lake) as receiver:
        with exporting(receiver.grpc_port) as export:
            assert export(spans(1)) == b""
        shutil.rmtree(lake / "journal")
        wait_until(lambda: count(lake) == ROWS)
        wait_until(lambda: any(lake.glob("journal/*/lock")))
        assert_recovered(receiver, lake, ROWS)
        receiver.kill()
    with started(lake) as receiver:
        receiver.stop()
    assert count(lake) == 2 * ROWS


def junk(manifest: Path) -> None:
    manifest.write_bytes(b"no database" * 1000)


def cut(manifest: Path) -> None:
    manifest.write_bytes(manifest.read_bytes()[:5000])


def overwritten_page(manifest: Path) -> None:
    content = bytearray(manifest.read_bytes())
    pages = len(content) // 4096
    for page in range(1, pages):
        content[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
    manifest.write_bytes(content)


@contextmanager
def journalled(lake: Path) -> Iterator[bytes]:
    """Make a lake with rows and with a journal that a killed receiver left; yield its manifest."""
    with started(lake) as receiver, exporting(receiver.grpc_port) as export:
        assert export(spans(1)) == b""
        wait_until(lambda: count(lake) == ROWS)
        assert export(spans(100)) == b""
        receiver.kill()
    with closing(sqlite3.connect(lake / FILE_NAME)) as con:
        con.execute("pragma wal_checkpoint(truncate)")
    for beside in lake.glob(f"{FILE_NAME}-*"):
        beside.unlink()
    yield (lake / FILE_NAME).read_bytes()


@pytest.mark.parametrize("damage", [junk, cut, overwritten_page])
def test_an_unusable_manifest_at_the_start_is_named_and_costs_nothing(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    with journalled(tmp_path) as manifest:
        damage(tmp_path / FILE_NAME)
    with started(tmp_path) as receiver:
        assert_refused(receiver, "the lake's manifest cannot be used", "manifest_unusable")
        assert not list(tmp_path.rglob("*.damaged"))
        for beside in tmp_path.glob(f"{FILE_NAME}-*"):
            beside.unlink()
        (tmp_path / FILE_NAME).write_bytes(manifest)
        assert_recovered(receiver, tmp_path, 2 * ROWS)
        receiver.stop()
    assert count(tmp_path) == 3 * ROWS
    assert not list(tmp_path.rglob("*.damaged"))


def test_a_manifest_that_breaks_while_the_receiver_runs_is_named_and_costs_nothing(
    tmp_path: Path,
) -> None:
    with started(tmp_path) as receiver, exporting(receiver.grpc_port) as export:
        assert export(spans(1)) == b""
        wait_until(lambda: count(tmp_path) == ROWS)
        kept = tmp_path / "kept.sqlite"
        copied(tmp_path / FILE_NAME, kept)
        new = tmp_path / "new.sqlite"
        junk(new)
        for beside in tmp_path.glob(f"{FILE_NAME}-*"):
            beside.unlink()
        new.rename(tmp_path / FILE_NAME)
        assert_refused(receiver, "the lake's manifest cannot be used", "manifest_unusable")
        kept.rename(tmp_path / FILE_NAME)
        assert_recovered(receiver, tmp_path, ROWS)
        receiver.stop()
    assert not list(tmp_path.rglob("*.damaged"))


class _Ended(BaseException):
    """What ends a thread that catches every Exception."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_ended_is_named_and_ends_the_receiver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = threading.Event()
    append = snapshots.append

    def failing(*args: object, **named: object) -> int:
        if fails.is_set():
            raise _Ended
        return append(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshots, "append", failing)
    with running(Config(tmp_path)) as receiver:
        with exporting(receiver.grpc_port) as export:
            fails.set()
            assert export(spans(1)) == b""
        assert_refused(receiver, "a thread of the receiver has ended", "thread_ended")
    # The next start finds everything in the journal; this one ends, for systemd to start it again.
    config = Config(tmp_path, grpc_port=0, http_port=0, admin_port=0)
    with pytest.raises(ApmError, match="lake writer"):
        asyncio.run(service._run(config, lambda line: None))
    fails.clear()
    with started(tmp_path) as started_again:
        started_again.stop()
    assert count(tmp_path) == ROWS
