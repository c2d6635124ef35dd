"""Decode one batch of documents and commit it, in a worker process.

In:  documents of one file, with their hashes.
Out: one snapshot in the lake, dead letters beside it, a summary.
"""

import gc
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
    """Some documents of one file, in file order, with their hashes.

    `lifted` documents are single records out of the dead letters, see `dead_letters.lifted`.
    """

    file: int
    path: Path
    documents: tuple[Document, ...]
    hashes: tuple[str, ...]
    lifted: bool = False

    def without(self, known: set[str]) -> "Batch":
        """Return the batch without the documents of these hashes."""
        pairs = zip(self.documents, self.hashes, strict=True)
        kept = [(document, digest) for document, digest in pairs if digest not in known]
        return Batch(
            self.file,
            self.path,
            tuple(document for document, _ in kept),
            tuple(digest for _, digest in kept),
            self.lifted,
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
        decoded, broken = _decode(batch, limits, {})
        refused = Units(lake).refused(decoded.tables)
        if refused:
            # Rare: decode again, now without the metrics whose unit has changed.
            decoded, broken = _decode(batch, limits, refused)
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
            {
                **_origin(batch, document),
                "signal": rejected.signal,
                "path": rejected.path,
                "reason": rejected.reason,
                "record": rejected.record,
            }
        )
        field = rejected.path.rpartition(".")[2].partition("[")[0]
        alike = (key for key in summary.rejected if key.startswith(f"{field}: "))
        first = f"{field}: {rejected.reason} (first at {_place(document)}, {rejected.path})"
        summary.rejected[next(alike, first)] += 1
    summary.warnings.update(decoded.warnings)
    numbered = enumerate(batch.hashes)
    if batch.lifted:
        # Letters that are rejected again stay, for the next import to lift.
        taken = [digest for number, digest in numbered if number not in letters]
    else:
        taken = [digest for number, digest in numbered if number not in broken]
        for number, own in letters.items():
            dead_letters.write(lake, batch.hashes[number], own)
    if taken:
        snapshots.append(lake, decoded.tables, documents=taken, source=str(batch.path))
    if batch.lifted:
        dead_letters.remove(lake, taken)
    summary.rows.update({name: table.num_rows for name, table in decoded.tables.items()})
    return batch.file, summary


def _decode(batch: Batch, limits: Limits, refused: RefusedUnits) -> tuple[Decoded, dict[int, str]]:
    """Decode all documents into one set of tables; return it and the errors of broken ones."""
    sink = Sink(refused)
    size = sum(len(each.content) for each in batch.documents)
    requests = Requests(sink, limits, refused, size)
    broken: dict[int, str] = {}
    name = batch.path.name
    guess = "metrics" if "metric" in name else "logs" if "log" in name else "traces"
    for number, document in enumerate(batch.documents):
        sink.document = number
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
