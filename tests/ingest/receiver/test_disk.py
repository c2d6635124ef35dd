"""On a full, read-only or slow disk, acknowledged requests are kept, and sending resumes by itself.

Tests receiver.pipeline, receiver.writer, receiver.repeats and lake.journal together.
"""

import asyncio
import os
import resource
import threading
from pathlib import Path

import grpc
import httpx
import orjson
import otlp_requests
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from live_receiver import count, exporting, running, wait_until
from warm_receiver import Started, started
from write_protection import read_only

from apm_analytics.ingest.receiver import Config, intake, writer
from apm_analytics.ingest.receiver.pipeline import Pipeline
from apm_analytics.ingest.staging import Outcome
from apm_analytics.serve.refusals import STATUS_TRAILER

PROTOBUF = {"content-type": "application/x-protobuf"}
TOO_SMALL = 4096  # bytes a file may have, one block; stands for a disk without room


def test_a_full_disk_refuses_and_recovers_by_itself(tmp_path: Path) -> None:
    with started(tmp_path) as receiver, exporting(receiver.grpc_port) as export:
        assert receiver.process.pid
        large = otlp_requests.traces(100).SerializeToString()
        assert export(large) == b""
        wait_until(lambda: count(tmp_path) == 100)
        before = resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, (TOO_SMALL, before[1]))
        retried = otlp_requests.traces(100, first=500).SerializeToString()
        with pytest.raises(grpc.RpcError) as refused:
            export(retried)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "free space" in refused.value.details()
        trailer = dict(refused.value.trailing_metadata())[STATUS_TRAILER]
        assert Status.FromString(trailer).details[0].Is(RetryInfo.DESCRIPTOR)
        url = f"http://127.0.0.1:{receiver.http_port}/v1/traces"
        answer = httpx.post(url, content=retried, headers=PROTOBUF)
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        # Small enough for the journal, too large as a part: kept, and written when there is room.
        small = otlp_requests.traces(10, first=700).SerializeToString()
        assert export(small) == b""
        admin = f"http://127.0.0.1:{receiver.admin_port}"
        wait_until(lambda: httpx.get(f"{admin}/readyz").status_code == 503)
        resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, before)
        assert export(retried) == b""
        wait_until(lambda: httpx.get(f"{admin}/readyz").status_code == 200)
        wait_until(lambda: count(tmp_path) == 210)
        receiver.stop()
    assert count(tmp_path) == 210


def test_a_read_only_disk_refuses_and_recovers_by_itself(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with started(lake) as receiver, exporting(receiver.grpc_port) as export:
        url = f"http://127.0.0.1:{receiver.http_port}/v1/traces"
        assert export(otlp_requests.traces(10).SerializeToString()) == b""
        wait_until(lambda: count(lake) == 10)
        refused = otlp_requests.traces(10, first=500).SerializeToString()
        with read_only(lake):
            with pytest.raises(grpc.RpcError) as error:
                export(refused)
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            trailer = dict(error.value.trailing_metadata())[STATUS_TRAILER]
            assert Status.FromString(trailer).details[0].Is(RetryInfo.DESCRIPTOR)
            answer = httpx.post(url, content=refused, headers=PROTOBUF)
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
            assert str(lake) not in answer.text
            assert count(lake) == 10  # existing rows can still be queried
        assert export(refused) == b""
        wait_until(lambda: count(lake) == 20)
        receiver.stop()
    assert count(lake) == 20


def test_what_was_acknowledged_before_the_disk_turned_read_only_is_written_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    monkeypatch.setattr(writer, "FLUSH_S", 1.0)
    with running(Config(lake)) as receiver, exporting(receiver.grpc_port) as export:
        assert export(otlp_requests.traces(10).SerializeToString()) == b""
        ready = f"http://127.0.0.1:{receiver.admin_port}/readyz"
        with read_only(lake):
            wait_until(lambda: httpx.get(ready).status_code == 503)
            assert count(lake) == 0
        wait_until(lambda: count(lake) == 10)
        wait_until(lambda: httpx.get(ready).status_code == 200)


def hold_syncs(monkeypatch: pytest.MonkeyPatch, until: threading.Event) -> None:
    """Block all syncs until an event is set."""
    sync = os.fdatasync

    def fdatasync(file: int) -> None:
        until.wait(30)
        sync(file)

    monkeypatch.setattr(os, "fdatasync", fdatasync)


@pytest.mark.parametrize("endpoint", ["grpc", "http"])
def test_what_a_slow_disk_took_after_its_sender_hung_up_is_not_taken_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    payload = otlp_requests.traces(5).SerializeToString()
    slow = threading.Event()
    noticed = threading.Event()
    unheard = Pipeline.unheard

    def note(pipeline: Pipeline, taken: bytes, answer: "asyncio.Future[Outcome]") -> None:
        unheard(pipeline, taken, answer)
        noticed.set()

    with running(Config(tmp_path)) as receiver, exporting(receiver.grpc_port) as export:
        hold_syncs(monkeypatch, slow)
        monkeypatch.setattr(Pipeline, "unheard", note)
        if endpoint == "grpc":
            with pytest.raises(grpc.RpcError) as hung_up:
                export(payload, timeout=0.2)
            assert hung_up.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            url = f"http://127.0.0.1:{receiver.http_port}/v1/traces"
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url, content=payload, headers=PROTOBUF, timeout=0.2)
        assert noticed.wait(10)
        slow.set()
        assert export(payload) == b""
    assert count(tmp_path) == 5


