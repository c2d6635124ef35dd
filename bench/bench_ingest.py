"""The receiver beside rotel and the Collector: records per CPU second, memory, bytes, delay.

In:  --requests, --peers.
Out: a table on standard output.

CPU is that of the whole receiving process, from the first request until everything is stored.
Merging parts later, which no peer does, runs in a separate process and has a separate line. All run
one after the other on the same requests: compare within one run only.
"""

import argparse
import http.client
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import otlp_load
from ingest_peers import Peer, collector, ours, rotel

from apm_analytics.ingest.receiver.grpc_endpoint import SERVICES
from apm_analytics.lake import query, snapshots

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "e2e"))

SENDERS = 8
WARM_UP_REQUESTS = 8
QUIET_S = 1.5  # no more CPU than a trace for so long: the process has finished
TABLES = {"traces": "spans", "logs": "logs", "metrics": "metric_points"}
LIVE_SPANS_PER_S = 20_000
LIVE_S = 10
# The Collector twice: JSON is what its file exporter writes by default, protobuf costs it least.
PEERS = ("apm", "rotel", "json", "proto")
Send = Callable[[bytes], None]


def main() -> None:
    """Measure every receiver in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1200, help="of 1,000 records, a signal")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.peers:
            place = Path(folder) / name
            place.mkdir()
            _measure(name, place, arguments.requests)


def _measure(name: str, folder: Path, requests: int) -> None:
    with ExitStack() as stack:
        if name == "apm":
            peer = stack.enter_context(ours(folder))
        elif name == "rotel":
            peer = stack.enter_context(rotel(folder))
        else:
            import collector as build

            program = build.built()
            if program is None:
                print("Collector: not measured, Go is not installed")
                return
            peer = stack.enter_context(collector(folder, program, name))
        print(f"{peer.name}: {peer.does}")
        beside = _Peak(peer.beside_mb) if peer.lake is not None else None
        for signal in ("traces", "logs", "metrics"):
            _throughput(peer, signal, requests, "gRPC")
        if peer.lake is not None and beside is not None:
            _throughput(peer, "traces", requests, "HTTP")
            _disk(peer.lake)
            _delay(peer)
            while peer.beside_mb():
                time.sleep(0.1)
            rows = int(snapshots.status(peer.lake)["rows"].sum())
            print(
                f"  compaction: {peer.beside_cpu_s():.1f} CPU seconds, "
                f"{peer.beside_cpu_s() / rows * 1e6:.2f} us per received row, "
                f"peak {beside.stop():,.0f} MB beside the receiver"
            )


def _throughput(peer: Peer, signal: str, requests: int, protocol: str) -> None:
    rows = otlp_load.RECORDS[signal]
    made = list(otlp_load.payloads(signal, requests + WARM_UP_REQUESTS, time.time_ns()))
    _send_all(peer, signal, made[:WARM_UP_REQUESTS], protocol)
    _settle(peer)
    peak = _Peak(peer.rss_mb)
    cpu, wall = peer.cpu_s(), time.monotonic()
    _send_all(peer, signal, made[WARM_UP_REQUESTS:], protocol)
    wall = time.monotonic() - wall
    _settle(peer)
    cpu = peer.cpu_s() - cpu
    records = rows * requests
    size = sum(map(len, made)) / len(made) / rows
    print(
        f"  {signal:8}{protocol:5}{records / cpu:>10,.0f} per CPU second"
        f"{records / wall:>10,.0f} per second"
        f"{cpu / records * 1e6:>7.2f} us each, {size:.0f} bytes each, peak {peak.stop():,.0f} MB"
    )


def _send_all(peer: Peer, signal: str, payloads: Sequence[bytes], protocol: str) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(SENDERS) as pool:
        sends = [
            _grpc(peer, signal, stack) if protocol == "gRPC" else _http(peer, signal)
            for _ in range(SENDERS)
        ]
        shares = [payloads[number::SENDERS] for number in range(SENDERS)]
        list(pool.map(lambda pair: [pair[0](p) for p in pair[1]], zip(sends, shares, strict=True)))


def _grpc(peer: Peer, signal: str, stack: ExitStack) -> Send:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(f"127.0.0.1:{peer.grpc_port}", options=options)
    stack.enter_context(channel)
    call = channel.unary_unary(f"/{SERVICES[signal]}/Export")

    def send(payload: bytes) -> None:
        while True:
            try:
                call(payload, timeout=60)
                return
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                time.sleep(0.2)  # the receiver asks for a retry

    return send


def _http(peer: Peer, signal: str) -> Send:
    connection = http.client.HTTPConnection("127.0.0.1", peer.http_port)

    def send(payload: bytes) -> None:
        status = 503
        while status == 503:
            headers = {"content-type": "application/x-protobuf"}
            connection.request("POST", f"/v1/{signal}", payload, headers)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
            if status == 503:
                time.sleep(0.2)
        assert status == 200, status

    return send


def _settle(peer: Peer) -> None:
    """Wait until the process has nothing left to do."""
    while True:
        before = peer.cpu_s()
        time.sleep(QUIET_S)
        if peer.cpu_s() - before < 0.03 * QUIET_S:
            return


class _Peak:
    """The most memory in use between making this and `stop`."""

    def __init__(self, used_mb: Callable[[], float]) -> None:
        self._used_mb = used_mb
        self._most = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self._most = max(self._most, self._used_mb())

    def stop(self) -> float:
        self._stop.set()
        self._thread.join()
        return self._most


def _disk(lake: Path) -> None:
    for row in snapshots.status(lake).iter_rows(named=True):
        if row["rows"]:
            each = row["bytes"] / row["rows"]
            print(f"  {row['table']}: {each:.1f} bytes per row on disk, {row['parts']} parts")


def _delay(peer: Peer) -> None:
    """Send steadily; how long after its acknowledgement does a query see a span?"""
    assert peer.lake is not None
    size = otlp_load.RECORDS["traces"]
    requests = LIVE_SPANS_PER_S * LIVE_S // size
    payloads = list(otlp_load.payloads("traces", requests, time.time_ns()))
    first = _rows(peer.lake)
    acknowledged: list[float] = []
    seen: list[tuple[float, int]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            rows = _rows(peer.lake) - first
            seen.append((time.monotonic(), rows))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ExitStack() as stack:
        send = _grpc(peer, "traces", stack)
        start = time.monotonic()
        for number, payload in enumerate(payloads):
            time.sleep(max(0.0, start + number * size / LIVE_SPANS_PER_S - time.monotonic()))
            send(payload)
            acknowledged.append(time.monotonic())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (not seen or seen[-1][1] < requests * size):
        time.sleep(0.05)
    done.set()
    watcher.join()
    times, rows = np.array([t for t, _ in seen]), np.array([r for _, r in seen])
    places = np.searchsorted(rows, (np.arange(requests) + 1) * size)
    assert places.max() < len(times), "not everything became visible"
    delays = times[places] - np.array(acknowledged)
    print(
        f"  at {LIVE_SPANS_PER_S:,} spans per second, from acknowledgement to query: "
        f"median {np.median(delays):.2f} s, 99th percentile {np.quantile(delays, 0.99):.2f} s"
    )


def _rows(lake: Path | None) -> int:
    assert lake is not None
    con = query.connect(lake)
    found = con.execute("select count(*) from spans").fetchone()
    con.close()
    assert found
    return int(found[0])


if __name__ == "__main__":
    main()
