"""A receiver whose manifest is lost keeps what it acknowledged, and writes it once rebuilt.

Tests receiver.writer and lake.maintenance.rebuild together.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
import otlp_requests
import pytest
from live_receiver import count, exporting
from warm_receiver import started

from apm_analytics.lake import manifest
from apm_analytics.lake.maintenance.rebuild import rebuild
from apm_analytics.lake.maintenance.verify import verify


def deleted(file: Path) -> None:
    file.unlink()


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def overwritten(file: Path) -> None:
    file.write_bytes(b"\xff" * file.stat().st_size)


def replaced(file: Path) -> None:
    rest = file.with_name("rest")
    rest.write_bytes(b"no manifest")
    rest.rename(file)


@pytest.mark.parametrize("lose", [deleted, emptied, overwritten, replaced])
def test_nothing_acknowledged_is_lost_with_the_manifest(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    with started(tmp_path) as receiver, exporting(receiver.grpc_port) as export:
        acknowledged = 0

        def send(first: int) -> None:
            nonlocal acknowledged
            with suppress(grpc.RpcError):  # it may refuse while the manifest is lost
                export(otlp_requests.traces(10, first=first).SerializeToString())
                acknowledged += 10

        for number in range(5):
            send(1 + number * 10)
            time.sleep(0.3)
        assert acknowledged == 50
        lose(tmp_path / manifest.FILE_NAME)
        for number in range(5, 10):
            send(1 + number * 10)
            time.sleep(0.3)
        done = rebuild(tmp_path)
        assert not done.missing
        until = time.monotonic() + 60
        while count(tmp_path) < acknowledged and time.monotonic() < until:
            time.sleep(0.1)
        send(200)
        while count(tmp_path) < acknowledged and time.monotonic() < until:
            time.sleep(0.1)
        receiver.stop()
    assert count(tmp_path) == acknowledged
    assert not list(tmp_path.rglob("*.damaged"))
    assert verify(tmp_path, now_s=time.time() + 3_600).sound
