"""Say what became of an import.

In:  counts and errors by file.
Out: a few lines a person can read.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from apm_analytics.ingest import dead_letters


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
