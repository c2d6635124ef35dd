"""The SLA report: what was promised, what came of it, and what the figures rest on.

In:  a lake, specs/slos, specs/calendar.yaml, the ledger of earlier statements.
Out: a table, CSV, JSON, or one offline HTML file that a contract manager can sign off.
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
from apm_analytics.slo import ledger
from apm_analytics.slo import specs as slo_specs
from apm_analytics.slo import tables as slo_tables
from apm_analytics.slo.budget import Budget, Limits
from apm_analytics.slo.model import Slo
from apm_analytics.slo.report import Given, SloReport, reports
from apm_analytics.traces import waterfall
from apm_analytics.transactions import instances
from apm_analytics.transactions import specs as transactions_specs
from apm_analytics.transactions.hours import Hours
from apm_analytics.transactions.specs import Transaction

FOLDER = "slos"
LEDGER = "slo"  # in `out`
NAME = "sla"  # of the files in a release
DRAWN = 2  # traces an SLO


@dataclass(frozen=True)
class Sla:
    """Reports with what they can be traced back to."""

    reports: list[SloReport]
    provenance: Provenance
    waterfalls: dict[str, pl.DataFrame]  # trace id -> rows of `traces.waterfall.waterfall`
    min_events: int


def check(specs: Path | None = None) -> list[str]:
    """Check the SLOs and what they refer to; give a line an SLO.

    Raises
    ------
    BadParameter, NotFound
        What does not fit, with file and line.
    """
    folder = specs or settings.load().workspace / "specs"
    slos = slo_specs.load(folder / FOLDER, transactions=_names(_transactions(folder)[0]))
    _calendar(folder)
    wrong = slo_rules.check_conditions(slos)
    if wrong:
        raise BadParameter("\n".join(wrong))
    return [
        f"{slo.name}: {slo.method}, "
        + ", ".join(f"{one.name} {slo_tables.exact(one.target)}" for one in slo.objectives)
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
    out : where the ledger of statements lies, in `slo/`.
    specs : folder with `slos/` and `calendar.yaml`; by default the workspace's.
    names : only these SLOs; all when empty.
    month : "2026-03" in the contract's time zone; by default each SLO's present window.
    what_if : other targets, such as "0.999".
    run_id : of the run that reports; a new one when left out.

    Raises
    ------
    NotFound
        No lake, no SLOs, or none of that name.
    BadParameter
        A spec that does not fit, a month or target that is none.
    NotEnoughData
        The lake has no span.
    """
    known = settings.load()
    folder = specs or known.workspace / "specs"
    business, hours = _transactions(folder)
    slos = slo_specs.load(folder / FOLDER, transactions=_names(business))
    slos = _chosen(slos, names)
    asked = {source[2] for slo in slos for source in slo.sources}
    business = [one for one in business if one.name in asked]
    targets = [_target(text) for text in what_if]
    limits = known.params.slo
    given = Given(
        limits=Limits(limits.min_events, limits.min_slice_events),
        max_gap_s=limits.max_gap_s,
        calendar=_calendar(folder),
        stated=ledger.read(out / LEDGER),
        services={one.name: one.services for one in business},
    )
    with query.connect(lake) as con:
        found = reports(
            con,
            slos,
            given,
            instances=lambda since, until: (
                instances.gather(
                    con,
                    business,
                    hours,
                    since=since,
                    until=until,
                    timeout_s=known.trace_timeout_s,
                ).counted
            ),
            month=month,
            what_if=targets,
        )
        drawn = {trace: waterfall.waterfall(con, trace) for trace in _worst(found)}
    provenance = current_provenance(known.workspace, snapshots.data_hash(lake), run_id)
    return Sla(found, provenance, drawn, limits.min_events)


def state(sla: Sla, out: Path) -> None:
    """Keep what a report says in the ledger, so that a later one can tell what changed."""
    ledger.add(
        out / LEDGER,
        slo_tables.stated(sla.reports),
        stated_at=datetime.now(UTC),
        data_hash=sla.provenance.data_hash,
        run_id=sla.provenance.run_id,
    )


def publish(
    lake: Path, derived: Path, release: Path, *, specs: Path, month: str = "", run_id: str
) -> Sla:
    """Measure, write `sla.html` and `sla.csv` into a release, and keep what they say.

    The ledger lies beside `derived`, in `slo/`, where `apm slo report` looks for it.

    Raises
    ------
    NotFound, BadParameter, NotEnoughData
        As `collect`.
    """
    out = derived.parent
    found = collect(lake, out, specs=specs, month=month or None, run_id=run_id)
    write_atomic(release / f"{NAME}.html", render(found, "html"))
    write_atomic(release / f"{NAME}.csv", render(found, "csv"))
    state(found, out)
    return found


def render(sla: Sla, form: str) -> bytes:
    """Give a report as `table`, `csv`, `json` or `html`."""
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
    """Count the objectives of which nothing can be said."""
    return sum(bool(one.reason) for report in sla.reports for one in report.budgets)


