"""Files that are small on the disk and large in memory, or slow, end with a reason.

Tests ingest.files.framing, ingest.files.large_json and the limits of ingest.json.otlp.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import peak_memory
import pyarrow as pa
import pytest
from otlp_requests import as_json, logs, metrics, traces

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import otlp
from apm_analytics.ingest.files import large_json
from apm_analytics.ingest.files.importer import import_files
from apm_analytics.ingest.json.otlp import MAX_DEPTH

MIB = 1024 * 1024
IMPORT = """
import sys
from pathlib import Path
from apm_analytics.ingest.files.importer import import_files
result = import_files([Path(sys.argv[2])], Path(sys.argv[1]), workers=1, progress=False)
print("\\n".join(result.lines()))
"""
RESOURCE = b'{"resourceLogs":[{"resource":{"attributes":['
METRIC = b'{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m","gauge":{"dataPoints":['
PAIR = b'{"key":"a","value":{}},'
POINT = b'{"asInt":"1","timeUnixNano":"1772409600000000000"},'
Pieces = Iterator[bytes]


def much(unit: bytes, size: int, start: bytes = b"") -> Callable[[], Pieces]:
    """Return a source of `start`, then `unit` again and again up to `size` bytes."""

    def pieces() -> Pieces:
        yield start
        piece = unit * (MIB // len(unit))
        for _ in range(size // len(piece)):
            yield piece

    return pieces


# What it holds, and why it ends.
DEEP = "deeper than 250 levels"
BOMBS: dict[str, tuple[Callable[[], Pieces], str]] = {
    "nested lists": (much(b"[", 40 * MIB), DEEP),
    "nested objects": (much(b'{"a":', 40 * MIB), DEEP),
    "nested lines": (much(b"[\n", 40 * MIB, b'{"resourceLogs":\n'), DEEP),
    "nested values": (
        much(b'{"key":"a","value":{"arrayValue":{"values":[', 40 * MIB, RESOURCE),
        DEEP,
    ),
    "a text without end": (much(b"x", 40 * MIB, RESOURCE + b'{"key":"'), "over 8 MiB"),
    "a number without end": (much(b"9", 40 * MIB, RESOURCE), "over 8 MiB"),
    "a resource without end": (much(PAIR, 40 * MIB, RESOURCE), "over 8 MiB"),
    "a metric without end": (much(POINT, 100 * MIB, METRIC), "64 MiB of points"),
    "blanks": (much(b" ", 40 * MIB, b"{"), "over 8 MiB"),
    "blank lines": (much(b"\n", 20 * MIB, b"{}\n"), "no OTLP document"),
    "empty lists": (much(b"[],", 30 * MIB, b'{"resourceLogs":['), "very many small values"),
    "empty objects": (much(b"{},", 30 * MIB, b'{"resourceLogs":['), "very many small values"),
    "a text of escapes": (much(b'\\"', 20 * MIB, b'{\n"'), "no JSON"),
    "lines of open texts": (much(b'\\"\n', 4 * MIB, b'{\n"'), "no JSON"),
    "empty documents": (much(b"{}\n", 3 * MIB), "no OTLP document"),
}


def check(tmp_path: Path, file: Path, reason: str) -> None:
    peak, failure, output = peak_memory.run(IMPORT, str(tmp_path / "lake"), str(file))
    assert not failure
    assert f"ERROR {file}" in output and reason in output
    assert peak < 600  # measured: 420 MiB at most


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_ends_with_its_reason_within_600_mib(tmp_path: Path, bomb: str) -> None:
    pieces, reason = BOMBS[bomb]
    file = tmp_path / "bomb.json"
    with file.open("wb") as out:
        out.writelines(pieces())
    check(tmp_path, file, reason)


@pytest.mark.parametrize("bomb", ["nested lists", "blank lines", "a text without end"])
@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_file_that_expands_too_far_is_left(tmp_path: Path, bomb: str, codec: str) -> None:
    pieces, _ = BOMBS[bomb]
    file = tmp_path / "bomb"
    content = b"".join(pieces())
    packed = (
        gzip.compress(content) if codec == "gzip" else pa.compress(content, codec, asbytes=True)
    )
    file.write_bytes(packed)
    check(tmp_path, file, "500 times its size")


def test_a_list_of_what_is_no_object_is_rejected_in_one_piece(tmp_path: Path) -> None:
    file = tmp_path / "bomb.json"
    file.write_bytes(b'{"resourceLogs":[' + b"1," * (4 * MIB) + b"1]}")
    peak, failure, output = peak_memory.run(IMPORT, str(tmp_path / "lake"), str(file))
    assert not failure and "rejected 101: resourceLogs: found int" in output
    assert peak < 600  # measured: 400 MiB


def test_telemetry_that_repeats_itself_is_not_taken_for_a_bomb(tmp_path: Path) -> None:
    file = tmp_path / "lines.gz"
    with gzip.open(file, "wb") as out:
        for number in range(40):
            request = traces(1_000, first=1 + 1_000 * number)
            out.write(json.dumps(as_json(request)).encode() + b"\n")
    result = import_files([file], tmp_path / "lake", workers=1, progress=False)
    assert result.ok and result.files[0].rows["spans"] == 40_000


def test_a_document_is_refused_for_its_depth_at_any_size(tmp_path: Path) -> None:
    value = b'{"arrayValue":{"values":[' * 200 + b"]}}" * 200
    deep = RESOURCE + b'{"key":"k","value":' + value + b"}]}}]}"
    with pytest.raises(BadInput, match="deeper than"):
        otlp.decode_json(deep)
    with pytest.raises(BadInput, match="deeper than"):
        list(large_json.split_large(BytesIO(deep), tmp_path))


def test_what_is_nested_as_deep_as_allowed_is_split_and_read(tmp_path: Path) -> None:
    document = as_json(logs())
    record = document["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    value = {"stringValue": "deep"}
    for _ in range((MAX_DEPTH - 12) // 3):
        value = {"arrayValue": {"values": [value]}}
    record["body"] = value
    pieces = list(large_json.split_large(BytesIO(json.dumps(document).encode()), tmp_path))
    whole, split = (
        otlp.decode_json(content).tables["logs"].to_pylist()
        for content in (json.dumps(document).encode(), *pieces)
    )
    assert split == whole and "deep" in split[0]["body"]


@pytest.mark.parametrize(
    "message", [traces(), metrics(), logs()], ids=["traces", "metrics", "logs"]
)
def test_small_documents_hold_the_rows_of_the_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: object
) -> None:
    document = as_json(message)
    (top,) = document
    document[top] = [
        {**entry, "schemaUrl": "later", "unknown": [{"scope": {}}]} for entry in document[top] * 3
    ]
    content = json.dumps(document).encode()
    whole = otlp.decode_json(content)
    for size in (1, 500, 10**9):
        monkeypatch.setattr(large_json, "BYTES_A_DOCUMENT", size)
        pieces = list(large_json.split_large(BytesIO(content), tmp_path))
        assert len(pieces) >= 3
        counts = [
            {name: table.num_rows for name, table in otlp.decode_json(piece).tables.items()}
            for piece in pieces
        ]
        for name, table in whole.tables.items():
            assert sum(count.get(name, 0) for count in counts) == table.num_rows


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ('{"resourceLogs":[{"scopeLogs":[{"logRecords":[%s],"scope":{}}]}]}', "a scope comes"),
        ('{"resourceLogs":[{"scopeLogs":[{"logRecords":[%s]}],"resource":{}}]}', "a resource"),
        ('{"data":[{"spans":[%s]}]}', "without records"),
        ('{"resourceLogs":[{"scopeLogs":[{"logRecords":[%s', "no JSON"),
        ('{"resourceLogs":[{"resource":{"a":%s,"b":' + "9" * 5_000 + "}}]}", "no JSON"),
        ('{"resourceLogs":[{"resource":{"a":%s,"b":99999999999999999999}}]}', "no JSON"),
    ],
)
def test_a_large_document_that_cannot_be_split_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: str, reason: str
) -> None:
    monkeypatch.setattr(large_json, "BYTES_A_DOCUMENT", 1)
    content = (document % '{"body":{"stringValue":"a"}}').encode()
    with pytest.raises(BadInput, match=reason):
        list(large_json.split_large(BytesIO(content), tmp_path))
