"""Write rows as immutable Parquet parts: sorted by time, zstd, with statistics for pruning.

In:  an Arrow table with the columns of one lake table, or a stream of them in order of time.
Out: temporary files, one per part, each with the `Part` that it becomes by a rename.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apm_analytics.foundation.atomic import sync_folder
from apm_analytics.lake.manifest import Part
from apm_analytics.lake.parquet.files import FileWriter
from apm_analytics.lake.schema import TABLES

NS_PER_HOUR = 3_600 * 10**9
# A part ends with the first hour that brings it to this many rows (docs/decisions/0003).
ROWS_A_PART = 50_000
# Enough to compress well; a row group of spans takes about 30 MB in memory.
ROWS_A_GROUP = 64 * 1024
# Readers prune by these. Statistics on all columns would cost as much as writing them.
STATISTICS = frozenset(
    {"time", "duration_ns", "service_name", "trace_id", "name", "status_code", "trace_state"}
)
# Values that hardly repeat: a dictionary would only add bytes.
NO_DICTIONARY = frozenset({"trace_id", "span_id", "parent_span_id", "time", "duration_ns"})

# Key of the `Facts` in the footer.
FACTS = "apm.part"
UNSEALED = "0" * 64

Written = tuple[Path, Part]


@dataclass(frozen=True)
class Facts:
    """What a part says about itself in its footer, for `apm lake rebuild`.

    Parameters
    ----------
    commit : name that all parts of one commit share.
    number : number of the part in its commit, from 0.
    last : whether it is the last part of its commit.
    documents : hashes of the documents that the commit imports; in its first part only.
    source : where the rows came from.
    replaces : paths of the parts that the commit replaces.
    replaced_before : paths of parts that those replaced and whose files were still there.
    origin : see `Part`; empty for the part's own hash.
    level, resolution_s : see `Part`.
    sha256 : hash of the file with `UNSEALED` in place of this hash.
    """

    commit: str
    number: int = 0
    last: bool = True
    documents: tuple[str, ...] = ()
    source: str = ""
    replaces: tuple[str, ...] = ()
    replaced_before: tuple[str, ...] = ()
    origin: str = ""
    level: int = 0
    resolution_s: int = 0
    sha256: str = UNSEALED

    def numbered(self, number: int, *, last: bool) -> "Facts":
        """Return the facts of one part of the commit."""
        documents = () if number else self.documents
        return replace(self, number=number, last=last, documents=documents)

    def stored(self) -> dict[str, str]:
        """Return the metadata for the footer."""
        filled = {name: value for name, value in asdict(self).items() if value or name == "last"}
        return {FACTS: json.dumps(filled)}

    @classmethod
    def of(cls, metadata: dict[bytes, bytes] | None) -> "Facts | None":
        """Return what `stored` put into a footer; None for a part of an earlier version."""
        stored = (metadata or {}).get(FACTS.encode())
        if stored is None:
            return None
        filled = json.loads(stored)
        for name in ("documents", "replaces", "replaced_before"):
            filled[name] = tuple(filled.get(name, ()))
        return cls(**filled)


def read_facts(file: Path) -> Facts | None:
    """Return what a part says about itself; None if it is damaged or of an earlier version."""
    try:
        return Facts.of(pq.read_metadata(file).metadata)
    except (OSError, pa.ArrowException, ValueError, TypeError):
        return None


class PartWriter:
    """Writer of one part: takes tables in order of time, `finish` returns the part.

    An error inside its `with` block removes the temporary file.

    Parameters
    ----------
    start_ns : time of the first row, which decides the folder.
    rows : upper bound of the number of rows; it sizes the Bloom filter.
    """

    def __init__(self, lake: Path, table_name: str, name: str, start_ns: int, rows: int) -> None:
        start = datetime.fromtimestamp(start_ns // NS_PER_HOUR * 3_600, UTC)
        self._lake = lake
        self._table_name = table_name
        folder = lake / table_name / f"date={start:%Y-%m-%d}" / f"hour={start:%H}"
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            for parent in folder.parents[:3]:
                sync_folder(parent)
        self._file = folder / f"{name}.parquet"
        # The leading dot hides it from engines that glob for Parquet files.
        self._temporary = folder / f".{name}.{os.getpid()}.tmp"
        self._ids = max(min(rows, ROWS_A_GROUP), 1)
        self._sink = _HashingFile(self._temporary)
        self._writer: FileWriter | None = None
        self.rows = self._groups = 0
        self._times_ns = (0, 0)

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.discard()

    def discard(self) -> None:
        """Remove the temporary file."""
        self._sink.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, rows: pa.Table) -> None:
        """Add one or more rows, none older than those before."""
        # Equal groups, instead of a full one and one of a few rows.
        groups = max(round(rows.num_rows / ROWS_A_GROUP), 1)
        size = -(-rows.num_rows // groups)
        for start in range(0, rows.num_rows, size):
            self.write_columns(self._groups, rows.slice(start, size))

    def write_columns(self, group: int, rows: pa.Table) -> None:
        """Add some columns of a row group; see `FileWriter.write_columns`."""
        if self._writer is None:
            self._writer = FileWriter(
                self._sink.write,
                TABLES[self._table_name],
                statistics=STATISTICS,
                without_dictionary=NO_DICTIONARY,
                bloom_filters={"trace_id": self._ids},
            )
        self._writer.write_columns(group, rows)
        if "time" in rows.column_names:
            first_ns, last_ns = rows["time"][0].value, rows["time"][-1].value
            self._times_ns = (self._times_ns[0] if self._groups else first_ns, last_ns)
            self.rows += rows.num_rows
            self._groups += 1

    def _sealed(self, footer: bytes) -> bytes:
        """Return the footer with the hash of all rows and itself."""
        return footer.replace(UNSEALED.encode(), self._sink.sha256_with(footer).encode(), 1)

    def finish(self, facts: Facts) -> Written:
        """Sync the file to the disk; return the temporary file and the part that it becomes."""
        assert self._writer is not None, "a part without rows"
        self._writer.close(replace(facts, sha256=UNSEALED).stored(), self._sealed)
        sha256 = self._sink.finish()
        part = Part(
            path=str(self._file.relative_to(self._lake)),
            table=self._table_name,
            rows=self.rows,
            bytes=self._sink.size,
            first_time_ns=self._times_ns[0],
            last_time_ns=self._times_ns[1],
            sha256=sha256,
            origin=facts.origin or sha256,
            level=facts.level,
            resolution_s=facts.resolution_s,
        )
        return self._temporary, part


def write_parts(
    lake: Path, table_name: str, table: pa.Table, name: str, facts: Facts
) -> Iterator[Written]:
    """Yield one temporary file per part, with the part that it becomes.

    Parameters
    ----------
    facts : of the first part; its `last` is whether the commit ends with this table.
    """
    if not table.num_rows:
        return
    table = in_order(table)
    times_ns = _times_ns(table)
    starts = _part_starts(times_ns // NS_PER_HOUR)
    stops = [*starts[1:], len(times_ns)]
    for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        rows = table.slice(start, stop - start)
        with PartWriter(lake, table_name, name, int(times_ns[start]), rows.num_rows) as part:
            part.write(rows)
            last = facts.last and stop == len(times_ns)
            written = part.finish(facts.numbered(facts.number + number, last=last))
        yield written


def put_in_place(lake: Path, written: Iterable[Written]) -> None:
    """Rename temporary files to their parts, durably even if the power fails."""
    folders: set[Path] = set()
    for temporary, part in written:
        file = lake / part.path
        os.replace(temporary, file)
        folders.add(file.parent)
    for folder in folders:
        sync_folder(folder)


def sum_of_origins(parts: Iterable[Part]) -> str:
    """Return the sum of the parts' origins, which neither order nor merging changes."""
    return f"{sum(int(part.origin, 16) for part in parts) % 2**256:064x}"