def as_table(sla: Sla) -> bytes:
    """Draw what a terminal can show: budgets, burn rates, what to know about them."""
    shown = slo_tables.budgets(sla.reports).select(
        "slo", "objective", "unit", "total", "bad", "target", "attainment", "verdict",
        "budget_left", "budget_consumed",
    )  # fmt: skip
    burn = slo_tables.burns(sla.reports)
    parts = [answers.as_text(shown)]
    if not burn.is_empty():
        said = pl.col("burn_rate").round(2).cast(pl.String).fill_null("few")
        wide = burn.with_columns(said).pivot(
            "window", index=["slo", "objective"], values="burn_rate"
        )
        parts += [
            "burn rates (1 spends the budget exactly in its period; few: too few to say)",
            answers.as_text(wide),
        ]
    if any(report.what_if for report in sla.reports):
        other = slo_tables.what_if(sla.reports).select(
            "slo", "objective", "target", "attainment", "verdict", "budget_left", "budget_consumed"
        )
        parts += ["if the target were", answers.as_text(other)]
    return ("\n".join([*parts, *notes(sla)]) + "\n").encode()


def as_csv(sla: Sla) -> bytes:
    """Give one line an objective with everything that its figures rest on; counts are exact."""
    rows = [_row(report, one, sla.provenance) for report in sla.reports for one in report.budgets]
    sink = io.BytesIO()
    pl.DataFrame(rows, infer_schema_length=None).write_csv(sink)
    return sink.getvalue()


def as_json(sla: Sla) -> bytes:
    """Give the same as the CSV, with burn rates, gaps, violations and restatements."""
    content = {
        "budgets": [
            _row(report, one, sla.provenance) for report in sla.reports for one in report.budgets
        ],
        **{
            name: frame.to_dicts()
            for name, frame in (
                ("burns", slo_tables.burns(sla.reports)),
                ("what_if", slo_tables.what_if(sla.reports)),
                ("exclusions", slo_tables.exclusions(sla.reports)),
                ("gaps", slo_tables.gaps(sla.reports)),
                ("restatements", slo_tables.restatements(sla.reports)),
                ("violations", slo_tables.violations(sla.reports)),
            )
        },
        "notes": notes(sla),
    }
    return json.dumps(content, indent=1, default=_plain).encode() + b"\n"


def notes(sla: Sla) -> list[str]:
    """Say in sentences what a reader must know beside the figures."""
    return [
        f"{report.slo.name}: {sentence}" for report in sla.reports for sentence in _notes(report)
    ]


def _notes(report: SloReport) -> list[str]:
    said = [f"{one.objective}: insufficient: {one.reason}" for one in report.budgets if one.reason]
    data = report.completeness
    if not data.whole:
        said.append(f"the data cover {data.covered:.1%} of the period so far")
    if data.sampled:
        share = data.sampled / data.spans
        said.append(f"{share:.1%} of the spans are sampled and count by their weight")
    if report.until < report.end:
        said.append(f"the period ends {report.end:%Y-%m-%d %H:%M} UTC and is open")
    for entry in report.maintenance:
        said.append(
            f"{entry.name} ({entry.start:%Y-%m-%d %H:%M} to {entry.end:%Y-%m-%d %H:%M} UTC) "
            "is maintenance and does not count"
        )
    for one in report.restatements:
        said.append(
            f"{one.objective}: restated. On {one.stated_at:%Y-%m-%d %H:%M} UTC run "
            f"{one.run_id} counted {slo_tables.exact(one.bad_before)} bad of "
            f"{slo_tables.exact(one.total_before)}; with data that came later it is "
            f"{slo_tables.exact(one.bad_now)} of {slo_tables.exact(one.total_now)}"
        )
    return said


def _worst(found: Sequence[SloReport]) -> list[str]:
    """Give the traces to draw: the first few violations of each SLO."""
    ids = [
        trace
        for report in found
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
        "total": slo_tables.exact(one.total),
        "bad": slo_tables.exact(one.bad),
        "target": slo_tables.exact(one.target),
        "attainment": None if one.attainment is None else f"{one.attainment:.9f}",
        "verdict": one.verdict,
        "reason": one.reason or None,
        "budget": slo_tables.exact(one.allowed),
        "budget_left": None if one.left is None else slo_tables.exact(one.left),
        "excluded_total": slo_tables.exact(one.excluded_total),
        "excluded_bad": slo_tables.exact(one.excluded_bad),
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
        return Decimal(text)
    except InvalidOperation as error:
        raise BadParameter(f"got the target {text!r}, needs a number such as 0.999") from error


def _calendar(folder: Path) -> calendar.Calendar:
    if not (folder / calendar.FILE_NAME).exists():
        return calendar.Calendar()
    return calendar.load(folder)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in JSON")
