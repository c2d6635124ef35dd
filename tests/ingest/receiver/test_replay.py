"""A request that cannot be written goes to the dead letters; the others reach the lake, once each.

Tests receiver.replay, receiver.writer and the halving of receiver.pipeline.
"""

import base64
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import orjson
import otlp_requests
import pyarrow as pa
import pytest
from live_receiver import count, exporting, running
from warm_receiver import started

from apm_analytics.ingest.receiver import Config, Receiver
from apm_analytics.ingest.receiver.replay import MARK, MAX_DEATHS, Replay
from apm_analytics.ingest.staging import Rows, Stage
from apm_analytics.ingest.units import Units
from apm_analytics.lake import query, snapshots
from apm_analytics.lake.journal import Entry, Journal, Segment, journal

POISON = "poison"
SPANS = 5
START_S = 30


def good(number: int) -> bytes:
    return otlp_requests.traces(SPANS, first=1 + number * SPANS).SerializeToString()


def poison() -> bytes:
    return otlp_requests.traces(1, service=POISON, first=10**6).SerializeToString()


def explosion() -> bytes:
    request = otlp_requests.logs()
    entry = request.resource_logs[0]
    for number in range(9_000):
        entry.resource.attributes.append(otlp_requests.attribute(f"k{number}", "v"))
    record = entry.scope_logs[0].log_records[0]
    entry.scope_logs[0].log_records.extend([record] * 20_000)
    return request.SerializeToString()


def letters(lake: Path) -> list[dict[str, Any]]:
    files = sorted((lake / "dead_letter").glob("*.jsonl"))
    return [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]


def spans(lake: Path) -> tuple[int, int]:
    """Return the number of spans, and of different ones."""
    sql = "select count(*), count(distinct span_id) from spans"
    return tuple(query.connect(lake).execute(sql).fetchall()[0])


