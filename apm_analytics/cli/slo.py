"""Commands about service levels: `apm slo`."""

import sys
from pathlib import Path

import click

from apm_analytics.cli.options import LAKE, OUT, OUTPUT

SPECS = click.option(
    "--specs",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of specs; by default the workspace's.",
)


@click.group()
def slo() -> None:
    """Service level objectives: budgets, burn rates, the SLA report."""


@slo.command()
@SPECS
def validate(specs: Path | None) -> None:
    """Check specs/slos and the files they refer to; problems have file and line."""
    from apm_analytics.report.pages import sla

    click.echo("\n".join(sla.check(specs)))


@slo.command()
@LAKE
@OUT
@SPECS
@click.option(
    "--slo", "names", multiple=True, metavar="NAME", help="Only these SLOs; by default all."
)
@click.option("--month", metavar="YYYY-MM", help="In the contract's time zone.")
@click.option(
    "--what-if",
    "targets",
    multiple=True,
    metavar="TARGET",
    help="Alternative target, such as 0.999.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "html"]),
    default="table",
    show_default=True,
)
@OUTPUT
@click.option("--state/--no-state", default=False, help="Add this statement to the ledger.")
def report(
    lake: Path,
    out: Path,
    specs: Path | None,
    names: tuple[str, ...],
    month: str | None,
    targets: tuple[str, ...],
    form: str,
    output: Path | None,
    state: bool,
) -> None:
    """Report on objectives: counts, budget, burn rates, gaps, restatements."""
    from apm_analytics.foundation.atomic import write_atomic
    from apm_analytics.report.pages import sla

    measured = sla.collect(lake, out, specs=specs, names=names, month=month, what_if=targets)
    content = sla.render(measured, form)
    if state:
        sla.state(measured, out)
    if output:
        write_atomic(output, content)
    else:
        sys.stdout.buffer.write(content)
