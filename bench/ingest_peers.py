"""The receivers that are measured side by side, each in a separate process.

In:  a folder to work in.
Out: running processes with a gRPC port (and HTTP where they have one).
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TIMEOUT_S = 300.0  # what is not compiled yet takes a while on a busy machine
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Peer:
    """One running receiver; `does` says what its figures include."""

    name: str
    does: str
    process: psutil.Process
    grpc_port: int
    http_port: int = 0
    admin_port: int = 0
    lake: Path | None = None

    def cpu_s(self) -> float:
        """Return the CPU seconds spent so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def beside_cpu_s(self) -> float:
        """Return the CPU seconds of its ended child processes."""
        times = self.process.cpu_times()
        return float(times.children_user + times.children_system)

    def rss_mb(self) -> float:
        """Return the memory in use."""
        return float(self.process.memory_info().rss) / 1e6

    def beside_mb(self) -> float:
        """Return the memory of its running child processes."""
        used = 0
        for child in self.process.children():
            with suppress(psutil.NoSuchProcess):  # it has just ended
                used += child.memory_info().rss
        return used / 1e6


@contextmanager
def ours(folder: Path) -> Iterator[Peer]:
    """Run `apm receive` as a user would."""
    ports = [_free_port() for _ in range(3)]
    lake = folder / "lake"
    command = [Path(sys.executable).parent / "apm", "receive", "--lake", lake]
    for option, port in zip(("grpc", "http", "admin"), ports, strict=True):
        command += [f"--{option}-port", str(port)]
    does = "privacy rules, journal synced before the answer, zstd Parquet; another process merges"
    with _running(command, folder, ports[0]) as process:
        yield Peer("apm receive", does, process, *ports, lake)


@contextmanager
def rotel(folder: Path) -> Iterator[Peer]:
    """Run rotel with its ClickHouse exporter into a plain HTTP sink."""
    import importlib.util

    found = importlib.util.find_spec("rotel")
    assert found and found.origin, "run `make bench-peers`"
    program = Path(found.origin).parent / "rotel-agent"
    grpc_port, http_port, sink_port = (_free_port() for _ in range(3))
    sink = [sys.executable, Path(__file__).parent / "http_sink.py", str(sink_port)]
    command = [program, "start", "--exporter", "clickhouse"]
    command += ["--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}"]
    command += ["--otlp-http-endpoint", f"127.0.0.1:{http_port}"]
    command += ["--otlp-grpc-max-recv-msg-size-mib", "16"]
    command += ["--clickhouse-exporter-endpoint", f"http://127.0.0.1:{sink_port}"]
    does = "answers from memory, no journal; ClickHouse rows (lz4) to a sink that forgets them"
    with (
        _running(sink, folder, sink_port),
        _running(command, folder, grpc_port) as process,
    ):
        yield Peer("rotel", does, process, grpc_port, http_port)


@contextmanager
def collector(folder: Path, program: Path, form: str) -> Iterator[Peer]:
    """Run the OpenTelemetry Collector from OTLP to its file exporter, in JSON or protobuf."""
    grpc_port = _free_port()
    config = folder / "collector.yaml"
    config.write_text(f"""
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: 127.0.0.1:{grpc_port}, max_recv_msg_size_mib: 16}}
exporters:
  file: {{path: {folder}/telemetry.out, format: {form}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [file]}}
    metrics: {{receivers: [otlp], exporters: [file]}}
    logs: {{receivers: [otlp], exporters: [file]}}
""")
    does = f"answers when written to a file ({form}), not synced; no columns, not compressed"
    with _running([program, "--config", config], folder, grpc_port) as process:
        yield Peer(f"Collector, file exporter, {form}", does, process, grpc_port)


@contextmanager
def _running(command: list[object], folder: Path, port: int) -> Iterator[psutil.Process]:
    log = folder / f"{Path(str(command[0])).name}-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "APM_WORKSPACE": str(ROOT)},
        )
    try:
        _await_port(process, port, log)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_port(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{log.name} ended at once:\n{log.read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on {port} after {START_TIMEOUT_S} s: {log.read_text()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