def test_a_slow_disk_refuses_recovers_by_itself_and_takes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = otlp_requests.traces(5).SerializeToString()
    mended = threading.Event()
    monkeypatch.setattr(intake, "ANSWER_S", 0.2)
    with running(Config(tmp_path)) as receiver, exporting(receiver.grpc_port) as export:
        url = f"http://127.0.0.1:{receiver.http_port}/v1/traces"
        hold_syncs(monkeypatch, mended)
        with pytest.raises(grpc.RpcError) as refused:
            export(payload)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        answer = httpx.post(url, content=payload, headers=PROTOBUF)
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        assert b"did not answer within" in answer.content
        mended.set()
        wait_until(lambda: httpx.post(url, content=payload, headers=PROTOBUF).status_code == 200)
        other = otlp_requests.traces(3, first=900).SerializeToString()
        wait_until(lambda: httpx.post(url, content=other, headers=PROTOBUF).status_code == 200)
    assert count(tmp_path) == 8


def test_a_redacted_request_is_known_again_after_a_crash(tmp_path: Path) -> None:
    request = otlp_requests.traces(3)
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.attributes.append(otlp_requests.attribute("db.user.password", "hunter2"))
    payload = request.SerializeToString()
    with started(tmp_path) as receiver, exporting(receiver.grpc_port) as export:
        assert export(payload) == b""
        receiver.kill()
    kept = b"".join(file.read_bytes() for file in (tmp_path / "journal").rglob("*.segment"))
    assert kept and b"hunter2" not in kept
    with started(tmp_path) as receiver, exporting(receiver.grpc_port) as export:
        assert export(payload) == b""
        receiver.stop()
    assert count(tmp_path) == 3


@pytest.mark.parametrize("secret", [False, True])
def test_json_that_is_kept_as_protobuf_is_known_again_after_a_crash(
    tmp_path: Path, secret: bool
) -> None:
    request = otlp_requests.traces(3)
    if secret:
        span = request.resource_spans[0].scope_spans[0].spans[0]
        span.attributes.append(otlp_requests.attribute("db.user.password", "hunter2"))
    document = orjson.dumps(otlp_requests.as_json(request, enum_numbers=True))

    def post(receiver: Started) -> int:
        url = f"http://127.0.0.1:{receiver.http_port}/v1/traces"
        json = {"content-type": "application/json"}
        return httpx.post(url, content=document, headers=json).status_code

    with started(tmp_path) as receiver:
        assert post(receiver) == 200
        receiver.kill()
    kept = b"".join(file.read_bytes() for file in (tmp_path / "journal").rglob("*.segment"))
    assert kept and b"hunter2" not in kept and b"resourceSpans" not in kept
    with started(tmp_path) as receiver:
        assert post(receiver) == 200
        receiver.stop()
    assert count(tmp_path) == 3
