"""A receiver on free loopback ports, in a thread of the test's own process."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import uvloop

from apm_analytics.ingest.receiver import Config, Receiver
from apm_analytics.ingest.receiver.grpc_endpoint import SERVICES
from apm_analytics.lake import query

# The first start compiles, possibly while others do the same.
START_S = 300


@contextmanager
def running(config: Config) -> Iterator[Receiver]:
    """Run a receiver until the block ends, then stop it as SIGTERM would."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    free = replace(config, grpc_port=0, http_port=0, admin_port=0)

    def call(coroutine: "asyncio.Future[None]") -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(START_S)

    async def made() -> Receiver:
        return Receiver(free)

    receiver = asyncio.run_coroutine_threadsafe(made(), loop).result(START_S)
    try:
        call(receiver.start())
        yield receiver
    finally:
        call(receiver.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def exporting(port: int, signal: str = "traces") -> Iterator[grpc.UnaryUnaryMultiCallable]:
    """Yield the Export call of one signal; bytes in, bytes out."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel.unary_unary(f"/{SERVICES[signal]}/Export")


def count(lake: Path, table: str = "spans") -> int:
    """Return the number of rows that a query sees."""
    row = query.connect(lake).execute(f"select count(*) from {table}").fetchone()
    assert row
    return int(row[0])


def wait_until(true: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until a condition holds that another thread or process brings about."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not true after {within_s} s"
        time.sleep(0.02)