def in_order(table: pa.Table) -> pa.Table:
    """Return the rows sorted by time."""
    if np.all(np.diff(_times_ns(table)) >= 0):
        return table
    order = pc.sort_indices(table, sort_keys=[("time", "ascending")])
    # Columns of nulls only, which are half of all, need no reordering.
    full = [name for name in table.column_names if table[name].null_count < len(table)]
    ordered = table.select(full).take(order)
    columns = [ordered[name] if name in full else table[name] for name in table.column_names]
    return pa.table(columns, schema=table.schema)


def _times_ns(table: pa.Table) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    times: np.ndarray[tuple[int], np.dtype[np.int64]] = table["time"].cast(pa.int64()).to_numpy()
    return times


def _part_starts(hours: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[int]:
    """Return the first row of each part: a part ends with its day, or with an hour once full."""
    starts: list[int] = []
    for first in np.flatnonzero(np.diff(hours, prepend=hours[:1] - 1)).tolist():
        new_day = not starts or hours[first] // 24 != hours[starts[-1]] // 24
        if new_day or first - starts[-1] >= ROWS_A_PART:
            starts.append(first)
    return starts


class _HashingFile:
    """A file that is hashed while it is written."""

    def __init__(self, file: Path) -> None:
        self._file = open(file, "wb", buffering=0)  # noqa: SIM115
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self.size += len(data)
        left = memoryview(data)
        while left:  # the system may write only part of it
            left = left[self._file.write(left) :]

    def sha256_with(self, more: bytes) -> str:
        """Return the hash of what was written so far and some more bytes."""
        digest = self._digest.copy()
        digest.update(more)
        return digest.hexdigest()

    def finish(self) -> str:
        """Sync the file to the disk, close it, and return its SHA-256."""
        os.fdatasync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()
