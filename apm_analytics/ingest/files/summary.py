"""Summarise an import.

In:  counts and errors by file.
Out: a few lines for people.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apm_analytics.ingest.files import dead_letters

# With more files than this, files without rejections, warnings or errors are only counted.
NAMED_FILES = 10


@dataclass
class FileSummary:
    """The counts and errors of one file."""

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
        """Whether it has rejections, warnings or errors, or was skipped."""
        return bool(self.rejected or self.warnings or self.errors or self.skipped)


@dataclass
class ImportSummary:
    """The summaries of all files of an import."""

    lake: Path
    files: list[FileSummary]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every file was read to its end and every document decoded."""
        return not any(file.errors for file in self.files)

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        lines = []
        smooth = [file for file in self.files if not file.odd]
        if len(smooth) > NAMED_FILES:
            lines.append(_counts(f"{len(smooth):,} files", smooth))
        for file in self.files:
            if file.skipped:
                lines.append(f"{file.path}: skipped, {file.skipped}")
                continue
            if not file.odd and len(smooth) > NAMED_FILES:
                continue
            lines.append(_counts(str(file.path), [file]))
            lines += [
                f"  rejected {count:,}: {reason}" for reason, count in file.rejected.most_common(10)
            ]
            lines += [f"  note {count:,}x: {text}" for text, count in file.warnings.most_common(10)]
            lines += [f"  ERROR {error}" for error in file.errors]
        if any(file.rejected or file.errors for file in self.files):
            lines.append(f"what was not taken is kept in {self.lake / dead_letters.FOLDER}")
        total = sum(sum(file.rows.values()) for file in self.files)
        lines.append(f"{total:,} rows in {self.seconds:.1f} s")
        return lines


def _counts(label: str, files: Sequence[FileSummary]) -> str:
    rows: Counter[str] = Counter()
    for file in files:
        rows.update(file.rows)
    shown = ", ".join(f"{count:,} {table}" for table, count in sorted(rows.items()))
    known = sum(file.known_documents for file in files)
    already = f", {known:,} known already" if known else ""
    documents = sum(file.documents for file in files)
    return f"{label}: {shown or 'nothing new'} ({documents:,} documents{already})"
