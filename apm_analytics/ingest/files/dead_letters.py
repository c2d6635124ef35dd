"""Keep what could not be taken, with its reason.

In:  rejected records and undecodable documents of an import.
Out: `<lake>/dead_letter/<document hash>.jsonl`, one JSON object a line.
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
# Enough of a damaged document to find it again; the whole is still in the sender's file.
KEPT_BYTES = 1024 * 1024


def write(lake: Path, name: str, letters: Sequence[Letter]) -> None:
    """Write the letters of one document, all or none; a repeated import writes the same again."""
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
            "free space or mend the disk, then run the same command again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def lifted(lake: Path, name: str, reason: str) -> Iterator[tuple[str, bytes]]:
    """Give the records of one document that were put aside for a reason with these words.

    Yields
    ------
    A name that no other record has, to be known by in the lake, and the record as OTLP JSON.
    """
    for letter in _letters(lake, name):
        if reason in letter["reason"]:
            yield f"{name}:{letter['path']}", orjson.dumps(letter["record"])


def remove(lake: Path, names: Sequence[str]) -> None:
    """Remove the letters of `lifted` records that were taken."""
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
    """Give a document that could not be decoded as text, or as base64 where it is none."""
    kept = content[:KEPT_BYTES]
    cut = {"cut_from_bytes": len(content)} if len(content) > KEPT_BYTES else {}
    try:
        return {"document": kept.decode(), **cut}
    except UnicodeDecodeError:
        return {"document_base64": base64.b64encode(kept).decode(), **cut}
