"""Import telemetry files into the lake: each document once, the valid records of every file.

In:  files and folders of OTLP or Jaeger JSON, see `ingest.files.framing`.
Out: parts in the lake, dead letters beside them, a summary.
"""

import hashlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from apm_analytics.foundation.errors import ApmError, BadInput
from apm_analytics.ingest.decode.records import LIFTED_BY_EARLIEST, Limits
from apm_analytics.ingest.files import dead_letters, framing, retry
from apm_analytics.ingest.files.batch import Batch, import_batch
from apm_analytics.ingest.files.framing import Document
from apm_analytics.ingest.files.summary import FileSummary, ImportSummary
from apm_analytics.lake import snapshots

__all__ = ["FileSummary", "ImportSummary", "import_files"]

# One batch becomes one snapshot: large enough for good parts, small enough for memory.
BATCH_BYTES = 8 * 1024 * 1024
# Every document becomes objects and may become a dead letter, however small it is.
BATCH_DOCUMENTS = 20_000
# Starting a process costs over a second; less than this is faster without.
INLINE_BYTES = 6 * 1024 * 1024
# Dead letters are never imported as telemetry.
SKIPPED_FOLDERS = (dead_letters.FOLDER,)


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
    paths : files or folders; in a folder, files that are not telemetry are skipped and listed.
    workers : decoding processes; small inputs are decoded in this one.
    earliest : records before it are dead-lettered, 2000-01-01 UTC by default. When given,
        records that an earlier import dead-lettered for their time are imported too.

    Returns
    -------
    A summary with rows, rejected records and errors by file.

    Raises
    ------
    ApmError
        Writing to the lake failed; committed batches stay, the same call continues from there.
    """
    started = time.perf_counter()
    limits = Limits.around_now(earliest)
    targets = list(_targets(paths))
    summaries = [FileSummary(path) for path, _ in targets]
    total = sum(path.stat().st_size for path, _ in targets if path.is_file())
    pool = None
    if workers > 1 and total > INLINE_BYTES:
        # A forked child would inherit the locks of Arrow's threads.
        pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent
        )
    try:
        with tqdm(
            total=total, desc="importing", unit="B", unit_scale=True, disable=not progress
        ) as bar:
            _run(targets, summaries, lake, limits, earliest is not None, pool, workers, bar)
    except BrokenProcessPool as error:
        raise ApmError(
            "a decoding process was killed, most likely because memory ran out; "
            "run the same import again with --workers 1"
        ) from error
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return ImportSummary(lake, summaries, time.perf_counter() - started)


def _end_with_parent() -> None:
    """End this worker process when the importer is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _targets(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield every file, and whether it was found in a folder."""
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                inside = file.relative_to(path).parts
                if file.is_file() and not set(inside) & set(SKIPPED_FOLDERS):
                    yield file, True
        else:
            yield path, False


def _run(
    targets: Sequence[tuple[Path, bool]],
    summaries: list[FileSummary],
    lake: Path,
    limits: Limits,
    lift: bool,
    pool: ProcessPoolExecutor | None,
    workers: int,
    bar: "tqdm[Any]",
) -> None:
    pending: set[Future[tuple[int, FileSummary]]] = set()
    # Documents of submitted batches: a file given twice is not decoded twice.
    under_way: set[str] = set()

    def collect(done: set[Future[tuple[int, FileSummary]]]) -> None:
        for future in done:
            number, part = future.result()
            _merge(summaries[number], part)

    def submit(batch: Batch) -> None:
        nonlocal pending
        fresh = batch.without(under_way)
        if not fresh.documents:
            return
        under_way.update(fresh.hashes)
        if pool is None:
            _merge(summaries[batch.file], import_batch(fresh, lake, limits)[1])
            return
        pending.add(pool.submit(import_batch, fresh, lake, limits))
        # Back-pressure: queued batches are in memory.
        while len(pending) > workers + 1:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            collect(done)

    for number, (path, in_folder) in enumerate(targets):
        summary = summaries[number]
        for batch in _batches(number, path, in_folder, summary, _reporter(bar)):
            known = snapshots.known_documents(lake, batch.hashes)
            summary.documents += len(batch.hashes)
            summary.known_documents += len(known | (under_way & set(batch.hashes)))
            submit(batch.without(known))
            if lift:
                lifted = retry.retry_documents(lake, known, limits, reason=LIFTED_BY_EARLIEST)
                summary.rows.update(lifted.rows)
    done, _ = wait(pending)
    collect(done)


def _reporter(bar: "tqdm[Any]") -> Callable[[int], None]:
    """Return a function that moves the bar to a position within one file."""
    before = bar.n

    def report(position: int) -> None:
        # A file that is read again (a large JSON document) does not move the bar back.
        bar.update(max(0, before + position - bar.n))

    return report


def _batches(
    number: int,
    path: Path,
    in_folder: bool,
    summary: FileSummary,
    report: Callable[[int], None],
) -> Iterator[Batch]:
    """Yield a file in batches; errors go into its summary."""
    documents: list[Document] = []
    size = 0
    try:
        for document in framing.documents(path, report):
            documents.append(document)
            size += len(document.content)
            if size >= BATCH_BYTES or len(documents) >= BATCH_DOCUMENTS:
                yield _batch(number, path, documents)
                documents, size = [], 0
    except BadInput as error:
        if in_folder and not documents and not summary.documents:
            summary.skipped = str(error)
        else:
            summary.errors.append(str(error))
    if documents:
        yield _batch(number, path, documents)


def _batch(number: int, path: Path, documents: list[Document]) -> Batch:
    hashes = (hashlib.blake2b(d.content, digest_size=16).hexdigest() for d in documents)
    # A document repeated within a batch is one document.
    unique = dict(zip(hashes, documents, strict=True))
    return Batch(number, path, tuple(unique.values()), tuple(unique))


def _merge(whole: FileSummary, part: FileSummary) -> None:
    whole.rows.update(part.rows)
    whole.rejected.update(part.rejected)
    whole.warnings.update(part.warnings)
    whole.errors.extend(part.errors)
