"""Commands that ask the lake and look after it: `apm query`, `apm queries`, `apm lake`."""

import sys
from pathlib import Path

import click

from apm_analytics.cli.options import LAKE


@click.command()
@click.argument("sql")
@LAKE
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
)
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Fill in $NAME.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write here.")
def query(sql: str, lake: Path, form: str, pairs: tuple[str, ...], output: Path | None) -> None:
    """Ask the lake: SQL, or the name of a query (`apm queries` lists them)."""
    from apm_analytics.lake import answers

    content = answers.answer(lake, sql, form=form, parameters=answers.parameters(pairs))
    if output:
        answers.save(content, output)
    else:
        sys.stdout.buffer.write(content)


@click.command()
def queries() -> None:
    """List the named queries and what comes out of each."""
    from apm_analytics.lake import query as lake_query

    for name in lake_query.names():
        click.echo(f"{name:28}{lake_query.text(name).splitlines()[0].removeprefix('-- ')}")


@click.group()
def lake() -> None:
    """Look after the lake."""


@lake.command("status")
@LAKE
def lake_status(lake: Path) -> None:
    """Show tables, parts, rows, bytes and times."""
    from apm_analytics.lake import answers, snapshots

    click.echo(answers.as_text(snapshots.status(lake)))


@lake.command("compact")
@LAKE
def lake_compact(lake: Path) -> None:
    """Merge small parts into large ones; readers and writers go on meanwhile."""
    from tqdm import tqdm

    from apm_analytics.errors import ApmError
    from apm_analytics.lake import compaction

    with tqdm(desc="merging", unit=" rows", unit_scale=True) as bar:
        done = compaction.compact(lake, progress=bar.update)
    if done.busy:
        click.echo("another process is looking after this lake; nothing was done")
        return
    click.echo(
        f"{done.merged:,} parts became {done.made:,} ({done.rows:,} rows, "
        f"{done.bytes_before / 1e6:,.1f} MB became {done.bytes_after / 1e6:,.1f} MB); "
        f"{done.removed_files:,} files that were replaced earlier are removed"
    )
    if done.failed:
        raise ApmError("; ".join(done.failed))
