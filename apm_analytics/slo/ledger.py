"""Keep a ledger of stated budgets, so that changes by late data become visible restatements.

In:  budgets, the hash of the data they come from, the run.
Out: `slo_ledger.json`, replaced atomically; what a later count of the same minutes changed.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadInput
from apm_analytics.slo.budget import Budget

FILE_NAME = "slo_ledger.json"


@dataclass(frozen=True)
class Statement:
    """One stated budget of an objective and period, with its data. Counts are exact."""

    slo: str
    objective: str
    start: str
    until: str
    end: str
    target: str
    unit: str
    total: str
    bad: str
    excluded_total: str
    stated_at: str
    data_hash: str
    run_id: str


@dataclass(frozen=True)
class Restatement:
    """How late data changed a statement."""

    slo: str
    objective: str
    stated_at: datetime
    until: datetime
    run_id: str
    data_hash: str
    total_before: Decimal
    total_now: Decimal
    bad_before: Decimal
    bad_now: Decimal


def read(folder: Path) -> list[Statement]:
    """Return the statements, oldest first; none when there is no ledger yet.

    Raises
    ------
    BadInput
        The file is not a ledger.
    """
    file = folder / FILE_NAME
    if not file.exists():
        return []
    try:
        return [Statement(**fields) for fields in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(
            f"{file} is not a ledger of statements: {error}; restore it from a backup, "
            "or remove it, which loses the earlier statements"
        ) from error


def last(statements: Iterable[Statement], budget: Budget) -> Statement | None:
    """Return the latest statement of the same objective and period, or None."""
    same = [
        statement
        for statement in statements
        if (
            statement.slo,
            statement.objective,
            statement.start,
            statement.end,
            statement.unit,
        )
        == (
            budget.slo,
            budget.objective,
            budget.start.isoformat(),
            budget.end.isoformat(),
            budget.unit,
        )
    ]
    return same[-1] if same else None


def restated(before: Statement, now: Budget) -> Restatement | None:
    """Compare a statement with a new count of the same minutes; return None if they agree."""
    then = Decimal(before.total), Decimal(before.bad)
    if then == (now.total, now.bad):
        return None
    return Restatement(
        slo=before.slo,
        objective=before.objective,
        stated_at=datetime.fromisoformat(before.stated_at),
        until=datetime.fromisoformat(before.until),
        run_id=before.run_id,
        data_hash=before.data_hash,
        total_before=then[0],
        total_now=now.total,
        bad_before=then[1],
        bad_now=now.bad,
    )


def add(
    folder: Path, budgets: Iterable[Budget], *, stated_at: datetime, data_hash: str, run_id: str
) -> None:
    """Add statements, except those equal to the latest one of their period.

    Raises
    ------
    BadInput
        The existing file is not a ledger.
    OSError
        The disk is full or the folder not writable; the old ledger is kept.
    """
    statements = read(folder)
    before = len(statements)
    for budget in budgets:
        new = Statement(
            slo=budget.slo,
            objective=budget.objective,
            start=budget.start.isoformat(),
            until=budget.until.isoformat(),
            end=budget.end.isoformat(),
            target=str(budget.target),
            unit=budget.unit,
            total=str(budget.total),
            bad=str(budget.bad),
            excluded_total=str(budget.excluded_total),
            stated_at=stated_at.isoformat(timespec="seconds"),
            data_hash=data_hash,
            run_id=run_id,
        )
        old = last(statements, budget)
        if old is None or _content(old) != _content(new):
            statements.append(new)
    if len(statements) > before:
        text = json.dumps([asdict(statement) for statement in statements], indent=1)
        write_atomic(folder / FILE_NAME, f"{text}\n".encode())


def _content(statement: Statement) -> tuple[str, ...]:
    return (
        statement.until,
        statement.target,
        statement.total,
        statement.bad,
        statement.excluded_total,
        statement.data_hash,
    )
