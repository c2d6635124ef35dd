"""Files of any encoding are imported once and completely; broken documents are named and stored.

Covers all of `ingest.files` except `simulated`.
"""

import base64
import gzip
import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peak_memory
import pyarrow as pa
import pytest
from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[attr-defined]
from otlp_requests import START_NS, as_json, attribute, logs, metrics, traces

from apm_analytics.foundation.errors import ApmError
from apm_analytics.ingest.decode import otlp
from apm_analytics.ingest.files import dead_letters, framing, large_json
from apm_analytics.ingest.files.importer import ImportSummary, import_files
from apm_analytics.lake import query, snapshots

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rows(lake: Path, table: str = "spans") -> int:
    counted = query.connect(lake).execute(f"select count(*) from {table}").fetchone()
    assert counted
    return int(counted[0])


def take(lake: Path, *paths: Path, **options: Any) -> ImportSummary:
    return import_files(paths, lake, progress=False, **options)


def letters(lake: Path) -> list[dict[str, Any]]:
    files = sorted((lake / "dead_letter").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def line(number: int, count: int = 3) -> bytes:
    """Return one line of a Collector's file exporter; its `count` spans are unique to `number`."""
    return json.dumps(as_json(traces(count, first=1 + number * count))).encode() + b"\n"


def varint_framed(*requests: Any) -> bytes:
    parts = [request.SerializeToString() for request in requests]
    return b"".join(_VarintBytes(len(part)) + part for part in parts)


def big_endian_framed(*requests: Any) -> bytes:
    parts = [request.SerializeToString() for request in requests]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


ENCODINGS = {
    "lines": lambda: line(0) + line(1),
    "lines with blanks": lambda: b"\n" + line(0) + b"  \n" + line(1),
    "documents": lambda: b"".join(
        json.dumps(as_json(traces(3, first=first)), indent=2).encode() + b"\n" for first in (1, 4)
    ),
    "one request": lambda: traces(6).SerializeToString(),
    "varint lengths": lambda: varint_framed(traces(3), traces(3, first=4)),
    "4-byte lengths": lambda: big_endian_framed(traces(3), traces(3, first=4)),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("packing", ["plain", "gzip", "zstd"])
def test_every_encoding_and_compression_is_recognised_by_its_content(
    tmp_path: Path, encoding: str, packing: str
) -> None:
    file = tmp_path / "whatever.bin"
    content = ENCODINGS[encoding]()
    if packing == "gzip":
        content = gzip.compress(content)
    elif packing == "zstd":
        with pa.CompressedOutputStream(str(file), "zstd") as out:
            out.write(ENCODINGS[encoding]())
        content = file.read_bytes()
    file.write_bytes(content)
    summary = take(tmp_path / "lake", file)
    assert summary.ok, summary.lines()
    assert rows(tmp_path / "lake") == 6


def test_single_requests_of_each_signal_are_recognised(tmp_path: Path) -> None:
    for name, request in {"a": traces(2), "b": metrics(), "c": logs()}.items():
        (tmp_path / name).write_bytes(request.SerializeToString())
    lake = tmp_path / "lake"
    assert take(lake, tmp_path / "a", tmp_path / "b", tmp_path / "c").ok
    counts = {row["table"]: row["rows"] for row in snapshots.status(lake).to_dicts()}
    assert counts == {
        "spans": 2,
        "metric_points": 2,
        "histogram_points": 1,
        "exp_histogram_points": 1,
        "summary_points": 1,
        "logs": 2,
    }


def test_importing_twice_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(line(0) + line(1))
    lake = tmp_path / "lake"
    take(lake, file)
    before = snapshots.data_hash(lake)
    packed = tmp_path / "t.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    summary = take(lake, file, packed, file)
    assert [entry.known_documents for entry in summary.files] == [2, 2, 2]
    assert snapshots.data_hash(lake) == before


def test_a_file_that_has_grown_gives_only_its_new_lines(tmp_path: Path) -> None:
    file, lake = tmp_path / "t.jsonl", tmp_path / "lake"
    file.write_bytes(line(0))
    take(lake, file)
    file.write_bytes(line(0) + line(1))
    assert sum(take(lake, file).files[0].rows.values()) == 3
    assert rows(lake) == 6


def test_a_broken_line_is_named_and_the_others_are_imported(tmp_path: Path) -> None:
    file, lake = tmp_path / "t.jsonl", tmp_path / "lake"
    file.write_bytes(line(0) + b"{broken\n" + line(1) + b'{"no": "otlp"}\n')
    summary = take(lake, file)
    assert not summary.ok and rows(lake) == 6
    assert [
        error.split(": ")[0].endswith(place)
        for error, place in zip(summary.files[0].errors, ("line 2", "line 4"), strict=True)
    ] == [True, True]
    assert {letter["line"] for letter in letters(lake)} == {2, 4}
    assert any(letter["document"] == "{broken" for letter in letters(lake))


def test_dead_letters_have_place_reason_and_record(tmp_path: Path) -> None:
    document = as_json(traces(3))
    spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans[1]["endTimeUnixNano"] = str(START_NS)
    file, lake = tmp_path / "t.jsonl", tmp_path / "lake"
    file.write_bytes(line(5) + json.dumps(document).encode())
    summary = take(lake, file)
    assert summary.ok and rows(lake) == 5
    (letter,) = letters(lake)
    assert (letter["line"], letter["signal"]) == (2, "traces")
    assert letter["path"].endswith("spans[1].endTimeUnixNano")
    assert sum(summary.files[0].rejected.values()) == 1
    again = tmp_path / "corrected.json"
    record = letter["record"]
    record["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["endTimeUnixNano"] = str(
        START_NS + 10**11
    )
    again.write_text(json.dumps(record))
    take(lake, again)
    assert rows(lake) == 6


FOREIGN = {
    "empty": (b"", "is empty"),
    "blank": (b"  \n\t\n", "is empty"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "PNG"),
    "page": (b"<!doctype html><p>hello", "text that begins"),
    "table": (b"time,value\n1,2\n", "text that begins"),
    "noise": (bytes(random.Random(1).randbytes(4096)), "begins with the bytes"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_an_error_and_others_are_imported(tmp_path: Path, name: str) -> None:
    content, expected = FOREIGN[name]
    bad, good, lake = tmp_path / "bad.json", tmp_path / "good.json", tmp_path / "lake"
    bad.write_bytes(content)
    good.write_bytes(line(0))
    summary = take(lake, bad, good)
    assert not summary.ok and expected in summary.files[0].errors[0]
    assert "need OTLP" in summary.files[0].errors[0]
    assert rows(lake) == 3


def test_a_folder_lists_foreign_files_without_failing(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "README").write_text("not telemetry")
    (folder / "t.json").write_bytes(line(0))
    summary = take(tmp_path / "lake", folder)
    assert summary.ok and summary.files[0].skipped and rows(tmp_path / "lake") == 3


@pytest.mark.parametrize("encoding", ["lines", "varint lengths", "4-byte lengths"])
def test_a_file_cut_short_keeps_what_came_before(tmp_path: Path, encoding: str) -> None:
    file, lake = tmp_path / "t", tmp_path / "lake"
    file.write_bytes(ENCODINGS[encoding]()[:-20])
    summary = take(lake, file)
    assert not summary.ok and rows(lake) == 3
    assert "cut short" in summary.files[0].errors[-1]


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_compressed_data_cut_short_keeps_what_can_be_unpacked(tmp_path: Path, packing: str) -> None:
    noise = random.Random(2).randbytes(300_000).hex().encode()
    content = line(0) + line(1) + b'{"resourceSpans": [], "filler": "' + noise + b'"}\n'
    file, lake = tmp_path / "t", tmp_path / "lake"
    with pa.CompressedOutputStream(str(file), packing) as out:
        out.write(content)
    os.truncate(file, file.stat().st_size - 1000)
    summary = take(lake, file)
    assert not summary.ok and rows(lake) == 6
    assert any("cut short" in error for error in summary.files[0].errors)


def test_damage_after_the_first_message_names_its_byte(tmp_path: Path) -> None:
    good = varint_framed(traces(3))
    file, lake = tmp_path / "t", tmp_path / "lake"
    file.write_bytes(good + b"\xff\xff\xff\xff\xff\x01rest")
    summary = take(lake, file)
    assert f"byte {len(good):,}" in summary.files[0].errors[0] and rows(lake) == 3


def test_a_metric_that_changes_its_unit_goes_to_the_dead_letters(tmp_path: Path) -> None:
    first, second = metrics(), metrics()
    second.resource_metrics[0].scope_metrics[0].metrics[0].unit = "%"
    for point in second.resource_metrics[0].scope_metrics[0].metrics:
        point.description = "later"
    a, b, lake = tmp_path / "a", tmp_path / "b", tmp_path / "lake"
    a.write_bytes(first.SerializeToString())
    b.write_bytes(second.SerializeToString())
    take(lake, a)
    summary = take(lake, b)
    (letter,) = letters(lake)
    assert "from '1' to '%'" in letter["reason"]
    assert letter["path"] == "resourceMetrics[0].scopeMetrics[0].metrics[0].unit"
    assert (letter["file"], letter["byte_offset"]) == (str(b), 0)
    assert sum(summary.files[0].rejected.values()) == 1
    assert rows(lake, "metric_points") == 3
    corrected = tmp_path / "corrected.json"
    letter["record"]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["unit"] = "1"
    corrected.write_text(json.dumps(letter["record"]))
    assert take(lake, corrected).files[0].rows == {"metric_points": 1}


def test_the_letter_of_a_changed_unit_is_named_after_its_document(tmp_path: Path) -> None:
    documents = [as_json(metrics()) for _ in range(3)]
    documents[2]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["unit"] = "%"
    documents[1]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["description"] = "new"
    file, lake = tmp_path / "m.jsonl", tmp_path / "lake"
    file.write_text("\n".join(map(json.dumps, documents)))
    take(lake, file)
    (letter,) = letters(lake)
    assert letter["line"] == 3
    digest = hashlib.blake2b(json.dumps(documents[2]).encode(), digest_size=16).hexdigest()
    assert [path.stem for path in (lake / "dead_letter").iterdir()] == [digest]


def test_earlier_records_are_imported_with_the_option_earliest(tmp_path: Path) -> None:
    document = as_json(traces(1))
    span = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    span["startTimeUnixNano"], span["endTimeUnixNano"] = "5", "9"
    file, lake = tmp_path / "t.json", tmp_path / "lake"
    file.write_text(json.dumps(document))
    assert take(lake, file, earliest=EPOCH).files[0].rows["spans"] == 1


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
def test_records_rejected_for_their_time_are_imported_later_and_once(
    tmp_path: Path, encoding: str
) -> None:
    request = traces(4)
    spans = request.resource_spans[0].scope_spans[0].spans
    for number, year in enumerate((1971, 1991)):
        start = int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 10**9
        spans[number].start_time_unix_nano, spans[number].end_time_unix_nano = start, start + 5
    spans[2].span_id = b""
    file, lake = tmp_path / "t", tmp_path / "lake"
    file.write_bytes(
        json.dumps(as_json(request)).encode() if encoding == "json" else request.SerializeToString()
    )
    take(lake, file)
    assert rows(lake) == 1 and len(letters(lake)) == 3
    assert take(lake, file).files[0].rows == {}
    for earliest, count, left in (
        (datetime(1990, 1, 1, tzinfo=UTC), 2, 2),
        (datetime(1990, 1, 1, tzinfo=UTC), 2, 2),
        (EPOCH, 3, 1),
        (EPOCH, 3, 1),
    ):
        take(lake, file, earliest=earliest)
        assert (rows(lake), len(letters(lake))) == (count, left)
    same = "select count(distinct (service_name, scope_name, kind, http_route)) from spans"
    assert query.connect(lake).execute(same).fetchone() == (1,)


def test_a_metric_point_rejected_for_its_time_keeps_its_service(tmp_path: Path) -> None:
    request = metrics()
    for metric in request.resource_metrics[0].scope_metrics[0].metrics[:1]:
        metric.gauge.data_points[0].time_unix_nano = 10**18 // 2
        metric.gauge.data_points[0].start_time_unix_nano = 0
    file, lake = tmp_path / "m", tmp_path / "lake"
    file.write_bytes(request.SerializeToString())
    take(lake, file)
    take(lake, file, earliest=EPOCH)
    statement = "select name, service_name, value from metric_points order by time limit 1"
    assert query.connect(lake).execute(statement).fetchone() == ("cpu", "shop", 0.5)
    assert letters(lake) == []


@pytest.mark.parametrize(
    "damaged", [line(0)[:-40] + b"\n", line(0)[:200] + b"}\n", line(0)[30:], b"{broken\n"]
)
def test_the_lines_after_a_damaged_first_line_are_imported(tmp_path: Path, damaged: bytes) -> None:
    file, lake = tmp_path / "t.jsonl", tmp_path / "lake"
    file.write_bytes(damaged + line(1) + line(2))
    summary = take(lake, file)
    assert rows(lake) == 6
    (error,) = summary.files[0].errors
    assert "line 1:" in error and [letter["line"] for letter in letters(lake)] == [1]


def test_text_that_is_not_utf8_rejects_only_its_records(tmp_path: Path) -> None:
    good, lake, file = json.dumps(as_json(traces(3))), tmp_path / "lake", tmp_path / "t.jsonl"
    bad = good.replace('"GET /"', '"GET \\ufffd"', 1).replace('"GET /"', '"GET BAD"', 1).encode()
    file.write_bytes(bad.replace(b"BAD", b"caf\xe9") + b"\n" + line(1))
    summary = take(lake, file)
    assert summary.ok and rows(lake) == 5
    (letter,) = letters(lake)
    assert letter["path"] == "resourceSpans[0].scopeSpans[0].spans[1].name"
    assert "no UTF-8" in letter["reason"] and letter["line"] == 1
    resource = good.replace('"shop"', '"BAD"').encode().replace(b"BAD", b"caf\xe9")
    file.write_bytes(resource + b"\n" + line(2))
    assert take(lake, file).files[0].rows == {"spans": 3}


def test_a_protobuf_request_that_is_not_utf8_is_stored_and_the_others_are_imported(
    tmp_path: Path,
) -> None:
    bad = traces(2).SerializeToString().replace(b"GET /", b"GET\xff\xff")
    good = traces(3, first=4).SerializeToString()
    parts = [good, bad, traces(3, first=7).SerializeToString()]
    file, lake = tmp_path / "t", tmp_path / "lake"
    file.write_bytes(b"".join(len(part).to_bytes(4, "big") + part for part in parts))
    summary = take(lake, file)
    assert rows(lake) == 6
    assert f"byte {len(good) + 4:,}" in summary.files[0].errors[0]
    (letter,) = letters(lake)
    assert base64.b64decode(letter["document_base64"]) == bad


def test_duckdb_reads_records_with_repeated_keys(tmp_path: Path) -> None:
    request = traces(2)
    entry = request.resource_spans[0]
    span = entry.scope_spans[0].spans[0]
    repeated = [attribute("a", "1"), attribute("n", 1), attribute("a", "2"), attribute("n", 2)]
    span.attributes.extend([*repeated, attribute("a", "3")])
    span.events.add(name="e", attributes=repeated)
    entry.resource.attributes.extend(repeated)
    file, lake = tmp_path / "t", tmp_path / "lake"
    file.write_bytes(request.SerializeToString())
    assert take(lake, file).ok
    statement = (
        "select attributes, attributes_num, events, resource_attributes from spans order by time"
    )
    row = query.connect(lake).execute(statement).fetchall()[0]
    assert row[0] == {"a.duplicate.2": "1", "a.duplicate": "2", "a": "3"}
    assert row[1] == {"retry": 1.0, "n.duplicate": 1.0, "n": 2.0}
    assert row[3] == {"a.duplicate": "1", "a": "2", "n.duplicate": "1", "n": "2"}


def test_workers_end_when_the_importer_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(b"".join(line(number, 400) for number in range(80)))
    command = [sys.executable, "-m", "apm_analytics", "import", str(file), "--lake"]
    process = subprocess.Popen([*command, str(tmp_path / "lake")], stdout=subprocess.PIPE)
    assert process.stdout
    deadline = time.monotonic() + 60
    while not (tmp_path / "lake/manifest.sqlite").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None
    process.kill()
    process.wait()
    # Workers share the pipe, which closes when the last of them has ended.
    with process.stdout as out:
        assert select.select([out], [], [], 10)[0] and out.read() == b""


def test_a_large_document_of_few_large_records_is_split_by_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_json, "BYTES_A_DOCUMENT", 500_000)
    document = as_json(metrics())
    points = document["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"]
    points *= 20_000
    file = tmp_path / "m.json"
    file.write_text(json.dumps(document))
    with open(file, "rb") as stream:
        pieces = list(large_json.split_large(stream, file))
    assert len(pieces) > 1
    assert max(map(len, pieces)) < large_json.BYTES_A_DOCUMENT * 1.1
    tables = [otlp.decode_json(piece).tables for piece in pieces]
    assert sum(t["metric_points"].num_rows for t in tables if "metric_points" in t) == 20_001


def test_a_document_too_large_to_parse_whole_is_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = as_json(traces(5000))
    document["resourceSpans"] += as_json(traces(7, service="web", first=6000))["resourceSpans"]
    monkeypatch.setattr(framing, "MAX_DOCUMENT_BYTES", 100_000)
    for number, indent in enumerate((None, 1)):
        file, lake = tmp_path / f"{number}.json", tmp_path / f"lake{number}"
        file.write_text(json.dumps(document, indent=indent))
        assert take(lake, file).ok
        counts = query.connect(lake).execute(
            "select service_name, scope_name, count(*) from spans group by all order by 1"
        )
        assert counts.fetchall() == [("shop", "tests", 5000), ("web", "tests", 7)]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "large.jsonl"
    with open(file, "wb") as out:
        for number in range(150):
            out.write(line(number, 400))
    code = (
        "import sys; from pathlib import Path\n"
        "from apm_analytics.ingest.files.importer import import_files\n"
        "import_files([Path(sys.argv[2])], Path(sys.argv[1]), workers=1, progress=False)\n"
    )
    peak, failure, _ = peak_memory.run(code, str(tmp_path / "lake"), str(file))
    assert not failure and peak < 500
    assert rows(tmp_path / "lake") == 60_000


def test_workers_give_the_same_rows_as_one_process(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(b"".join(line(number, 400) for number in range(80)))
    assert file.stat().st_size > 6 * 2**20
    assert take(tmp_path / "two", file, workers=2).ok
    assert take(tmp_path / "one", file, workers=1).ok
    statement = "select * exclude (attributes, attributes_num) from spans order by span_id"
    answers = [
        query.connect(tmp_path / name).execute(statement).fetchall() for name in ("one", "two")
    ]
    assert answers[0] == answers[1] and len(answers[0]) == 32_000


def test_an_import_killed_at_any_moment_is_completed_by_the_next(tmp_path: Path) -> None:
    file, lake = tmp_path / "t.jsonl", tmp_path / "lake"
    file.write_bytes(b"".join(line(number, 400) for number in range(100)))
    command = [sys.executable, "-m", "apm_analytics", "import", str(file), "--lake", str(lake)]
    for delay_s in (1.2, 2.0, 2.6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(delay_s)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert take(lake, file).ok
    assert rows(lake) == 40_000


def test_a_full_disk_stops_the_import_and_the_next_call_completes_it(tmp_path: Path) -> None:
    file, lake = tmp_path / "t.jsonl", tmp_path / "lake"
    file.write_bytes(b"".join(line(number, 50) for number in range(5)))
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from apm_analytics.ingest.files.importer import import_files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "import_files([Path(sys.argv[1])], Path(sys.argv[2]), progress=False)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(file), str(lake)], capture_output=True, text=True
    )
    assert run.returncode != 0 and ApmError.__name__ in run.stderr
    assert take(lake, file).ok and rows(lake) == 250


def test_a_disk_too_full_for_a_dead_letter_says_so(tmp_path: Path) -> None:
    (tmp_path / dead_letters.FOLDER).write_text("a file where the folder should be")
    with pytest.raises(ApmError, match="free space or "):
        dead_letters.write(tmp_path, "name", [{"reason": "test"}])


def test_train_ticket_is_imported_to_the_last_span_and_point(
    tmp_path: Path, real_data: Path
) -> None:
    summary = take(tmp_path, *sorted((real_data / "train-ticket/2023-01-30").glob("*.gz")))
    assert summary.ok
    assert (rows(tmp_path), rows(tmp_path, "metric_points")) == (182_751, 608_363)


def test_many_files_are_counted_and_those_with_errors_are_named(tmp_path: Path) -> None:
    folder, lake = tmp_path / "in", tmp_path / "lake"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.json").write_bytes(line(number))
    (folder / "bad.json").write_bytes(line(50) + b"{broken\n")
    summary = take(lake, folder).lines()
    assert summary[0] == "12 files: 36 spans (12 documents)"
    assert [text for text in summary if "bad.json" in text and "ERROR" in text]
    assert not [text for text in summary if "/3.json" in text]
