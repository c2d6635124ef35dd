"""A request that grows when it is decoded costs neither memory nor the data of others.

Tests decode.bounds, decode.messages, wire.state, receiver.replay and receiver.writer.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import otlp_requests
import psutil
from live_receiver import count
from otlp_requests import START_NS
from warm_receiver import Started, started

from apm_analytics.foundation import varint

MOST_MEMORY = 800_000_000  # bytes, of the whole process
SENDERS = 4


def field(number: int, content: bytes) -> bytes:
    return varint.encode(number << 3 | 2) + varint.encode(len(content)) + content


def pair(key: bytes, value: bytes = b"v") -> bytes:
    return field(1, key) + field(2, field(1, value))


TIME = START_NS.to_bytes(8, "little")
LOG = b"\x09" + TIME
SPAN = field(1, b"\1" * 16) + field(2, b"\2" * 8) + b"\x39" + TIME + b"\x41" + TIME
POINT = b"\x19" + TIME
# An attribute that is a list makes the library read the whole request.
LIST = field(1, b"k") + field(2, field(5, b""))
MANY = [pair(b"k%06d" % number) for number in range(9_000)]


def request(records: list[bytes], attributes: list[bytes] | None = None) -> bytes:
    """Return a request of one resource and one scope."""
    resource = b"".join(field(1, each) for each in attributes or [pair(b"service.name")])
    return field(1, field(1, resource) + field(2, b"".join(field(2, each) for each in records)))


def metric(kind: int, points: list[bytes]) -> bytes:
    """Return a metric; kinds are the fields of the message `Metric`."""
    return field(1, b"m") + field(kind, b"".join(field(1, point) for point in points))


def json_logs(records: int, **more: object) -> bytes:
    attributes = [{"key": f"k{n}", "value": {"stringValue": "v"}} for n in range(9_000)]
    record = {"timeUnixNano": str(START_NS)}
    group = {
        "resource": {"attributes": attributes},
        "scopeLogs": [{"logRecords": [record] * records}],
    }
    return json.dumps({"resourceLogs": [group], **more}).encode()


def json_bounds() -> bytes:
    point = {"timeUnixNano": str(START_NS), "explicitBounds": [0] * 1_000_000}
    data = {"aggregationTemporality": 2, "dataPoints": [point]}
    scope = {"metrics": [{"name": "m", "histogram": data}]}
    return json.dumps({"resourceMetrics": [{"scopeMetrics": [scope]}]}).encode()


LOGS, TRACES, METRICS, JSON = "logs", "traces", "metrics", "application/json"
GAUGE, HISTOGRAM, EXPONENTIAL, SUMMARY = 5, 9, 10, 11


def spans(inside: bytes, first: bytes = b"") -> bytes:
    return request([SPAN + inside + first, *[SPAN + inside] * 9])


def points(kind: int, inside: bytes, count: int = 20) -> bytes:
    return request([metric(kind, [POINT + inside] * count)])


WORST: dict[str, tuple[str, Callable[[], bytes]]] = {
    "attributes times records": (LOGS, lambda: request([LOG] * 200_000, MANY)),
    "the same by the library": (
        LOGS,
        lambda: request([LOG] * 20_000 + [LOG + field(6, LIST)], MANY),
    ),
    "the same with spans": (TRACES, lambda: request([SPAN] * 40_000, MANY)),
    "the same with points": (
        METRICS,
        lambda: request([metric(GAUGE, [POINT + b"\x21" + TIME] * 90_000)], MANY),
    ),
    "small logs": (LOGS, lambda: request([LOG] * 400_000)),
    "small logs by the library": (
        LOGS,
        lambda: request([LOG + field(6, LIST)] + [LOG] * 200_000),
    ),
    "rejected with their resource": (
        LOGS,
        lambda: request([b""] * 5_000, [pair(b"k", b"x" * 100_000)]),
    ),
    "resources": (LOGS, lambda: field(1, field(2, b"")) * 1_000_000),
    "events": (TRACES, lambda: spans(field(11, b"") * 100_000)),
    "links": (TRACES, lambda: spans(field(13, b"") * 100_000)),
    "links by the library": (TRACES, lambda: spans(field(13, b"") * 100_000, field(9, LIST))),
    "histograms": (METRICS, lambda: points(HISTOGRAM, b"", 300_000)),
    "exponential histograms": (METRICS, lambda: points(EXPONENTIAL, b"", 300_000)),
    "buckets": (METRICS, lambda: points(EXPONENTIAL, field(8, field(2, b"\1" * 200_000)))),
    "summaries": (METRICS, lambda: points(SUMMARY, b"", 300_000)),
    "quantiles": (METRICS, lambda: points(SUMMARY, field(6, b"") * 100_000)),
    "exemplars": (METRICS, lambda: points(HISTOGRAM, field(8, b"") * 100_000)),
    "metrics": (
        METRICS,
        lambda: request([metric(GAUGE, [POINT + b"\x21" + TIME])] * 300_000),
    ),
    "JSON": (LOGS + JSON, lambda: json_logs(100_000)),
    "unusual JSON": (LOGS + JSON, lambda: json_logs(20_000, other=1)),
    "empty JSON values": (LOGS + JSON, lambda: b'{"x":[' + b"{}," * 5_000_000 + b"{}]}"),
    "JSON numbers": (METRICS + JSON, json_bounds),
}


def post(receiver: Started, kind: str, content: bytes) -> httpx.Response:
    signal = kind.removesuffix(JSON)
    media = "application/x-protobuf" if signal == kind else JSON
    url = f"http://127.0.0.1:{receiver.http_port}/v1/{signal}"
    return httpx.post(url, content=content, headers={"content-type": media}, timeout=60)


@contextmanager
def others_sending(receiver: Started) -> Iterator[list[float]]:
    """Send small requests meanwhile; yield the times of their answers, all of them 200 (s)."""
    until, answered = threading.Event(), []

    def send(sender: int) -> None:
        with httpx.Client(timeout=60) as client:
            number = 0
            while not until.is_set():
                number += 1
                content = otlp_requests.traces(5, first=sender * 10**6 + number * 5)
                url = f"http://127.0.0.1:{receiver.http_port}/v1/traces"
                headers = {"content-type": "application/x-protobuf"}
                began = time.monotonic()
                answer = client.post(url, content=content.SerializeToString(), headers=headers)
                answer.raise_for_status()
                answered.append(time.monotonic() - began)
                until.wait(0.02)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(SENDERS)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        until.set()
        for thread in threads:
            thread.join()


@contextmanager
def memory_watched(receiver: Started) -> Iterator[list[int]]:
    """Yield a list whose only item becomes the most memory of the process (bytes)."""
    process, peak, until = psutil.Process(receiver.process.pid), [0], threading.Event()

    def watch() -> None:
        while not until.wait(0.002):
            with suppress(psutil.NoSuchProcess):
                peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        until.set()
        watcher.join()


def overflowing() -> bytes:
    """A long attribute of a resource times many records is beyond what Arrow counts in 31 bits."""
    attributes = [pair(b"service.name", b"java"), pair(b"process.command_line", b"x" * 100_000)]
    return request([LOG + field(5, field(1, b"m"))] * 22_000, attributes)


def test_a_long_attribute_of_many_records_costs_nobody_a_record(tmp_path: Path) -> None:
    with started(tmp_path) as receiver:
        with others_sending(receiver) as answered:
            assert post(receiver, LOGS, overflowing()).status_code == 200
            time.sleep(1)
        receiver.stop()
    assert count(tmp_path, "logs") == 22_000 and count(tmp_path) == 5 * len(answered)
    assert not list(tmp_path.rglob("*.damaged"))


def test_the_worst_requests_of_each_signal_are_refused_within_the_memory(tmp_path: Path) -> None:
    with started(tmp_path) as receiver, memory_watched(receiver) as peak:
        with others_sending(receiver) as answered:
            for name, (kind, build) in WORST.items():
                answer = post(receiver, kind, build())
                assert answer.status_code == 413, (name, answer.status_code, answer.text[:200])
                assert peak[0] < MOST_MEMORY, name
        receiver.stop()
    assert count(tmp_path) == 5 * len(answered)


def heavy(records: int) -> bytes:
    return request([LOG] * records, [pair(b"k%d" % number) for number in range(50)])


def test_heavy_requests_share_a_memory_and_others_do_not_wait_for_it(tmp_path: Path) -> None:
    content = heavy(18_000)  # 30 MB each
    statuses: list[int] = []
    with started(tmp_path) as receiver, memory_watched(receiver) as peak:

        def send() -> None:
            statuses.extend(post(receiver, LOGS, content).status_code for _ in range(5))

        with others_sending(receiver) as answered:
            threads = [threading.Thread(target=send) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        receiver.stop()
    assert set(statuses) <= {200, 503} and 200 in statuses
    assert peak[0] < MOST_MEMORY
    assert count(tmp_path) == 5 * len(answered)
    assert count(tmp_path, "logs") == 18_000 * statuses.count(200)
