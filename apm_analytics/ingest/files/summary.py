"""Say what became of an import.

In:  counts and errors by file.
Out: a few lines a person can read.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apm_analytics.ingest.files import dead_letters

# Of more files than this, only those are named with which something was odd.
NAMED_FILES = 10


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

    @property
    def odd(self) -> bool:
        """Whether there is more to say of it than how many rows came in."""
        return bool(self.rejected or self.warnings or self.errors or self.skipped)


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
        smooth = [file for file in self.files if not file.odd]
        if len(smooth) > NAMED_FILES:
            said.append(_counts(f"{len(smooth):,} files", smooth))
        for file in self.files:
            if file.skipped:
                said.append(f"{file.path}: skipped, {file.skipped}")
                continue
            if not file.odd and len(smooth) > NAMED_FILES:
                continue
            said.append(_counts(str(file.path), [file]))
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


def _counts(label: str, files: Sequence[FileSummary]) -> str:
    rows: Counter[str] = Counter()
    for file in files:
        rows.update(file.rows)
    told = ", ".join(f"{count:,} {table}" for table, count in sorted(rows.items()))
    known = sum(file.known_documents for file in files)
    already = f", {known:,} known already" if known else ""
    documents = sum(file.documents for file in files)
    return f"{label}: {told or 'nothing new'} ({documents:,} documents{already})"
