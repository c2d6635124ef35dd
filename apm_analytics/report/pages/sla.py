"""Write the SLA report: targets, attainment, and the data behind the figures.

In:  a lake, specs/slos, specs/calendar.yaml, the ledger of earlier statements.
Out: a table, CSV, JSON, or one self-contained HTML file that a contract manager can sign.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

import polars as pl

from apm_analytics.alerts.prometheus import slo_rules
from apm_analytics.foundation import settings
from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadParameter, NotFound
from apm_analytics.foundation.provenance import Provenance, current_provenance
from apm_analytics.lake import answers, query, snapshots
from apm_analytics.report.pages import sla_html
from apm_analytics.signals import calendar
from apm_analytics.slo import Budget, Given, Limits, Slo, SloReport, ledger, reports, tables
from apm_analytics.slo import specs as slo_specs
from apm_analytics.traces import waterfall
from apm_analytics.transactions import Hours, Transaction, instances
from apm_analytics.transactions import specs as transactions_specs

FOLDER = "slos"
LEDGER = "slo"  # in `out`
NAME = "sla"  # of the files in a release
DRAWN = 2  # traces per SLO


@dataclass(frozen=True)
class Sla:
    """Reports with their provenance and the waterfalls of the worst traces."""

    reports: list[SloReport]
    provenance: Provenance
    waterfalls: dict[str, pl.DataFrame]  # trace id -> rows of `traces.waterfall.waterfall`
    min_events: int


def check(specs: Path | None = None) -> list[str]:
    """Check the SLOs and what they refer to; return one line per SLO.

    Raises
    ------
    BadParameter, NotFound
        A spec is missing or wrong; with file and line.
    """
    folder = specs or settings.load().workspace / "specs"
    slos = slo_specs.load(folder / FOLDER, transactions=_names(_transactions(folder)[0]))
    _calendar(folder)
    problems = slo_rules.check_conditions(slos) + slo_rules.check_names(slos)
    if problems:
        raise BadParameter("\n".join(problems))
    return [
        f"{slo.name}: {slo.method}, "
        + ", ".join(f"{one.name} {tables.exact(one.target)}" for one in slo.objectives)
        for slo in slos
    ]


def collect(
    lake: Path,
    out: Path,
    *,
    specs: Path | None = None,
    names: Sequence[str] = (),
    month: str | None = None,
    what_if: Sequence[str] = (),
    run_id: str | None = None,
) -> Sla:
    """Measure the SLOs of the workspace on a lake.

    Parameters
    ----------
    lake : folder of the lake.
    out : folder with the ledger of statements, in `slo/`.
    specs : folder with `slos/` and `calendar.yaml`; by default the workspace's.
    names : only these SLOs; all when empty.
    month : "2026-03" in the contract's time zone; by default each SLO's current window.
    what_if : alternative targets, such as "0.999".
    run_id : of the reporting run; by default a new one.

    Raises
    ------
    NotFound
        No lake, no SLOs, or no SLO of that name.
    BadParameter
        A spec, month or target is wrong.
    NotEnoughData
        The lake has no span.
    """
    configured = settings.load()
    folder = specs or configured.workspace / "specs"
    transactions, hours = _transactions(folder)
    slos = slo_specs.load(folder / FOLDER, transactions=_names(transactions))
    slos = _chosen(slos, names)
    counted = {source[2] for slo in slos for source in slo.sources}
    transactions = [one for one in transactions if one.name in counted]
    targets = [_target(text) for text in what_if]
    limits = configured.params.slo
    given = Given(
        limits=Limits(limits.min_events, limits.min_slice_events),
        max_gap_s=limits.max_gap_s,
        calendar=_calendar(folder),
        stated=ledger.read(out / LEDGER),
        services={one.name: one.services for one in transactions},
    )
    with query.connect(lake) as con:
        measured = reports(
            con,
            slos,
            given,
            instances=lambda since, until: (
                instances.gather(
                    con,
                    transactions,
                    hours,
                    since=since,
                    until=until,
                    timeout_s=configured.trace_timeout_s,
                ).counted
            ),
            month=month,
            what_if=targets,
        )
        drawn = {trace: waterfall.waterfall(con, trace) for trace in _worst(measured)}
    provenance = current_provenance(configured.workspace, snapshots.data_hash(lake), run_id)
    return Sla(measured, provenance, drawn, limits.min_events)


def state(sla: Sla, out: Path) -> None:
    """Add the statements of a report to the ledger, so that later reports can show changes."""
    ledger.add(
        out / LEDGER,
        tables.stated(sla.reports),
        stated_at=datetime.now(UTC),
        data_hash=sla.provenance.data_hash,
        run_id=sla.provenance.run_id,
    )


def publish(
    lake: Path, derived: Path, release: Path, *, specs: Path, month: str = "", run_id: str
) -> Sla:
    """Measure, write `sla.html` and `sla.csv` into a release, and add to the ledger.

    The ledger is beside `derived`, in `slo/`, where `apm slo report` looks for it.

    Raises
    ------
    NotFound, BadParameter, NotEnoughData
        As `collect`.
    """
    out = derived.parent
    sla = collect(lake, out, specs=specs, month=month or None, run_id=run_id)
    write_atomic(release / f"{NAME}.html", render(sla, "html"))
    write_atomic(release / f"{NAME}.csv", render(sla, "csv"))
    state(sla, out)
    return sla


def render(sla: Sla, form: str) -> bytes:
    """Render a report as `table`, `csv`, `json` or `html`."""
    if form == "html":
        return sla_html.page(
            sla.reports,
            sla.provenance,
            {report.slo.name: _notes(report) for report in sla.reports},
            sla.waterfalls,
            min_events=sla.min_events,
        )
    return {"table": as_table, "csv": as_csv, "json": as_json}[form](sla)


def insufficient(sla: Sla) -> int:
    """Count the insufficient objectives."""
    return sum(bool(one.reason) for report in sla.reports for one in report.budgets)


def as_table(sla: Sla) -> bytes:
    """Render budgets, burn rates and notes for a terminal."""
    shown = tables.budgets(sla.reports).select(
        "slo", "objective", "unit", "total", "bad", "target", "attainment", "verdict",
        "budget_left", "budget_consumed",
    )  # fmt: skip
    burn = tables.burns(sla.reports)
    parts = [answers.as_text(shown)]
    if not burn.is_empty():
        rate = pl.col("burn_rate").round(2).cast(pl.String).fill_null("few")
        wide = burn.with_columns(rate).pivot(
            "window", index=["slo", "objective"], values="burn_rate"
        )
        parts += [
            "burn rates (1 spends the budget exactly in its period; few: too few requests)",
            answers.as_text(wide),
        ]
    if any(report.what_if for report in sla.reports):
        other = tables.what_if(sla.reports).select(
            "slo", "objective", "target", "attainment", "verdict", "budget_left", "budget_consumed"
        )
        parts += ["with other targets", answers.as_text(other)]
    return ("\n".join([*parts, *notes(sla)]) + "\n").encode()


def as_csv(sla: Sla) -> bytes:
    """Render one line per objective with the data behind its figures; counts are exact."""
    rows = [_row(report, one, sla.provenance) for report in sla.reports for one in report.budgets]
    sink = io.BytesIO()
    pl.DataFrame(rows, infer_schema_length=None).write_csv(sink)
    return sink.getvalue()


def as_json(sla: Sla) -> bytes:
    """Render the rows of the CSV with burn rates, gaps, violations and restatements."""
    content = {
        "budgets": [
            _row(report, one, sla.provenance) for report in sla.reports for one in report.budgets
        ],
        **{
            name: frame.to_dicts()
            for name, frame in (
                ("burns", tables.burns(sla.reports)),
                ("what_if", tables.what_if(sla.reports)),
                ("exclusions", tables.exclusions(sla.reports)),
                ("gaps", tables.gaps(sla.reports)),
                ("restatements", tables.restatements(sla.reports)),
                ("violations", tables.violations(sla.reports)),
            )
        },
        "notes": notes(sla),
    }
    return json.dumps(content, indent=1, default=_plain).encode() + b"\n"


def notes(sla: Sla) -> list[str]:
    """Return sentences that a reader needs beside the figures."""
    return [
        f"{report.slo.name}: {sentence}" for report in sla.reports for sentence in _notes(report)
    ]


def _notes(report: SloReport) -> list[str]:
    sentences = [
        f"{budget.objective}: insufficient: {budget.reason}"
        for budget in report.budgets
        if budget.reason
    ]
    data = report.completeness
    if not data.whole:
        sentences.append(f"the data cover {data.covered:.1%} of the period so far")
    if data.sampled:
        share = data.sampled / data.spans
        sentences.append(f"{share:.1%} of the spans are sampled and count with their weight")
    if report.until < report.end:
        sentences.append(f"the period is open and ends {report.end:%Y-%m-%d %H:%M} UTC")
    for entry in report.maintenance:
        sentences.append(
            f"{entry.name} ({entry.start:%Y-%m-%d %H:%M} to {entry.end:%Y-%m-%d %H:%M} UTC) "
            "is maintenance and does not count"
        )
    for one in report.restatements:
        sentences.append(
            f"{one.objective}: restated. On {one.stated_at:%Y-%m-%d %H:%M} UTC run "
            f"{one.run_id} counted {tables.exact(one.bad_before)} bad of "
            f"{tables.exact(one.total_before)}; with late data it is "
            f"{tables.exact(one.bad_now)} of {tables.exact(one.total_now)}"
        )
    return sentences


def _worst(reports: Sequence[SloReport]) -> list[str]:
    """Return the traces to draw: the first violations of each SLO."""
    ids = [
        trace
        for report in reports
        for trace in report.violations["trace_id"].to_list()[:DRAWN]
        if trace is not None
    ]
    return list(dict.fromkeys(ids))


def _row(report: SloReport, one: Budget, provenance: Provenance) -> dict[str, object]:
    data = report.completeness
    return {
        "slo": one.slo,
        "objective": one.objective,
        "service": report.slo.service,
        "method": report.slo.method,
        "period_start_utc": one.start.isoformat(),
        "measured_until_utc": one.until.isoformat(),
        "period_end_utc": one.end.isoformat(),
        "time_zone": report.slo.window.zone,
        "unit": one.unit,
        "total": tables.exact(one.total),
        "bad": tables.exact(one.bad),
        "target": tables.exact(one.target),
        "attainment": None if one.attainment is None else f"{one.attainment:.9f}",
        "verdict": one.verdict,
        "reason": one.reason or None,
        "budget": tables.exact(one.allowed),
        "budget_left": None if one.left is None else tables.exact(one.left),
        "excluded_total": tables.exact(one.excluded_total),
        "excluded_bad": tables.exact(one.excluded_bad),
        "unmeasured_slices": one.unmeasured,
        "data_covered": round(data.covered, 6),
        "gaps": len(data.gaps),
        "sampled_spans": data.sampled,
        "restated": any(again.objective == one.objective for again in report.restatements),
        "git_commit": provenance.git_commit,
        "data_hash": provenance.data_hash,
        "run_id": provenance.run_id,
    }


def _chosen(slos: list[Slo], names: Sequence[str]) -> list[Slo]:
    known = [slo.name for slo in slos]
    for name in names:
        if name not in known:
            raise NotFound(f"no SLO {name!r}; there are: {', '.join(known)}")
    return [slo for slo in slos if not names or slo.name in names]


def _names(business: Sequence[Transaction]) -> frozenset[str]:
    return frozenset(one.name for one in business)


def _transactions(folder: Path) -> tuple[list[Transaction], dict[str, Hours]]:
    if not (folder / transactions_specs.FILE_NAME).exists():
        return [], {}
    return transactions_specs.load(folder)


def _target(text: str) -> Decimal:
    try:
        target = Decimal(text)
    except InvalidOperation:
        target = Decimal("nan")
    if not target.is_finite():
        raise BadParameter(f"got the target {text!r}, needs a number such as 0.999")
    return target


def _calendar(folder: Path) -> calendar.Calendar:
    if not (folder / calendar.FILE_NAME).exists():
        return calendar.Calendar()
    return calendar.load(folder)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
