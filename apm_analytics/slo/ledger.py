"""Remember what was stated, so that late data show as a restatement and not as a riddle.

In:  budgets, the hash of the data they come from, the run.
Out: `slo_ledger.json`, written in one step; what a later count of the same minutes changed.
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
    """What was said of an objective and a period, and from which data. Counts are exact."""

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
    """What data that came late changed in a statement."""

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
    """Give the statements, oldest first; none where there is no ledger yet.

    Raises
    ------
    BadInput
        The file is no ledger.
    """
    file = folder / FILE_NAME
    if not file.exists():
        return []
    try:
        return [Statement(**one) for one in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(
            f"{file} is no ledger of statements: {error}; restore it from a backup, "
            "or remove it and lose what was stated before"
        ) from error


def last(statements: Iterable[Statement], budget: Budget) -> Statement | None:
    """Find the latest statement of the same objective and period."""
    same = [
        one
        for one in statements
        if (one.slo, one.objective, one.start, one.end, one.unit)
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
    """Compare a statement with a new count of the same minutes; None when nothing changed."""
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
    """Add statements; one that says the same as the latest of its period is not repeated.

    Raises
    ------
    BadInput
        The file there is no ledger.
    OSError
        The disk is full or the folder not writable; the old ledger stays.
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
        if old is None or _said(old) != _said(new):
            statements.append(new)
    if len(statements) > before:
        text = json.dumps([asdict(one) for one in statements], indent=1)
        write_atomic(folder / FILE_NAME, f"{text}\n".encode())


def _said(statement: Statement) -> tuple[str, ...]:
    return (
        statement.until,
        statement.target,
        statement.total,
        statement.bad,
        statement.excluded_total,
        statement.data_hash,
    )
