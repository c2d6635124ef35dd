"""Bad requests are refused with the right status and a reason, and others are still served.

Tests receiver.grpc_endpoint, receiver.http_endpoint, receiver.intake, and serve.encodings,
serve.limits, serve.refusals, serve.grpc_connections and serve.http_connections.
"""

import gzip
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import orjson
import otlp_requests
import psutil
import pyarrow as pa
import pytest
from live_receiver import exporting, running
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from warm_receiver import started

from apm_analytics.ingest.receiver import Config, Receiver

PROTOBUF = "application/x-protobuf"
HEADERS = {"content-type": PROTOBUF}
TIMEOUT_S = 1.0
LIMIT = 4 * 1024 * 1024
GOOD = otlp_requests.traces(1).SerializeToString()
IDLE_CONNECTIONS = 10_000


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    lake = tmp_path_factory.mktemp("lake")
    config = Config(lake, timeout_s=TIMEOUT_S, readers=8, max_request_bytes=LIMIT)
    with running(config) as made:
        yield made


@pytest.fixture(autouse=True)
def others_are_served(receiver: Receiver) -> Iterator[None]:
    yield
    with exporting(receiver.grpc_port) as export:
        assert export(GOOD, timeout=10) == b""
    assert post(receiver, GOOD).status_code == 200


def post(
    receiver: Receiver,
    content: bytes,
    *,
    path: str = "/v1/traces",
    media: str = PROTOBUF,
    encoding: str = "",
) -> httpx.Response:
    url = f"http://127.0.0.1:{receiver.http_port}{path}"
    headers = {"content-type": media, "content-encoding": encoding}
    return httpx.post(url, content=content, headers=headers, timeout=20)


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code(), refused.value.details() or ""


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def nested(depth: int) -> bytes:
    """A request with a resource attribute that is a list in a list in a list."""

    def field(tag: int, content: bytes) -> bytes:
        size = len(content)
        return bytes([tag, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + content

    value = AnyValue(string_value="deep").SerializeToString()
    for _ in range(depth):
        value = field(0x2A, field(0x0A, value))
    pair = b"\x0a\x01k" + field(0x12, value)
    return GOOD + field(0x0A, field(0x0A, field(0x0A, pair)))


def deep_json(depth: int) -> bytes:
    """The same in JSON."""
    value = b'{"arrayValue":{"values":[' * depth + b"]}}" * depth
    return b'{"resourceSpans":[{"resource":{"attributes":[{"key":"k","value":' + value + b"}]}}]}"


MALFORMED = {
    "cut short": GOOD[:-3],
    "a length of 4 GB": b"\x0a\xff\xff\xff\xff\x0f" + GOOD,
    "another wire type": b"\x08\x01" + GOOD[1:],
    "noise": bytes(range(255, 155, -1)),
    "no UTF-8": GOOD.replace(b"GET /", b"G\xff\xfe /"),
    "nested too deep": nested(200),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_refused_with_its_field(receiver: Receiver, case: str) -> None:
    payload = MALFORMED[case]
    with exporting(receiver.grpc_port) as export:
        code, details = refusal(lambda: export(payload))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "traces" in details
    answer = post(receiver, payload)
    assert answer.status_code == 400
    assert details.encode() in answer.content
    if case not in ("another wire type", "noise"):
        assert "resourceSpans" in details


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"resourceSpans": 7}', "resourceSpans: found a int, need a list"),
        (b'{"unknown": []}', "resourceSpans"),
        (b'{"resourceSpans": [{"schemaUrl": "\xff"}]}', "resourceSpans[0].schemaUrl"),
        (b'{"resourceSpans": [{"schemaUrl": "\xff\\u00e9"}]}', "no JSON"),
        (deep_json(2_000), "no JSON"),
        (deep_json(300), "nested"),
    ],
)
def test_malformed_json_is_refused(receiver: Receiver, content: bytes, said: str) -> None:
    answer = post(receiver, content, media="application/json")
    assert answer.status_code == 400
    assert said in answer.json()["message"]


REQUESTS = {
    "traces": otlp_requests.traces(1),
    "metrics": otlp_requests.metrics(),
    "logs": otlp_requests.logs(),
}
FIELDS = {"traces": "resourceSpans", "metrics": "resourceMetrics", "logs": "resourceLogs"}