def journalled(lake: Path, entries: Sequence[Entry]) -> Segment:
    """Return a segment that a receiver left when it was killed."""
    left = Journal(lake)
    left.append(entries)
    (segment,) = left.rotate()
    left.close()
    return segment


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no rows of the service `poison` be written, as a fault in a column would."""
    append = snapshots.append

    def refusing(lake: Path, tables: Mapping[str, pa.Table], **more: Any) -> int:
        for table in tables.values():
            if POISON in table["service_name"].to_pylist():
                raise pa.ArrowInvalid("a column overflowed")
        return append(lake, tables, **more)

    monkeypatch.setattr(snapshots, "append", refusing)


def ready(receiver: Receiver) -> bool:
    url = f"http://127.0.0.1:{receiver.admin_port}/readyz"
    return httpx.get(url).status_code == 200


def wait_until(true: Callable[[], bool], within_s: float = START_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not true after {within_s} s"
        time.sleep(0.02)


@pytest.mark.usefixtures("unwritable")
def test_a_request_that_cannot_be_written_costs_no_other_a_row(tmp_path: Path) -> None:
    with running(Config(tmp_path)) as receiver, exporting(receiver.grpc_port) as export:
        calls = [export.future(good(n) if n != 7 else poison()) for n in range(20)]
        assert [call.result() for call in calls] == [b""] * 20
        wait_until(lambda: count(tmp_path) == 19 * SPANS and ready(receiver))
        metrics = receiver.metrics.text().decode()
        assert "apm_receiver_unwritable_requests_total 1.0" in metrics
    assert spans(tmp_path) == (19 * SPANS, 19 * SPANS)
    ((letter),) = letters(tmp_path)
    assert letter["signal"] == "traces" and "a column overflowed" in letter["reason"]
    assert base64.b64decode(letter["document_base64"]) == poison()
    assert not list(tmp_path.rglob("*.damaged"))


def test_a_request_that_cannot_be_decoded_is_refused_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Stage._take_redacted

    def failing(stage: Stage, entry: Entry, *more: Any) -> Any:
        result = take(stage, entry, *more)
        if entry.payload == poison():
            raise RuntimeError("half of it is staged")
        return result

    monkeypatch.setattr(Stage, "_take_redacted", failing)
    with running(Config(tmp_path)) as receiver, exporting(receiver.grpc_port) as export:
        calls = [export.future(good(n) if n != 7 else poison()) for n in range(20)]
        for number, call in enumerate(calls):
            if number == 7:
                with pytest.raises(grpc.RpcError, match="cannot be decoded") as refused:
                    call.result()
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            else:
                assert call.result() == b""
    assert spans(tmp_path) == (19 * SPANS, 19 * SPANS)


def test_kills_with_a_poisoned_journal_keep_no_receiver_from_starting(tmp_path: Path) -> None:
    draw = random.Random(5)
    entries = [Entry("traces", good(number)) for number in range(300)]
    entries.insert(150, Entry("logs", explosion()))
    journalled(tmp_path, entries)
    sent = 0
    for _ in range(10):
        began = time.monotonic()
        with started(tmp_path) as receiver, exporting(receiver.grpc_port) as export:
            export(good(300 + sent), timeout=START_S)
            assert time.monotonic() - began < START_S
            sent += 1
            time.sleep(draw.uniform(0, 0.3))
            receiver.kill()
    with started(tmp_path) as receiver:
        url = f"http://127.0.0.1:{receiver.admin_port}/readyz"
        wait_until(lambda: httpx.get(url).status_code == 200)
        receiver.stop()
    assert spans(tmp_path) == ((300 + sent) * SPANS, (300 + sent) * SPANS)
    ((letter),) = letters(tmp_path)
    assert "bytes of memory" in letter["reason"]
    assert base64.b64decode(letter["document_base64"]) == explosion()


class Died(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def deadly(tmp_path: Path) -> Iterator[Callable[[], Replay]]:
    """Yield a function that returns the replay of a new process, which ends over `poison`."""
    units = Units(tmp_path)

    def write(rows: Rows, documents: Sequence[str]) -> None:
        for table in rows.tables.values():
            if POISON in table["service_name"].to_pylist():
                raise Died
        snapshots.append(tmp_path, rows.tables, documents=documents)
        put_aside.extend(rows.letters)

    put_aside: list[Any] = []
    yield lambda: Replay(
        tmp_path, units, attempt=lambda call: call(), write=write, set_aside=lambda: None
    )
    assert [base64.b64decode(each["document_base64"]) for each in put_aside] == [poison()]


def test_a_request_that_ends_the_process_is_found(
    tmp_path: Path, deadly: Callable[[], Replay]
) -> None:
    entries = [Entry("traces", good(number)) for number in range(1000)]
    entries.insert(600, Entry("traces", poison()))
    segment = journalled(tmp_path, entries)
    deaths = 0
    while not snapshots.known_documents(tmp_path, [segment.document]):
        try:
            assert deadly().replay(segment) == 0
        except Died:
            deaths += 1
        assert deaths <= 1 + MAX_DEATHS
    assert spans(tmp_path) == (1000 * SPANS, 1000 * SPANS)
    assert not list(tmp_path.rglob(f"*{MARK}"))


def test_where_memory_is_short_requests_are_written_one_at_a_time(tmp_path: Path) -> None:
    def write(rows: Rows, documents: Sequence[str]) -> None:
        if sum(table.num_rows for table in rows.tables.values()) > SPANS:
            raise MemoryError
        snapshots.append(tmp_path, rows.tables, documents=documents)

    def unexpected() -> None:
        pytest.fail("a request went to the dead letters")

    segment = journalled(tmp_path, [Entry("traces", good(number)) for number in range(20)])
    replay = Replay(
        tmp_path,
        Units(tmp_path),
        attempt=lambda call: call(),
        write=write,
        set_aside=unexpected,
    )
    assert replay.replay(segment) == 0
    assert spans(tmp_path) == (20 * SPANS, 20 * SPANS)


def test_a_restored_segment_is_replayed_and_what_was_in_the_lake_is_not_doubled(
    tmp_path: Path,
) -> None:
    segment = journalled(tmp_path, [Entry("traces", good(number)) for number in range(10)])
    sound = segment.path.read_bytes()
    at = sound.index(good(4)) + 20
    segment.path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
    with started(tmp_path) as receiver:
        receiver.stop()
    (damaged,) = tmp_path.rglob("*.damaged")
    assert spans(tmp_path) == (9 * SPANS, 9 * SPANS)
    damaged.write_bytes(sound)
    damaged.rename(damaged.with_suffix(journal.SUFFIX))
    with started(tmp_path) as receiver:
        receiver.stop()
    assert spans(tmp_path) == (10 * SPANS, 10 * SPANS)


def test_a_batch_set_aside_by_an_earlier_version_is_replayed_once_renamed(tmp_path: Path) -> None:
    segment = journalled(tmp_path, [Entry("logs", explosion()), Entry("traces", good(0))])
    segment.set_aside().rename(segment.path)
    with started(tmp_path) as receiver, exporting(receiver.grpc_port) as export:
        assert export(good(1)) == b""
        receiver.stop()
    assert spans(tmp_path) == (2 * SPANS, 2 * SPANS) and len(letters(tmp_path)) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_writer_has_ended_the_receiver_says_so_and_accepts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: Any, **__: Any) -> int:
        raise SystemExit

    with running(Config(tmp_path)) as receiver, exporting(receiver.grpc_port) as export:
        ended = 'apm_receiver_trouble{cause="thread_ended"}'
        assert f"{ended} 0.0" in receiver.metrics.text().decode()
        monkeypatch.setattr(snapshots, "append", end)
        assert export(good(0)) == b""
        wait_until(lambda: not ready(receiver))
        with pytest.raises(grpc.RpcError) as refused:
            export(good(1))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "a thread of the receiver has ended" in refused.value.details()
        assert f"{ended} 1.0" in receiver.metrics.text().decode()
    monkeypatch.undo()
    with running(Config(tmp_path)) as receiver:
        wait_until(lambda: ready(receiver))
    assert count(tmp_path) == SPANS


def test_an_unexpected_error_does_not_end_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate = Journal.rotate
    failures = [OSError("the disk is gone"), RuntimeError("a bug")]

    def failing(self: Journal) -> list[Segment]:
        if failures:
            raise failures.pop()
        return rotate(self)

    monkeypatch.setattr(Journal, "rotate", failing)
    with running(Config(tmp_path)) as receiver, exporting(receiver.grpc_port) as export:
        assert export(good(0)) == b""
        wait_until(lambda: not failures and count(tmp_path) == SPANS)
        wait_until(lambda: ready(receiver))
        assert "apm_receiver_write_failures_total 2.0" in receiver.metrics.text().decode()
