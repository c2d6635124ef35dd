"""Split a telemetry file of any encoding into documents, without loading it whole.

In:  a file: OTLP JSON (lines or documents) or protobuf (one request, or requests that each follow
     their length as a varint or as 4 bytes big-endian), plain, gzip or zstd.
Out: `Document`s in file order, each with its position.

The encoding is found from the content, never from the name.
"""

import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import pyarrow as pa

from apm_analytics.foundation import varint
from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.files.large_json import split_large
from apm_analytics.ingest.json.otlp import MAX_DEPTH

# orjson needs about ten times a document's size; two workers then stay well below 1 GB.
MAX_DOCUMENT_BYTES = 32 * 1024 * 1024
# Telemetry is compressed a hundredfold at most; zstd makes 30,000 bytes of one.
MAX_EXPANSION = 500
FREE_BYTES = 16 * 1024 * 1024  # any file may expand to this
SNIFF_BYTES = 64 * 1024
READ_BYTES = 1024 * 1024
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_FOREIGN = {
    b"\x89PNG": "a PNG picture",
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive",
    b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database",
}
# No object inside an OTLP or Jaeger document begins like this, at the start of a line.
_DOCUMENT_START = re.compile(rb'\{\s*"(?:resource_?(?:spans|metrics|logs)|data|traceID)"', re.I)
# Possessive, so that a text without an end costs neither memory nor quadratic time.
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.S)
NEED = "need OTLP as JSON or protobuf, or Jaeger JSON, plain, .gz or .zst"


@dataclass(frozen=True)
class Document:
    """One document of a file; `line` counts from 1 and is 0 in binary files.

    `stamp` is what the token of its sender adds to it, see `ingest.stamps`.
    """

    kind: Literal["json", "protobuf"]
    content: bytes
    line: int
    byte_offset: int
    stamp: tuple[tuple[str, str], ...] = ()


def documents(path: Path, report: Callable[[int], None] | None = None) -> Iterator[Document]:
    """Iterate over the documents of a file.

    Parameters
    ----------
    report : called with the number of bytes read so far of the file on disk.

    Raises
    ------
    BadInput
        The file is empty, foreign, corrupt or cut short; the message names the place. The
        documents before the place were yielded already.
    """
    try:
        with _open(path, report) as stream:
            head = _peek(stream)
            if not head.strip():
                raise BadInput(f"{path} is empty; {NEED}")
            if _is_json(path, head):
                yield from _json_documents(path, stream)
            else:
                yield from _protobuf_documents(path, stream, head)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise BadInput(f"cannot read {path}: {error}; check the file and its rights") from error
        raise BadInput(
            f"{path}: the compressed data is corrupt or cut short ({error}); "
            "copy the file again and repeat the import, what is known already is not taken twice"
        ) from error


def _open(path: Path, report: Callable[[int], None] | None = None) -> BinaryIO:
    raw = io.BufferedReader(_Watched(path, report), buffer_size=READ_BYTES)
    magic = raw.peek(4)
    codec = next((name for start, name in _MAGIC.items() if magic.startswith(start)), None)
    if codec is None:
        return raw
    # GzipFile yields what can still be unpacked of a file cut short, before it raises.
    expanded: Any = (
        gzip.GzipFile(fileobj=raw)
        if codec == "gzip"
        else pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)
    )
    return io.BufferedReader(_Expanded(expanded, raw, path), buffer_size=SNIFF_BYTES)


def _peek(stream: BinaryIO) -> bytes:
    """Return the beginning of the stream without consuming it."""
    assert isinstance(stream, io.BufferedReader)
    return stream.peek(SNIFF_BYTES)


class _Watched(io.FileIO):
    """A file that reports how far it was read."""

    def __init__(self, path: Path, report: Callable[[int], None] | None) -> None:
        super().__init__(path)
        self._report = report

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        count = super().readinto(buffer)
        if self._report:
            self._report(self.tell())
        return count


class _Expanded(io.RawIOBase):
    """A decompressed stream, which ends with an error when it expands too far."""

    def __init__(self, expanded: Any, raw: BinaryIO, path: Path) -> None:
        self._expanded = expanded
        self._raw = raw
        self._path = path
        self._size = os.stat(path).st_size
        self._bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        chunk = self._expanded.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self._bytes += len(chunk)
        if self._bytes > max(FREE_BYTES, MAX_EXPANSION * self._size):
            raise BadInput(
                f"{self._path}: expands to over {self._bytes:,} bytes, more than "
                f"{MAX_EXPANSION:,} times its size; decompress it, if it is telemetry"
            )
        return len(chunk)

    def close(self) -> None:
        self._expanded.close()
        self._raw.close()
        super().close()


def _is_json(path: Path, head: bytes) -> bool:
    """Return whether the file is JSON, False for protobuf; refuse other content."""
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            raise BadInput(f"{path} is {name}; {NEED}")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start in (b"{", b"["):
        return True
    text = head.decode(errors="ignore")
    if len(text.encode()) < 0.9 * len(head) or any(ord(c) < 9 for c in text):
        return False
    # A text whose first line is damaged may still hold documents.
    if any(line.lstrip().startswith("{") for line in text.splitlines()):
        return True
    raise BadInput(f"{path} is text that begins with {text[:40]!r}; {NEED}")


