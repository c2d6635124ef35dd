"""Store rejected records and broken documents, with the reason.

In:  rejected records and undecodable documents of an import.
Out: `<lake>/dead_letter/<document hash>.jsonl`, one JSON object per line.
"""

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from apm_analytics.foundation.errors import ApmError
from apm_analytics.ingest.decode.sink import Rejected

FOLDER = "dead_letter"
Letter = dict[str, Any]
# Enough of a damaged document to identify it; the sender's file has the rest.
KEPT_BYTES = 1024 * 1024


def write(lake: Path, name: str, letters: Sequence[Letter]) -> None:
    """Replace the letters of one document, all or none; a repeated import writes the same file.

    Raises
    ------
    ApmError
        The disk refused.
    """
    dump = partial(orjson.dumps, default=str, option=orjson.OPT_APPEND_NEWLINE)
    _replace(lake, name, map(dump, letters))


def _replace(lake: Path, name: str, lines: Iterable[bytes]) -> None:
    """Replace the file of one document; without any line it is removed."""
    folder = lake / FOLDER
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    out: BinaryIO | None = None
    try:
        for line in lines:
            if out is None:
                folder.mkdir(parents=True, exist_ok=True)
                out = open(temporary, "wb")  # noqa: SIM115 (closed below)
            out.write(line)
        if out is None:
            (folder / f"{name}.jsonl").unlink(missing_ok=True)
            return
        out.flush()
        os.fdatasync(out.fileno())
        temporary.replace(folder / f"{name}.jsonl")
    except OSError as error:
        raise ApmError(
            f"could not write to the lake {lake}: {error}; nothing of this batch was kept; "
            "free space or repair the disk, then run the same command again"
        ) from error
    finally:
        if out is not None:
            out.close()
            with suppress(OSError):
                temporary.unlink()


def of_record(rejected: Rejected) -> Letter:
    """Return the letter of one rejected record."""
    return {
        "signal": rejected.signal,
        "path": rejected.path,
        "reason": rejected.reason,
        "record": rejected.record,
        **({"stamp": dict(rejected.stamp)} if rejected.stamp else {}),
    }


def names(lake: Path) -> list[str]:
    """List the documents that have letters, oldest first."""
    files = (lake / FOLDER).glob("*.jsonl")
    return [path.stem for path in sorted(files, key=lambda path: (path.stat().st_mtime_ns, path))]


def read(lake: Path, name: str) -> Iterator[tuple[str, Letter]]:
    """Iterate over the letters of one document.

    Yields
    ------
    A unique id, by which the lake knows a letter that was taken, and the letter.
    """
    for identity, letter, _ in _lines(lake, name):
        yield identity, letter


def remove(lake: Path, name: str, taken: Container[str]) -> None:
    """Remove the letters of one document with these ids."""
    kept = (line for identity, _, line in _lines(lake, name) if identity not in taken)
    _replace(lake, name, kept)


def _lines(lake: Path, name: str) -> Iterator[tuple[str, Letter, bytes]]:
    """Yield id, letter and line; the line of a repeated letter holds its id.

    Without that, a letter would have the id of the equal one before it once that one was removed.
    """
    seen: Counter[bytes] = Counter()
    try:
        with open(lake / FOLDER / f"{name}.jsonl", "rb") as file:
            for line in file:
                letter = orjson.loads(line)
                content = f"{name}:{seen[line]}:".encode() + line
                identity = letter.get("id")
                if identity is None:
                    identity = f"letter:{hashlib.blake2b(content, digest_size=16).hexdigest()}"
                    if seen[line]:
                        letter = {**letter, "id": identity}
                seen[line] += 1
                yield identity, letter, orjson.dumps(letter) + b"\n" if "id" in letter else line
    except FileNotFoundError:
        return


def document_text(content: bytes) -> Letter:
    """Return a document that could not be decoded, as text or, where it is not UTF-8, as base64."""
    beginning = content[:KEPT_BYTES]
    cut = {"cut_from_bytes": len(content)} if len(content) > KEPT_BYTES else {}
    try:
        return {"document": beginning.decode(), **cut}
    except UnicodeDecodeError:
        return {"document_base64": base64.b64encode(beginning).decode(), **cut}
