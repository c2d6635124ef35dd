"""Keep what could not be taken, with its reason.

In:  rejected records and undecodable documents of an import.
Out: `<lake>/dead_letter/<document hash>.jsonl`, one JSON object a line.
"""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

FOLDER = "dead_letter"
# Enough of a damaged document to find it again; the whole is still in the sender's file.
KEPT_BYTES = 1024 * 1024


def write(lake: Path, name: str, letters: Sequence[dict[str, Any]]) -> None:
    """Write the letters of one document, all or none; a repeated import writes the same again."""
    if not letters:
        return
    folder = lake / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as out:
            for letter in letters:
                out.write(orjson.dumps(letter, default=str, option=orjson.OPT_APPEND_NEWLINE))
            out.flush()
            os.fdatasync(out.fileno())
        temporary.replace(folder / f"{name}.jsonl")
    finally:
        temporary.unlink(missing_ok=True)


def document_text(content: bytes) -> dict[str, Any]:
    """Give a document that could not be decoded as text, or as base64 where it is none."""
    kept = content[:KEPT_BYTES]
    cut = {"cut_from_bytes": len(content)} if len(content) > KEPT_BYTES else {}
    try:
        return {"document": kept.decode(), **cut}
    except UnicodeDecodeError:
        return {"document_base64": base64.b64encode(kept).decode(), **cut}
