"""A receiver in a separate process that starts fast: forked from a compiled one.

The fork server imports this module once; every receiver is then a fork of it, so that fifty
kills do not pay for fifty imports.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import otlp_requests
import pytest

from apm_analytics.foundation.privacy import load_rules
from apm_analytics.ingest.decode import otlp, requests
from apm_analytics.ingest.receiver import Config, Receiver
from apm_analytics.ingest.redaction.requests import Redactor

# Compile and load everything before the first fork.
requests.warm_up()
otlp.decode_requests("traces", [otlp_requests.traces().SerializeToString()])
RULES = load_rules(Path(__file__).resolve().parents[2] / "specs" / "privacy.yaml", salt="tests")
Redactor(RULES).redact("traces", otlp_requests.traces().SerializeToString())

_fork_server = multiprocessing.get_context("forkserver")
_fork_server.set_forkserver_preload([__name__])


@dataclass
class Started:
    """A running receiver."""

    process: BaseProcess
    grpc_port: int
    http_port: int
    admin_port: int

    def kill(self) -> None:
        """End it as kill -9 does."""
        assert self.process.pid
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(30)

    def stop(self) -> None:
        """End it as SIGTERM does."""
        self.process.terminate()
        self.process.join(60)
        assert self.process.exitcode == 0


@contextmanager
def started(lake: Path, **options: Any) -> Iterator[Started]:
    """Start a receiver; a process that the block has not ended is killed.

    Parameters
    ----------
    options : further fields of its `Config`.
    """
    _warm_up()
    ours, theirs = _fork_server.Pipe()
    process = _fork_server.Process(target=_serve, args=(lake, options, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Started(process, *ours.recv())
    finally:
        if process.is_alive():
            process.kill()
            process.join(30)
        ours.close()


def _warm_up() -> None:
    """Start the fork server with this module on its path; it ignores modules it cannot import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()


def _serve(lake: Path, options: dict[str, Any], report: Connection) -> None:
    asyncio.run(_run(lake, options, report))


async def _run(lake: Path, options: dict[str, Any], report: Connection) -> None:
    config = Config(lake, grpc_port=0, http_port=0, admin_port=0, rules=RULES, **options)
    receiver = Receiver(config)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await receiver.start()
    report.send((receiver.grpc_port, receiver.http_port, receiver.admin_port))
    await stopping.wait()
    await receiver.stop()
