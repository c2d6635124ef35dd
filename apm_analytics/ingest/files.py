"""Import telemetry files into the lake: each document once, the good records of every file.

In:  files and folders of OTLP or Jaeger JSON, see `ingest.framing`.
Out: parts in the lake, dead letters beside them, a summary.
"""

import gc
import hashlib
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from apm_analytics.errors import ApmError, BadInput
from apm_analytics.ingest import dead_letters, framing, otlp
from apm_analytics.ingest.framing import Document
from apm_analytics.ingest.records import Limits
from apm_analytics.ingest.sink import Decoded, Sink
from apm_analytics.lake import snapshots
from apm_analytics.lake.schema import METRIC_TABLES

# One batch becomes one snapshot: large enough for good parts, small enough for memory.
BATCH_BYTES = 8 * 1024 * 1024
# Starting processes costs over a second each; less than this is faster without.
INLINE_BYTES = 6 * 1024 * 1024
# A path of dead letters never comes back in as telemetry.
SKIPPED_FOLDERS = (dead_letters.FOLDER,)


@dataclass
class FileSummary:
    """What became of one file."""

    path: Path
    documents: int = 0
    known_documents: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    skipped: str = ""


@dataclass
class ImportSummary:
    """What became of an import."""

    lake: Path
    files: list[FileSummary]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every file was read to its end and every document decoded."""
        return not any(file.errors for file in self.files)

    def lines(self) -> list[str]:
        """Say it in a few lines."""
        said = []
        for file in self.files:
            if file.skipped:
                said.append(f"{file.path}: skipped, {file.skipped}")
                continue
            rows = ", ".join(f"{count:,} {table}" for table, count in sorted(file.rows.items()))
            known = f", {file.known_documents:,} known already" if file.known_documents else ""
            said.append(
                f"{file.path}: {rows or 'nothing new'} ({file.documents:,} documents{known})"
            )
            said += [
                f"  rejected {count:,}: {reason}" for reason, count in file.rejected.most_common(10)
            ]
            said += [f"  note {count:,}x: {text}" for text, count in file.warnings.most_common(10)]
            said += [f"  ERROR {error}" for error in file.errors]
        if any(file.rejected or file.errors for file in self.files):
            said.append(f"what was not taken is kept in {self.lake / dead_letters.FOLDER}")
        total = sum(sum(file.rows.values()) for file in self.files)
        said.append(f"{total:,} rows in {self.seconds:.1f} s")
        return said


@dataclass(frozen=True)
class _Batch:
    """Some documents of one file, in file order, with their hashes."""

    file: int
    path: Path
    documents: tuple[Document, ...]
    hashes: tuple[str, ...]


def import_files(
    paths: Sequence[Path],
    lake: Path,
    *,
    workers: int = 2,
    earliest: datetime | None = None,
    progress: bool = True,
) -> ImportSummary:
    """Import files, and all files below folders, into a lake.

    Parameters
    ----------
    paths : files or folders; in a folder, files that are no telemetry are skipped and listed.
    lake : folder of the lake, made when missing.
    workers : decoding processes; small inputs are decoded in this one.
    earliest : records before it are dead-lettered, 2000-01-01 UTC by default.
    progress : show a bar.

    Returns
    -------
    A summary with rows, rejected records and errors by file.

    Raises
    ------
    ApmError
        The lake's disk refused; what was committed stays, the same call goes on from there.

    Examples
    --------
    >>> import_files([Path("traces.jsonl.gz")], Path("data/lake")).ok  # doctest: +SKIP
    True
    """
    started = time.perf_counter()
    limits = Limits.around_now(earliest)
    targets = list(_targets(paths))
    summaries = [FileSummary(path) for path, _ in targets]
    total = sum(path.stat().st_size for path, _ in targets if path.is_file())
    pool = None
    if workers > 1 and total > INLINE_BYTES:
        # A forked child would inherit the locks of Arrow's threads.
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        with tqdm(total=len(targets), desc="importing", unit="file", disable=not progress) as bar:
            _run(targets, summaries, lake, limits, pool, workers, bar)
    except BrokenProcessPool as error:
        raise ApmError(
            "a decoding process was killed, most likely for want of memory; "
            "run the same import again with --workers 1"
        ) from error
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return ImportSummary(lake, summaries, time.perf_counter() - started)


def _targets(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Give every file with whether it was found in a folder."""
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.is_file() and not set(file.parts) & set(SKIPPED_FOLDERS):
                    yield file, True
        else:
            yield path, False