@pytest.mark.parametrize("endpoint", FIELDS)
@pytest.mark.parametrize("sent", FIELDS)
def test_an_endpoint_refuses_requests_of_another_signal(
    receiver: Receiver, endpoint: str, sent: str
) -> None:
    payload = REQUESTS[sent].SerializeToString()
    document = otlp_requests.as_json(REQUESTS[sent], enum_numbers=True)
    both = {**document, FIELDS[endpoint]: []}
    letters = len(list(receiver.config.lake.glob("dead_letter/*")))
    answers = [
        post(receiver, payload, path=f"/v1/{endpoint}"),
        post(receiver, orjson.dumps(document), path=f"/v1/{endpoint}", media="application/json"),
        post(receiver, orjson.dumps(both), path=f"/v1/{endpoint}", media="application/json"),
    ]
    if endpoint == sent:
        assert {answer.status_code for answer in answers[:2]} == {200}
        return
    for answer in answers:
        assert answer.status_code == 400
        said = f"{FIELDS[sent]}: found a {sent} request, need {FIELDS[endpoint]}"
        assert said.encode() in answer.content
    with exporting(receiver.grpc_port, endpoint) as export:
        code, details = refusal(lambda: export(payload))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and said in details
    assert len(list(receiver.config.lake.glob("dead_letter/*"))) == letters


@pytest.mark.parametrize(
    ("path", "media", "encoding", "status"),
    [
        ("/v1/traces", "text/plain", "", 415),
        ("/v1/traces", "", "", 415),
        ("/v1/traces", PROTOBUF, "br", 415),
        ("/v1/traces", PROTOBUF, "gzip", 400),
        ("/v1/traces", PROTOBUF, "zstd", 400),
        ("/v1/traces", PROTOBUF, "deflate", 400),
        ("/v1/profiles", PROTOBUF, "", 404),
        ("/elsewhere", PROTOBUF, "", 404),
    ],
)
def test_what_is_not_known_has_its_status(
    receiver: Receiver, path: str, media: str, encoding: str, status: int
) -> None:
    assert post(receiver, GOOD, path=path, media=media, encoding=encoding).status_code == status


def test_another_method_is_refused(receiver: Receiver) -> None:
    assert httpx.get(f"http://127.0.0.1:{receiver.http_port}/v1/traces").status_code == 405


