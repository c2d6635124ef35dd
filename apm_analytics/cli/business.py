"""Commands that relate telemetry to the business: `apm kpis`, `apm impact`."""

import sys
from datetime import datetime
from pathlib import Path

import click

from apm_analytics.cli.options import LAKE, TIME

SPECS = click.option(
    "--specs",
    type=click.Path(path_type=Path, exists=True),
    help="Folder with kpis.yaml and calendar.yaml.  [default: specs/ of the workspace]",
)
FORM = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
)


@click.command()
@LAKE
@SPECS
@FORM
def kpis(lake: Path, specs: Path | None, form: str) -> None:
    """List the KPIs: total or mean, or the reason why one could not be measured."""
    from apm_analytics.business import kpis
    from apm_analytics.business import specs as kpi_specs
    from apm_analytics.foundation import settings
    from apm_analytics.lake import answers, query

    configured = settings.load()
    known = kpi_specs.load(specs or configured.workspace / "specs")
    with query.connect(lake) as con:
        window_s = configured.params.business.association_window_s
        measured = kpis.measure_all(con, known, window_s=window_s)
    sys.stdout.buffer.write(answers.render(kpis.summary(measured), form))


@click.command()
@LAKE
@click.option("--from", "start", type=TIME, required=True, help="UTC.")
@click.option("--to", "end", type=TIME, required=True, help="UTC.")
@click.option(
    "--control", multiple=True, metavar="SEGMENT", help="A segment not affected by the incident."
)
@SPECS
@FORM
def impact(
    lake: Path,
    start: datetime,
    end: datetime,
    control: tuple[str, ...],
    specs: Path | None,
    form: str,
) -> None:
    """Estimate what an incident cost: orders, revenue, sessions, with intervals."""
    from apm_analytics.business import costs
    from apm_analytics.business import specs as kpi_specs
    from apm_analytics.foundation import settings
    from apm_analytics.lake import answers, query
    from apm_analytics.signals import calendar

    configured = settings.load()
    folder = specs or configured.workspace / "specs"
    params = configured.params.business
    with query.connect(lake) as con:
        cost = costs.of_incident(
            con,
            kpi_specs.load(folder),
            start,
            end,
            window_s=params.impact_window_s,
            history_days=params.impact_history_days,
            level=params.impact_level,
            calendar=calendar.load(folder),
            control=control,
        )
    table = costs.readable(cost) if form == "table" else cost.table
    sys.stdout.buffer.write(answers.render(table, form))