def _run(
    targets: Sequence[tuple[Path, bool]],
    summaries: list[FileSummary],
    lake: Path,
    limits: Limits,
    pool: ProcessPoolExecutor | None,
    workers: int,
    bar: "tqdm[Any]",
) -> None:
    pending: set[Future[tuple[int, FileSummary]]] = set()
    # Documents of batches on their way: a file given twice is not decoded twice.
    under_way: set[str] = set()

    def collect(done: set[Future[tuple[int, FileSummary]]]) -> None:
        for future in done:
            number, part = future.result()
            _merge(summaries[number], part)

    for number, (path, in_folder) in enumerate(targets):
        for batch in _batches(number, path, in_folder, summaries[number]):
            fresh = _fresh(batch, lake, under_way, summaries[number])
            if not fresh.documents:
                continue
            under_way.update(fresh.hashes)
            if pool is None:
                _merge(summaries[number], _import_batch(fresh, lake, limits)[1])
                continue
            pending.add(pool.submit(_import_batch, fresh, lake, limits))
            # Back-pressure: what is queued is in memory.
            while len(pending) > workers + 1:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                collect(done)
        bar.update()
    done, _ = wait(pending)
    collect(done)


def _batches(number: int, path: Path, in_folder: bool, summary: FileSummary) -> Iterator[_Batch]:
    """Cut a file into batches; what is wrong with it goes into its summary."""
    held: list[Document] = []
    size = 0
    try:
        for document in framing.documents(path):
            held.append(document)
            size += len(document.content)
            if size >= BATCH_BYTES:
                yield _batch(number, path, held)
                held, size = [], 0
    except BadInput as error:
        if in_folder and not held and not summary.documents:
            summary.skipped = str(error)
        else:
            summary.errors.append(str(error))
    if held:
        yield _batch(number, path, held)


def _batch(number: int, path: Path, held: list[Document]) -> _Batch:
    hashes = (hashlib.blake2b(d.content, digest_size=16).hexdigest() for d in held)
    # A document repeated within a batch is one document.
    unique = dict(zip(hashes, held, strict=True))
    return _Batch(number, path, tuple(unique.values()), tuple(unique))


def _fresh(batch: _Batch, lake: Path, under_way: set[str], summary: FileSummary) -> _Batch:
    """Leave out documents that the lake holds, or will in a moment."""
    known = snapshots.known_documents(lake, batch.hashes) | (under_way & set(batch.hashes))
    summary.documents += len(batch.hashes)
    summary.known_documents += len(known)
    kept = [
        (document, digest)
        for document, digest in zip(batch.documents, batch.hashes, strict=True)
        if digest not in known
    ]
    return _Batch(batch.file, batch.path, tuple(d for d, _ in kept), tuple(h for _, h in kept))


def _merge(whole: FileSummary, part: FileSummary) -> None:
    whole.rows.update(part.rows)
    whole.rejected.update(part.rejected)
    whole.warnings.update(part.warnings)
    whole.errors.extend(part.errors)