def _json_documents(path: Path, stream: BinaryIO) -> Iterator[Document]:
    line = offset = 0
    lines_mode: bool | None = None
    held = bytearray()
    held_line = held_offset = held_lines = depth = 0
    while True:
        text = stream.readline(MAX_DOCUMENT_BYTES + 1)
        if not text:
            break
        line += 1
        stripped = text.strip().removeprefix(b"\xef\xbb\xbf")
        start, offset = offset, offset + len(text)
        if len(text) > MAX_DOCUMENT_BYTES:
            yield from _large(path, line, start, first=not held and start == 0)
            return
        if not stripped and not held:
            continue
        if lines_mode is None:
            lines_mode = stripped.endswith((b"}", b"]")) or stripped[:1] not in (b"{", b"[")
        elif held and _DOCUMENT_START.match(text):
            # The document so far is cut short. If it is the first line, the file has one per line.
            yield Document("json", bytes(held), held_line, held_offset)
            lines_mode = held_offset == 0 and held_lines == 1
            held.clear()
        if lines_mode:
            yield Document("json", stripped, line, start)
            continue
        if not held:
            held_line, held_offset, held_lines, depth = line, start, 0, 0
        held += text
        held_lines += 1
        if len(held) > MAX_DOCUMENT_BYTES:
            yield from _large(path, held_line, held_offset, first=held_offset == 0)
            return
        brackets = _TEXT.sub(b"", text)
        depth += sum(map(brackets.count, (b"{", b"["))) - sum(map(brackets.count, (b"}", b"]")))
        if depth > MAX_DEPTH:
            raise BadInput(
                f"{path}, line {line} (byte {start:,}): nested deeper than {MAX_DEPTH} levels; "
                "send values as text"
            )
        if depth <= 0:
            yield Document("json", bytes(held), held_line, held_offset)
            held.clear()
    if held:
        # Decoding reports where it breaks, and it goes to the dead letters.
        yield Document("json", bytes(held), held_line, held_offset)


def _large(path: Path, line: int, offset: int, *, first: bool) -> Iterator[Document]:
    if not first:
        raise BadInput(
            f"{path}, line {line} (byte {offset:,}): a document of over "
            f"{MAX_DOCUMENT_BYTES >> 20} MiB; lower the sender's batch size or split the line"
        )
    with _open(path) as again:
        for content in split_large(again, path):
            yield Document("json", content, line, offset)


def _protobuf_documents(path: Path, stream: BinaryIO, head: bytes) -> Iterator[Document]:
    framing = _framing(head)
    if framing is None:
        raise BadInput(f"{path} begins with the bytes {head[:8].hex(' ')}; {NEED}")
    offset = 0
    while True:
        start = offset
        if framing == "big-endian":
            prefix = stream.read(4)
            size = int.from_bytes(prefix, "big") if len(prefix) == 4 else -1
            offset += len(prefix)
        else:
            prefix = b""
            if framing == "single":
                prefix = stream.read(1)
                if prefix and prefix != b"\n":
                    raise BadInput(
                        f"{path}, byte {start:,}: found the byte {prefix.hex()}, need a resource "
                        "(0a); what came before it was taken, the rest is damaged"
                    )
                offset += len(prefix)
            size, used = _read_varint(stream)
            offset += used
            if not used and not prefix:
                return
        if not prefix and framing == "big-endian":
            return
        if size > MAX_DOCUMENT_BYTES:
            raise BadInput(
                f"{path}, byte {start:,}: a message of {size:,} bytes, at most "
                f"{MAX_DOCUMENT_BYTES:,} are taken; lower the sender's batch size, or the length "
                "is damaged"
            )
        content = stream.read(size) if size > 0 else b""
        offset += len(content)
        if size < 0 or len(content) < size:
            raise BadInput(
                f"{path}, byte {start:,}: cut short, {max(size, 0):,} bytes announced and "
                f"{len(content):,} there; copy the file again and repeat the import"
            )
        if framing == "single":
            content = b"\n" + varint.encode(size) + content
        if content:
            yield Document("protobuf", content, 0, start)


def _framing(head: bytes) -> Literal["single", "varint", "big-endian"] | None:
    """Return how requests are separated, from the beginning of the first one."""
    # A request begins with a resource entry (0a), and that with a resource, scope or schema URL.
    if head[:1] == b"\x00" and head[4:5] == b"\n":
        return "big-endian"
    if head[:1] == b"\n":
        size, used = _read_varint(io.BytesIO(head[1:]))
        inside = head[1 + used : 2 + used]
        after = head[1 + used + size : 2 + used + size] if size >= 0 else b""
        if inside in (b"\n", b"\x12", b"\x1a") and after in (b"", b"\n"):
            return "single"
        if size == 0:
            return "single"
    size, used = _read_varint(io.BytesIO(head))
    if size > 0 and head[used : used + 1] == b"\n":
        return "varint"
    return None


def _read_varint(stream: IO[bytes]) -> tuple[int, int]:
    """Read a length and count its bytes; the length is -1 where it is cut short or too long."""
    encoded = bytearray()
    while len(encoded) < varint.LONGEST and (byte := stream.read(1)):
        encoded += byte
        if byte[0] < 0x80:
            return varint.decode(encoded, 0)
    return (-1 if encoded else 0), len(encoded)
