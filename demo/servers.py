"""Private PostgreSQL and Redis from Debian's packages, on free loopback ports.

In:  nothing, or a folder to work in.
Out: running servers, stopped with the context.
"""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

UNPRIVILEGED = "postgres"  # PostgreSQL refuses to run as root
READY_S = 120.0  # the first start compiles


PORTS = range(20_000, 32_000)  # below those that Linux uses for outgoing connections


def free_port() -> int:
    """Return a port without a listener that outgoing connections do not use."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def postgres_program(name: str) -> str | None:
    """Find a program of PostgreSQL; Debian installs the server outside the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(versions[0]) if versions else shutil.which(name)


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL with a fresh cluster; yield SQLAlchemy's URL.

    Its data is in a separate folder, because its account may not enter those of other users.
    """
    with tempfile.TemporaryDirectory(prefix="apm-postgres-") as folder:
        os.chmod(folder, 0o711)
        with _postgres(Path(folder) / "data") as url:
            yield url


@contextmanager
def _postgres(data: Path) -> Iterator[str]:
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    assert initdb and server  # the caller has checked
    data.mkdir(mode=0o700)
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam(UNPRIVILEGED)
        os.chown(data, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    made = ["-D", str(data), "-U", "apm", "-A", "trust", "--no-sync"]
    subprocess.run([initdb, *made], check=True, capture_output=True, cwd="/", **user)
    port = free_port()
    options = ["fsync=off", "shared_buffers=32MB", "unix_socket_directories="]  # TCP only
    where = ["-D", str(data), "-h", "127.0.0.1", "-p", str(port)]
    with _running(
        [server, *where, *(word for option in options for word in ("-c", option))], port, **user
    ):
        _await_postgres(f"host=127.0.0.1 port={port} user=apm dbname=postgres")
        yield f"postgresql+psycopg://apm@127.0.0.1:{port}/postgres"


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Run a Redis without persistence; yield its URL."""
    program = shutil.which("redis-server")
    assert program  # the caller has checked
    port = free_port()
    where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with _running([program, *where, "--save", "", "--appendonly", "no"], port):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def _running(command: list[str], port: int, **user: Any) -> Iterator[None]:
    devnull = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd="/", stdout=devnull, stderr=devnull, **user)
    try:
        await_port("127.0.0.1", port, process)
        yield
    finally:
        process.send_signal(signal.SIGINT)  # on SIGTERM PostgreSQL waits for its clients
        process.wait(READY_S)


def await_port(host: str, port: int, process: "subprocess.Popen[Any]") -> None:
    """Wait until a port accepts connections; raise when its process ends before that."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(f"nothing listens on {host}:{port}")


def _await_postgres(dsn: str) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            psycopg.connect(dsn).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