def _import_batch(batch: _Batch, lake: Path, limits: Limits) -> tuple[int, FileSummary]:
    """Decode one batch and commit it; runs in a worker process."""
    summary = FileSummary(batch.path)
    sink = Sink()
    letters: dict[int, list[dict[str, object]]] = {}
    taken: list[str] = []
    guess = (
        "metrics"
        if "metric" in batch.path.name
        else "logs"
        if "log" in batch.path.name
        else "traces"
    )
    # Millions of small objects that all live until the end: collecting them is wasted work.
    gc.disable()
    try:
        for number, document in enumerate(batch.documents):
            sink.document = number
            try:
                if document.kind == "json":
                    otlp.read_json(document.content, sink, limits)
                else:
                    guess = otlp.read_protobuf(document.content, sink, limits, guess)
            except BadInput as error:
                where = _place(document)
                summary.errors.append(f"{batch.path}, {where}: {error}")
                letters[number] = [
                    {
                        "file": str(batch.path),
                        "line": document.line,
                        "byte_offset": document.byte_offset,
                        "reason": str(error),
                        **dead_letters.document_text(document.content),
                    }
                ]
            else:
                taken.append(batch.hashes[number])
        decoded = sink.finish()
    finally:
        gc.enable()
    for rejected in decoded.rejected:
        document = batch.documents[rejected.document]
        letters.setdefault(rejected.document, []).append(
            {
                "file": str(batch.path),
                "line": document.line,
                "byte_offset": document.byte_offset,
                "signal": rejected.signal,
                "path": rejected.path,
                "reason": rejected.reason,
                "record": rejected.record,
            }
        )
        field_name = rejected.path.rpartition(".")[2].partition("[")[0]
        summary.rejected[
            f"{field_name}: {rejected.reason} (first at {_place(document)}, {rejected.path})"
            if not any(key.startswith(f"{field_name}: ") for key in summary.rejected)
            else next(key for key in summary.rejected if key.startswith(f"{field_name}: "))
        ] += 1
    summary.warnings.update(decoded.warnings)
    tables, misfits = _settle_units(decoded, lake)
    for number, row_letters in misfits.items():
        letters.setdefault(number, []).extend(
            {"file": str(batch.path), **letter} for letter in row_letters
        )
        for letter in row_letters:
            summary.rejected[str(letter["reason"])] += 1
    for number, own in letters.items():
        dead_letters.write(lake, batch.hashes[number], own)
    snapshots.append(lake, tables, documents=taken, source=str(batch.path))
    summary.rows.update({name: table.num_rows for name, table in tables.items()})
    return batch.file, summary


def _settle_units(
    decoded: Decoded, lake: Path
) -> tuple[dict[str, pa.Table], dict[int, list[dict[str, object]]]]:
    """Put aside metric points whose unit is not the one their metric began with."""
    tables = dict(decoded.tables)
    misfits: dict[int, list[dict[str, object]]] = {}
    for name in METRIC_TABLES:
        table = tables.get(name)
        if table is None:
            continue
        keys = table.select(["service_name", "name", "unit"]).group_by(
            ["service_name", "name", "unit"]
        )
        seen = [tuple(row.values()) for row in keys.aggregate([]).to_pylist()]
        established = snapshots.check_units(lake, seen)
        for service, metric, unit in seen:
            wanted = established[service, metric]
            if unit == wanted:
                continue
            odd = pc.and_(
                pc.and_(pc.equal(table["service_name"], service), pc.equal(table["name"], metric)),
                pc.equal(table["unit"], unit),
            )
            reason = (
                f"metric {metric} of {service} changed its unit from {wanted!r} to {unit!r}; "
                "give the metric a new name, or convert the values before sending"
            )
            rows = table.filter(odd).to_pylist()
            misfits.setdefault(0, []).extend(
                {"signal": "metrics", "reason": reason, "row": row} for row in rows
            )
            table = table.filter(pc.invert(odd))
        tables[name] = table
    return {name: table for name, table in tables.items() if table.num_rows}, misfits


def _place(document: Document) -> str:
    return f"line {document.line}" if document.line else f"byte {document.byte_offset:,}"
