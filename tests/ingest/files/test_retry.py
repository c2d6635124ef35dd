"""Dead letters that have become right are taken once, with their tenant; the others stay."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from live_receiver import count, running
from otlp_requests import NS_PER_S, START_NS, as_json, attribute, logs, metrics, traces

from apm_analytics import cli
from apm_analytics.ingest.decode import records
from apm_analytics.ingest.files import dead_letters, import_files, retry
from apm_analytics.ingest.receiver import Config
from apm_analytics.lake import query, snapshots
from apm_analytics.lake.manifest import open_manifest
from apm_analytics.serve import Access
from apm_analytics.serve.access import Token

FUTURE = "is over a day in the future"


def letters(lake: Path) -> list[dict[str, Any]]:
    return [
        letter for name in dead_letters.names(lake) for _, letter in dead_letters.read(lake, name)
    ]


def early(count: int, first: int = 1) -> Any:
    """Return spans of the year 1991."""
    request = traces(count, first=first)
    for number, span in enumerate(request.resource_spans[0].scope_spans[0].spans):
        start = int(datetime(1991, 1, 1, tzinfo=UTC).timestamp() + first + number) * 10**9
        span.start_time_unix_nano, span.end_time_unix_nano = start, start + 5
    return request


def imported(folder: Path, *requests: Any) -> Path:
    """Return a lake into which these requests were imported, one line each."""
    file, lake = folder / "t.jsonl", folder / "lake"
    file.write_text("".join(json.dumps(as_json(request)) + "\n" for request in requests))
    import_files([file], lake, progress=False)
    return lake


EARLY = {"earliest": datetime(1990, 1, 1, tzinfo=UTC)}


def at_now(request: Any) -> bytes:
    """Return a request whose records are of now, and whose resource claims another tenant."""
    ((_, (entry,)),) = request.ListFields()
    entry.resource.attributes.append(attribute("tenant.id", "bank"))
    now = time.time_ns().to_bytes(8, "little")
    payload = bytes(request.SerializeToString())
    for old in (START_NS, START_NS + NS_PER_S, START_NS + NS_PER_S + NS_PER_S // 10):
        payload = payload.replace(old.to_bytes(8, "little"), now)
    return payload


def test_what_a_receiver_with_a_wrong_clock_set_aside_is_taken_with_its_tenant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = hashlib.sha256(b"secret").hexdigest()
    token = Token(name="shop", sha256=sha256, resource={"tenant.id": "shop"})
    # The receiver takes the present for over a day in the future.
    monkeypatch.setattr(records, "MAX_AHEAD", timedelta(hours=-2))
    requests = {"traces": traces(1), "metrics": metrics(), "logs": logs()}
    with running(Config(tmp_path, access=Access([token]))) as receiver:
        for signal_name, request in requests.items():
            answer = httpx.post(
                f"http://127.0.0.1:{receiver.http_port}/v1/{signal_name}",
                content=at_now(request),
                headers={
                    "content-type": "application/x-protobuf",
                    "authorization": "Bearer secret",
                },
            )
            assert answer.status_code == 200 and answer.content
    assert len(letters(tmp_path)) == 1 + 5 + 2
    assert retry.retry(tmp_path).taken == 0
    monkeypatch.undo()
    reasons = retry.reasons(tmp_path)
    assert reasons["letters"].sum() == 8 and FUTURE in reasons["reason"][0]
    dry = retry.retry(tmp_path, dry_run=True)
    done = retry.retry(tmp_path)
    assert (dry.taken, dry.rows) == (done.taken, done.rows)
    assert (done.taken, done.left) == (8, 0)
    assert done.rows["spans"] == 1 and done.rows.total() == 8
    assert letters(tmp_path) == []
    for table in ("spans", "logs", "metric_points", "histogram_points", "summary_points"):
        tenants = f"select distinct resource_attributes['tenant.id'] from {table}"
        assert query.connect(tmp_path).execute(tenants).fetchall() == [("shop",)]
    assert retry.retry(tmp_path).taken == 0


def test_a_retry_that_was_killed_is_finished_without_doubles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = imported(tmp_path, early(20), early(20, first=50))
    monkeypatch.setattr(retry, "BATCH_BYTES", 2_000)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for at in ((dead_letters, "remove"), (dead_letters, "write"), (snapshots, "append")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(*at, killed)
            retry.retry(lake, **EARLY)
    done = retry.retry(lake, **EARLY)
    assert done.left == 0 and letters(lake) == [] and count(lake) == 40
    assert retry.retry(lake, **EARLY).taken == 0


def test_kill_9_at_any_moment_neither_loses_nor_doubles(tmp_path: Path) -> None:
    lake = imported(tmp_path, *(early(500, first=1 + 500 * number) for number in range(12)))
    command = [sys.executable, "-m", "apm_analytics", "lake", "dead-letters", "retry"]
    draw = random.Random(3)
    for _ in range(6):
        process = subprocess.Popen(
            [*command, "--earliest", "1990-01-01", "--lake", str(lake)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(draw.uniform(1.0, 4.0))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    retry.retry(lake, **EARLY)
    assert count(lake) == 6_000 and letters(lake) == []
    distinct = "select count(distinct span_id) from spans"
    assert query.connect(lake).execute(distinct).fetchall() == [(6_000,)]


def test_equal_letters_are_several_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = imported(tmp_path, early(1))
    (name,) = dead_letters.names(lake)
    letter = letters(lake)[0]
    dead_letters.write(lake, name, [letter] * 5)
    ids = [identity for identity, _ in dead_letters.read(lake, name)]
    assert len(set(ids)) == 5
    dead_letters.remove(lake, name, {ids[0], ids[2]})
    # The others keep their ids, so that none passes for one that was taken.
    assert [identity for identity, _ in dead_letters.read(lake, name)] == [
        ids[n] for n in (1, 3, 4)
    ]
    assert retry.retry(lake, **EARLY).taken == 3 and count(lake) == 3


def test_only_letters_with_the_reason_are_taken(tmp_path: Path) -> None:
    request = early(3)
    request.resource_spans[0].scope_spans[0].spans[0].span_id = b""
    lake = imported(tmp_path, request)
    assert retry.retry(lake, reason="import with --earliest").taken == 0
    assert retry.retry(lake, reason="no such", **EARLY).taken == 0
    done = retry.retry(lake, reason="import with --earliest", **EARLY)
    assert (done.taken, done.left) == (2, 1)
    assert "spanId" in letters(lake)[0]["path"]


def test_a_metric_is_taken_when_its_unit_is_right_and_only_its_bad_points_stay(
    tmp_path: Path,
) -> None:
    first = metrics()
    second = metrics()
    cpu = second.resource_metrics[0].scope_metrics[0].metrics[0]
    cpu.unit = "%"
    points = cpu.gauge.data_points
    points.add(as_double=0.7, time_unix_nano=points[0].time_unix_nano + 1)
    points.add(as_double=0.9, time_unix_nano=5)
    del second.resource_metrics[0].scope_metrics[0].metrics[1:]
    lake = imported(tmp_path, first)
    file = tmp_path / "second.json"
    file.write_text(json.dumps(as_json(second)))
    import_files([file], lake, progress=False)
    assert "changed its unit" in letters(lake)[0]["reason"]
    before = count(lake, "metric_points")
    assert retry.retry(lake).taken == 0
    with open_manifest(lake) as con:
        con.execute("delete from metric_units where metric_name = 'cpu'")
    done = retry.retry(lake)
    assert (done.taken, done.rows["metric_points"]) == (1, 2)
    assert count(lake, "metric_points") == before + 2
    (left,) = letters(lake)
    assert "before 2000" in left["reason"]
    assert retry.retry(lake, earliest=datetime(1970, 1, 1, tzinfo=UTC)).taken == 1
    assert letters(lake) == [] and count(lake, "metric_points") == before + 3


@pytest.mark.parametrize("form", ["json", "protobuf", "request"])
def test_a_document_that_can_be_decoded_now_is_taken_and_known_to_imports(
    tmp_path: Path, form: str
) -> None:
    import base64

    lake, file = tmp_path / "lake", tmp_path / "t"
    content = traces(3).SerializeToString()
    if form == "json":
        content = json.dumps(as_json(traces(3))).encode()
    file.write_bytes(content)
    origin = {"file": str(file), "line": 0, "byte_offset": 0}
    kept = {"document_base64": base64.b64encode(content).decode()}
    if form == "json":
        kept = {"document": content.decode()}
    if form == "request":
        origin = {"signal": "traces", "path": "journal:x#1", "stamp": {"tenant.id": "shop"}}
    imported(tmp_path, traces(1, first=900))
    name = hashlib.blake2b(content, digest_size=16).hexdigest()
    dead_letters.write(lake, name, [{**origin, "reason": "an earlier version", **kept}])
    assert retry.retry(lake).taken == 1 and count(lake) == 4
    if form != "request":
        import_files([file], lake, progress=False)
        assert count(lake) == 4
    else:
        stamped = "select count(*) from spans where resource_attributes['tenant.id'] = 'shop'"
        assert query.connect(lake).execute(stamped).fetchall() == [(3,)]


def test_a_broken_document_stays(tmp_path: Path) -> None:
    lake = imported(tmp_path, traces(1))
    for content in (b"{broken", b"\xff\xfe\xfd"):
        (tmp_path / "b").write_bytes(content)
        import_files([tmp_path / "b"], lake, progress=False)
    before = letters(lake)
    assert retry.retry(lake).taken == 0 and letters(lake) == before


def test_letters_of_a_request_that_is_still_in_the_journal_wait_for_it(tmp_path: Path) -> None:
    lake = imported(tmp_path, early(2))
    (name,) = dead_letters.names(lake)
    own = letters(lake)
    dead_letters.write(lake, name, [])
    dead_letters.write(lake, "journal-5e", own)
    segment = lake / "journal" / "a" / "5e.segment"
    segment.parent.mkdir(parents=True)
    segment.write_bytes(b"")
    done = retry.retry(lake, **EARLY)
    assert (done.taken, done.left, done.waiting) == (0, 2, 2)
    segment.unlink()
    assert retry.retry(lake, **EARLY).taken == 2


def test_a_document_imported_again_after_a_kill_leaves_no_letters_of_the_first_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, lake = tmp_path / "t.jsonl", tmp_path / "lake"
    file.write_text(json.dumps(as_json(early(2))) + "\n")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(snapshots, "append", killed)
        import_files([file], lake, workers=1, progress=False)
    assert len(letters(lake)) == 2
    import_files([file], lake, workers=1, progress=False, **EARLY)
    assert count(lake) == 2 and letters(lake) == []


def test_the_command_lists_and_retries(tmp_path: Path) -> None:
    lake = imported(tmp_path, early(3))
    command = ["lake", "dead-letters"]
    listed = CliRunner().invoke(cli.apm, [*command, "list", "--lake", str(lake)])
    assert listed.exit_code == 0 and "is before N" in listed.output and "3" in listed.output
    asked = [*command, "retry", "--lake", str(lake), "--earliest", "1990-01-01"]
    dry = CliRunner().invoke(cli.apm, [*asked, "--dry-run"])
    assert "would take 3 dead letters (3 spans); 0 stay" in dry.output and len(letters(lake)) == 3
    done = CliRunner().invoke(cli.apm, asked)
    assert "took 3 dead letters (3 spans); 0 stay" in done.output and letters(lake) == []
    missing = CliRunner().invoke(cli.apm, [*command, "list", "--lake", str(tmp_path / "none")])
    assert missing.exit_code != 0
