"""Looking through open files for idle gRPC connections has no side effects.

Closing connections is tested with a receiver, in tests/ingest/receiver/test_bad_input.
"""

import fcntl
import socket
import subprocess
import sys
from pathlib import Path

from apm_analytics.serve import grpc_connections


def test_looking_for_idle_connections_leaves_the_locks_of_files_alone(tmp_path: Path) -> None:
    file = tmp_path / "locked"
    lock = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with socket.create_server(("127.0.0.1", 0)) as listener, file.open("w") as held:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=10), listener.accept()[0]:
            fcntl.lockf(held, fcntl.LOCK_EX)  # as SQLite locks the manifest
            assert (
                grpc_connections.close_idlest_now(port, most=0) == 0
            )  # none has been idle for long
            other = subprocess.run([sys.executable, "-c", lock, file], capture_output=True)
    assert b"BlockingIOError" in other.stderr
