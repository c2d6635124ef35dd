"""Private PostgreSQL and Redis from Debian's packages, on free loopback ports.

In:  nothing, or a folder for what they write.
Out: running servers, stopped with the context.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNPRIVILEGED = "postgres"  # PostgreSQL refuses to run as root
READY_S = 30.0


def free_port() -> int:
    """Give a port that nobody listens on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def postgres_program(name: str) -> str | None:
    """Find a program of PostgreSQL, whose server programs Debian keeps off the path."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(versions[0]) if versions else shutil.which(name)


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL with a fresh cluster; give `host=... port=...` for psycopg.

    Its data lies in a folder of its own: pytest keeps its folders closed to other users.
    """
    with tempfile.TemporaryDirectory(prefix="apm-postgres-") as folder:
        os.chmod(folder, 0o711)
        with _postgres(Path(folder) / "data") as dsn:
            yield dsn


@contextmanager
def _postgres(data: Path) -> Iterator[str]:
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    assert initdb and server
    data.mkdir(mode=0o700)
    user: dict[str, object] = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam(UNPRIVILEGED)
        os.chown(data, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    arguments = ["-D", str(data), "-U", "apm", "-A", "trust", "--no-sync"]
    subprocess.run([initdb, *arguments], check=True, capture_output=True, cwd="/", **user)
    port = free_port()
    quick = [
        "-c",
        "fsync=off",
        "-c",
        "shared_buffers=32MB",
        "-c",
        f"unix_socket_directories={data}",
    ]
    where = ["-D", str(data), "-h", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(
        [server, *where, *quick],
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **user,
    )
    try:
        _await_port(port, process)
        dsn = f"host=127.0.0.1 port={port} user=apm dbname=postgres"
        _await_postgres(dsn)
        yield dsn
    finally:
        process.terminate()
        process.wait(READY_S)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Run a Redis that keeps nothing; give its URL."""
    program = shutil.which("redis-server")
    assert program
    port = free_port()
    where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    process = subprocess.Popen(
        [program, *where, "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_port(port, process)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(READY_S)


def _await_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


def _await_postgres(dsn: str) -> None:
    import psycopg

    deadline = time.monotonic() + READY_S
    while True:
        try:
            psycopg.connect(dsn).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
