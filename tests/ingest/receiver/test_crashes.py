"""After kill -9 at any moment, no acknowledged request is lost or duplicated.

Tests lake.journal, receiver.pipeline, receiver.writer and receiver.repeats together.
"""

import queue
import random
import threading
import time
from pathlib import Path

import grpc
import otlp_requests
from live_receiver import exporting
from warm_receiver import Started, started

from apm_analytics.lake import query

KILLS = 50
SENDERS = 4
SPANS_A_REQUEST = 3


class Load:
    """Senders that send every request until it is acknowledged, as OTLP clients do."""

    def __init__(self) -> None:
        self.made = 0
        self.acknowledged = 0
        self.unanswered: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def request(self) -> bytes:
        """Return an unanswered request, or a new one."""
        try:
            return self.unanswered.get_nowait()
        except queue.Empty:
            with self._lock:
                self.made += 1
                first = self.made * SPANS_A_REQUEST
            return otlp_requests.traces(SPANS_A_REQUEST, first=first).SerializeToString()

    def send(self, receiver: Started, until: threading.Event) -> None:
        """Send until stopped or the receiver has ended."""
        with exporting(receiver.grpc_port) as export:
            while not until.is_set():
                self.once(export, until)

    def once(self, export: grpc.UnaryUnaryMultiCallable, until: threading.Event) -> None:
        """Send one request; without a response it is queued again."""
        payload = self.request()
        try:
            export(payload, timeout=20)
        except grpc.RpcError:
            self.unanswered.put(payload)
            until.set()
        else:
            with self._lock:
                self.acknowledged += 1


def test_fifty_kills_under_load_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    draw = random.Random(11)
    load = Load()
    for _ in range(KILLS):
        with started(tmp_path) as receiver:
            until = threading.Event()
            senders = [
                threading.Thread(target=load.send, args=(receiver, until)) for _ in range(SENDERS)
            ]
            for sender in senders:
                sender.start()
            time.sleep(draw.uniform(0.02, 0.6))
            receiver.kill()
            until.set()
            for sender in senders:
                sender.join()
    with started(tmp_path) as receiver, exporting(receiver.grpc_port) as export:
        while not load.unanswered.empty():
            load.once(export, threading.Event())
        receiver.stop()
    assert load.acknowledged == load.made > 10 * KILLS
    rows, ids = (
        query.connect(tmp_path)
        .execute("select count(*), count(distinct span_id) from spans")
        .fetchall()[0]
    )
    assert (rows, ids) == (load.made * SPANS_A_REQUEST, load.made * SPANS_A_REQUEST)
