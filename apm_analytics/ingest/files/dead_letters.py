"""Store rejected records and broken documents, with the reason.

In:  rejected records and undecodable documents of an import.
Out: `<lake>/dead_letter/<document hash>.jsonl`, one JSON object per line.
"""

import base64
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from apm_analytics.foundation.errors import ApmError

FOLDER = "dead_letter"
Letter = dict[str, Any]
# Enough of a damaged document to identify it; the sender's file has the rest.
KEPT_BYTES = 1024 * 1024


def write(lake: Path, name: str, letters: Sequence[Letter]) -> None:
    """Write the letters of one document, all or none; a repeated import writes the same file."""
    if not letters:
        return
    folder = lake / FOLDER
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as out:
            for letter in letters:
                out.write(orjson.dumps(letter, default=str, option=orjson.OPT_APPEND_NEWLINE))
            out.flush()
            os.fdatasync(out.fileno())
        temporary.replace(folder / f"{name}.jsonl")
    except OSError as error:
        raise ApmError(
            f"could not write to the lake {lake}: {error}; nothing of this batch was kept; "
            "free space or repair the disk, then run the same command again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def lifted(lake: Path, name: str, reason: str) -> Iterator[tuple[str, bytes]]:
    """Iterate over the records of one document whose rejection reason contains `reason`.

    Yields
    ------
    A unique name, by which the lake knows the record, and the record as OTLP JSON.
    """
    for letter in _letters(lake, name):
        if reason in letter["reason"]:
            yield f"{name}:{letter['path']}", orjson.dumps(letter["record"])


def remove(lake: Path, names: Sequence[str]) -> None:
    """Remove the letters of `lifted` records that are now in the lake."""
    taken = set(names)
    for document in {name.partition(":")[0] for name in names}:
        left = [
            letter
            for letter in _letters(lake, document)
            if f"{document}:{letter.get('path')}" not in taken
        ]
        if left:
            write(lake, document, left)
        else:
            (lake / FOLDER / f"{document}.jsonl").unlink(missing_ok=True)


def _letters(lake: Path, name: str) -> Iterator[Letter]:
    try:
        with open(lake / FOLDER / f"{name}.jsonl", "rb") as file:
            yield from map(orjson.loads, file)
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