def test_zip_bombs_are_refused_by_both_endpoints(receiver: Receiver) -> None:
    zeros = bytes(200 * LIMIT // 4)
    bomb = gzip.compress(zeros, 1)
    bombs = {"gzip": bomb, "deflate": zlib.compress(zeros, 1)}
    bombs["zstd"] = pa.Codec("zstd").compress(zeros, asbytes=True)
    for encoding, one in bombs.items():
        assert len(one) < LIMIT
        assert post(receiver, one, encoding=encoding).status_code == 413
    with exporting(receiver.grpc_port) as export:
        code, details = refusal(lambda: export(bomb))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"{LIMIT:,}" in details


def test_gzip_of_very_many_members_is_refused_at_once(receiver: Receiver) -> None:
    content = gzip.compress(b"") * (LIMIT // 20)  # 8 MB of them took 48 s
    answer = post(receiver, content, encoding="gzip")
    assert answer.status_code == 400 and b"members" in answer.content


def test_bodies_beyond_the_limit_are_refused(receiver: Receiver) -> None:
    assert post(receiver, bytes(LIMIT + 1)).status_code == 413
    url = f"http://127.0.0.1:{receiver.http_port}/v1/traces"
    pieces = (bytes(LIMIT // 4) for _ in range(5))  # chunked: no Content-Length
    answer = httpx.post(url, content=pieces, headers={"content-type": PROTOBUF}, timeout=20)
    assert answer.status_code == 413
    with exporting(receiver.grpc_port) as export:
        code, _ = refusal(lambda: export(bytes(LIMIT + 1)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_announced_body_of_4_gb_is_refused_before_it_comes(receiver: Receiver) -> None:
    with connect(receiver.http_port) as client:
        head = f"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\n"
        client.sendall(f"{head}content-length: 4294967296\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413")


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    head = struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream)
    return head + content


# How a client of HTTP/2 begins.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


def test_a_grpc_message_of_4_gb_is_refused_before_it_comes(receiver: Receiver) -> None:
    def literal(name: str, value: str) -> bytes:
        return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()

    path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    head = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
    head |= {"content-type": "application/grpc", "te": "trailers"}
    headers = b"".join(literal(name, value) for name, value in head.items())
    with connect(receiver.grpc_port) as client:
        client.sendall(HELLO + frame(4, 1, 0, b""))
        client.sendall(frame(1, 4, 1, headers) + frame(0, 0, 1, b"\0\xff\xff\xff\xff" + GOOD))
        answered = b""
        while not _ends_stream(answered):
            piece = client.recv(4096)
            assert piece, "the connection was closed without an answer"
            answered += piece


def _ends_stream(answered: bytes) -> bool:
    """Return whether stream 1 was ended: headers with END_STREAM, or a reset."""
    at = 0
    while at + 9 <= len(answered):
        size = int.from_bytes(answered[at : at + 3], "big")
        kind, flags, stream = struct.unpack(">BBI", answered[at + 3 : at + 9])
        if stream == 1 and ((kind == 1 and flags & 1) or kind == 3):
            return True
        at += 9 + size
    return False


@pytest.mark.parametrize("count", [20_000, 1_000_000])
@pytest.mark.parametrize("attribute", [b"\x4a\x03\x0a\x01a", b"\x4a\x00", b""])
def test_very_many_attributes_are_refused(receiver: Receiver, attribute: bytes, count: int) -> None:
    media = PROTOBUF if attribute else "application/json"
    if attribute:
        span = attribute * (count * 4 // 5)
        for tag in (b"\x12", b"\x12", b"\x0a"):
            size = len(span)
            head = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14 & 0x7F | 0x80])
            span = tag + head + bytes([size >> 21]) + span
        payload = span
    else:
        pairs = b",".join([b"{}"] * count)
        payload = b'{"resourceSpans":[{"resource":{"attributes":[' + pairs + b"]}}]}"
    answer = post(receiver, payload, media=media)
    if count == 1_000_000:
        assert answer.status_code == 413
        assert b"bytes of memory" in answer.content
    else:
        assert answer.status_code == 400
        assert b"more than 10,000 attributes" in answer.content


def test_a_head_that_never_ends_is_not_waited_for(receiver: Receiver) -> None:
    with connect(receiver.http_port) as silent, connect(receiver.http_port) as slow:
        slow.sendall(b"POST /v1/traces HTTP/1.1\r\nhost: x\r\nx-slow: ")
        started_at = time.monotonic()
        assert closed(silent) and closed(slow)
        assert time.monotonic() - started_at < 10 * TIMEOUT_S


def test_a_head_without_bound_is_not_kept(receiver: Receiver) -> None:
    with connect(receiver.http_port) as client, pytest.raises(OSError):
        client.sendall(b"POST /v1/traces HTTP/1.1\r\nhost: x\r\n")
        for _ in range(1000):
            client.sendall(b"x-more: " + b"x" * 8192 + b"\r\n")
            time.sleep(0.001)


def test_a_body_that_never_ends_is_not_waited_for(receiver: Receiver) -> None:
    with connect(receiver.http_port) as client:
        head = f"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\n"
        client.sendall(f"{head}content-length: 100\r\n\r\n0123".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_grpc_call_without_a_message_is_not_waited_for(receiver: Receiver) -> None:
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(10)
        yield from ()

    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{receiver.grpc_port}", options=options) as channel:
        call = channel.stream_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        code, details = refusal(lambda: call(nothing(), timeout=10))
        never.set()
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not arrive" in details


def test_a_silent_grpc_connection_is_closed(receiver: Receiver) -> None:
    with connect(receiver.grpc_port) as silent:
        assert closed(silent)


def test_slow_senders_give_way_to_others(tmp_path: Path) -> None:
    config = Config(tmp_path, timeout_s=60, readers=4)
    with running(config) as receiver, ExitStack() as stack:
        slow = [stack.enter_context(connect(receiver.http_port)) for _ in range(80)]
        for client in slow:
            head = f"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\n"
            client.sendall(f"{head}content-length: 100\r\n\r\n0123".encode())
        begun = time.monotonic()
        assert post(receiver, GOOD).status_code == 200
        assert time.monotonic() - begun < 5  # with one second for each, it took 20 s to refuse them
        answer = slow[0].recv(4096)
        assert answer.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in answer


@pytest.mark.parametrize("text", ["eyJ-", "password=,", "a@b.cd ", "4 ", "bearer a,", "ä", "1."])
def test_hostile_texts_hold_up_nobody(tmp_path: Path, text: str) -> None:
    message = otlp_requests.logs()
    record = message.resource_logs[0].scope_logs[0].log_records[0]
    long = text * (65_536 // len(text))
    record.body.string_value = long + " @"
    record.attributes.append(otlp_requests.attribute("url.full", "https://shop/?" + long))
    record.attributes.append(otlp_requests.attribute("db.query.text", long))
    record.attributes.append(otlp_requests.attribute(long, "value"))
    with started(tmp_path) as receiver, httpx.Client(timeout=60) as client:
        url = f"http://127.0.0.1:{receiver.http_port}/v1/"
        done: list[int] = []

        def send() -> None:
            with httpx.Client(headers=HEADERS, timeout=60) as sender:
                for _ in range(5):
                    record.time_unix_nano += 1
                    done.append(
                        sender.post(f"{url}logs", content=message.SerializeToString()).status_code
                    )

        sending = threading.Thread(target=send)
        sending.start()
        waits = []
        while sending.is_alive():
            begun = time.monotonic()
            good = client.post(f"{url}traces", content=GOOD, headers=HEADERS)
            healthy = client.get(f"http://127.0.0.1:{receiver.admin_port}/healthz")
            assert good.status_code == healthy.status_code == 200
            waits.append(time.monotonic() - begun)
        assert done == [200] * 5
        assert max(waits) < 2.0  # measured: 0.2 s for both requests


@pytest.mark.parametrize("endpoint", ["grpc", "http"])
def test_ten_thousand_idle_connections_block_nobody(tmp_path: Path, endpoint: str) -> None:
    with started(tmp_path) as receiver, ExitStack() as stack:
        port = receiver.grpc_port if endpoint == "grpc" else receiver.http_port
        for number in range(IDLE_CONNECTIONS):
            client = stack.enter_context(connect(port))
            if endpoint == "grpc" and number % 2:  # as an idle gRPC client
                client.sendall(HELLO)
        assert psutil.Process(receiver.process.pid).memory_info().rss < 600_000_000
        with exporting(receiver.grpc_port) as export:
            assert export(GOOD, timeout=10) == b""
        url = f"http://127.0.0.1:{receiver.http_port}/v1/traces"
        headers = {"content-type": PROTOBUF}
        assert httpx.post(url, content=GOOD, headers=headers, timeout=10).status_code == 200


MOST = 50  # 30 of them gRPC's


def test_idle_connections_beyond_the_limit_make_room_and_those_in_use_stay(
    tmp_path: Path,
) -> None:
    config = Config(tmp_path, max_connections=MOST, timeout_s=60, idle_s=600)
    with running(config) as receiver, ExitStack() as stack:
        used = stack.enter_context(exporting(receiver.grpc_port))
        assert used(GOOD, timeout=10) == b""
        idle = []
        for number in range(4 * MOST):
            idle.append(stack.enter_context(connect(receiver.grpc_port)))
            idle[-1].sendall(HELLO)
            if number % MOST == 0:
                with exporting(receiver.grpc_port) as export:
                    assert export(GOOD, timeout=10, wait_for_ready=True) == b""
                assert used(GOOD, timeout=10) == b""
        assert closed(idle[0])
        http = [stack.enter_context(connect(receiver.http_port)) for _ in range(MOST)]
        assert post(receiver, GOOD).status_code == 200
        assert closed(http[0])


def closed(client: socket.socket) -> bool:
    """Return True once the other side has closed the connection."""
    try:
        while client.recv(4096):
            pass
    except ConnectionResetError:
        return True
    return True
