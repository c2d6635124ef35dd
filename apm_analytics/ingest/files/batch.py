"""Decode one batch of documents and commit it, in a worker process.

In:  documents of one file, with their hashes.
Out: one snapshot in the lake, dead letters beside it, a summary.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import otlp
from apm_analytics.ingest.decode.records import Limits
from apm_analytics.ingest.decode.requests import Requests
from apm_analytics.ingest.decode.sink import Decoded, RefusedUnits, Sink
from apm_analytics.ingest.files import dead_letters
from apm_analytics.ingest.files.dead_letters import Letter
from apm_analytics.ingest.files.framing import Document
from apm_analytics.ingest.files.summary import FileSummary
from apm_analytics.ingest.units import Units
from apm_analytics.lake import snapshots


@dataclass(frozen=True)
class Batch:
    """Some documents of one file, in file order, with their hashes."""

    file: int
    path: Path
    documents: tuple[Document, ...]
    hashes: tuple[str, ...]

    def without(self, known: set[str]) -> "Batch":
        """Return the batch without the documents of these hashes."""
        pairs = zip(self.documents, self.hashes, strict=True)
        kept = [(document, digest) for document, digest in pairs if digest not in known]
        return Batch(
            self.file,
            self.path,
            tuple(document for document, _ in kept),
            tuple(digest for _, digest in kept),
        )


def import_batch(batch: Batch, lake: Path, limits: Limits) -> tuple[int, FileSummary]:
    """Decode one batch and commit it; return the number of its file and the summary.

    Raises
    ------
    ApmError
        Writing to the lake failed; nothing of the batch was committed.
    """
    # Millions of small objects live until the end, so garbage collection would be wasted work.
    gc.disable()
    try:
        decoded, broken = decode(batch.documents, lake, limits, batch.path.name)
    finally:
        gc.enable()
    summary = FileSummary(batch.path)
    letters: dict[int, list[Letter]] = {}
    for number, error in broken.items():
        document = batch.documents[number]
        summary.errors.append(f"{batch.path}, {_place(document)}: {error}")
        kept = dead_letters.document_text(document.content)
        letters[number] = [{**_origin(batch, document), "reason": error, **kept}]
    for rejected in decoded.rejected:
        document = batch.documents[rejected.document]
        letters.setdefault(rejected.document, []).append(
            {**_origin(batch, document), **dead_letters.of_record(rejected)}
        )
        field = rejected.path.rpartition(".")[2].partition("[")[0]
        alike = (key for key in summary.rejected if key.startswith(f"{field}: "))
        first = f"{field}: {rejected.reason} (first at {_place(document)}, {rejected.path})"
        summary.rejected[next(alike, first)] += 1
    summary.warnings.update(decoded.warnings)
    taken = [digest for number, digest in enumerate(batch.hashes) if number not in broken]
    if letters or (lake / dead_letters.FOLDER).exists():
        # Also without letters: an earlier import may have been killed before its commit.
        for number, digest in enumerate(batch.hashes):
            dead_letters.write(lake, digest, letters.get(number, []))
    if taken:
        snapshots.append(lake, decoded.tables, documents=taken, source=str(batch.path))
    summary.rows.update({name: table.num_rows for name, table in decoded.tables.items()})
    return batch.file, summary


def decode(
    documents: Sequence[Document], lake: Path, limits: Limits, name: str = ""
) -> tuple[Decoded, dict[int, str]]:
    """Decode documents into one set of tables; return it and the errors of broken documents.

    Parameters
    ----------
    name : name of the file; it may tell the signal of protobuf.
    """
    decoded, broken = _decode(documents, limits, {}, name)
    refused = Units(lake).refused(decoded.tables)
    if refused:
        # Rare: decode again, now without the metrics whose unit has changed.
        decoded, broken = _decode(documents, limits, refused, name)
    return decoded, broken


def _decode(
    documents: Sequence[Document], limits: Limits, refused: RefusedUnits, name: str
) -> tuple[Decoded, dict[int, str]]:
    sink = Sink(refused)
    size = sum(len(each.content) for each in documents)
    requests = Requests(sink, limits, refused, size)
    broken: dict[int, str] = {}
    guess = "metrics" if "metric" in name else "logs" if "log" in name else "traces"
    for number, document in enumerate(documents):
        sink.document = number
        sink.stamp = document.stamp
        try:
            if document.kind != "json":
                guess = requests.read_any(document.content, guess)
            elif not requests.take_json(document.content):
                otlp.read_json(document.content, sink, limits)
        except BadInput as error:
            broken[number] = str(error)
    return requests.finish(), broken


def _origin(batch: Batch, document: Document) -> Letter:
    return {
        "file": str(batch.path),
        "line": document.line,
        "byte_offset": document.byte_offset,
    }


def _place(document: Document) -> str:
    return f"line {document.line}" if document.line else f"byte {document.byte_offset:,}"
