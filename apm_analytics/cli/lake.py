"""Commands that query and maintain the lake: `apm query`, `apm queries`, `apm lake`."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from apm_analytics.cli.options import LAKE, OUTPUT


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
@OUTPUT
def query(sql: str, lake: Path, form: str, pairs: tuple[str, ...], output: Path | None) -> None:
    """Query the lake by SQL or the name of a query (`apm queries` lists them)."""
    from apm_analytics.lake import answers

    content = answers.answer(lake, sql, form=form, parameters=answers.parameters(pairs))
    if output:
        answers.save(content, output)
    else:
        sys.stdout.buffer.write(content)


@click.command()
def queries() -> None:
    """List the named queries and the rows that each returns."""
    from apm_analytics.lake import query as lake_query

    for name in lake_query.names():
        click.echo(f"{name:30}{lake_query.text(name).splitlines()[0].removeprefix('-- ')}")


@click.group()
def lake() -> None:
    """Maintain the lake."""


@lake.command("status")
@LAKE
def lake_status(lake: Path) -> None:
    """Show tables, parts, rows, bytes and times; what retention removes, and when."""
    from apm_analytics.cli import retention_words
    from apm_analytics.foundation import settings
    from apm_analytics.lake import answers, damage, snapshots
    from apm_analytics.lake.maintenance import retention

    click.echo(answers.as_text(snapshots.status(lake)))
    damage.warn(lake, damage.listing(lake).left_out)
    periods = settings.retention(settings.load().workspace)
    for line in retention_words.lines(retention.outlook(lake, periods), periods):
        click.echo(line)


@lake.command("compact")
@LAKE
def lake_compact(lake: Path) -> None:
    """Merge small parts into large ones while readers and writers continue."""
    from tqdm import tqdm

    from apm_analytics.foundation.errors import ApmError
    from apm_analytics.lake.maintenance import compaction

    with tqdm(desc="merging", unit=" rows", unit_scale=True) as bar:
        done = compaction.compact(lake, progress=bar.update)
    if done.busy:
        click.echo("another process is maintaining this lake; nothing was done")
        return
    click.echo(
        f"{done.merged:,} parts became {done.made:,} ({done.rows:,} rows, "
        f"{done.bytes_before / 1e6:,.1f} MB became {done.bytes_after / 1e6:,.1f} MB); "
        f"removed {done.removed_files:,} files that were replaced earlier"
    )
    _echo_left_out([part.path for part in done.left_out], "was not merged")
    if done.failed:
        raise ApmError("; ".join(done.failed))


@lake.command("verify")
@LAKE
def lake_verify(lake: Path) -> None:
    """Compare every part with its hash; exit 1 when one is missing, damaged or stray."""
    from tqdm import tqdm

    from apm_analytics.lake import snapshots
    from apm_analytics.lake.maintenance import verify

    total = int(snapshots.status(lake)["bytes"].sum())
    with tqdm(desc="verifying", total=total, unit="B", unit_scale=True, disable=None) as bar:
        findings = verify.verify(lake, progress=bar.update)
    for kind in ("missing", "damaged", "stray"):
        for path in getattr(findings, kind):
            click.echo(f"{kind:8} {path}")
    if findings.missing or findings.damaged:
        click.echo(
            "restore these files from a backup, or accept the loss with `apm lake repair`; until "
            "then queries leave the parts out"
        )
    if findings.stray:
        click.echo(
            "the manifest does not name the stray files: killed writers left them, and the nightly "
            "job moves them to quarantine; if the manifest was restored from an older copy, "
            "`apm lake rebuild` takes them in"
        )
    if not findings.sound:
        sys.exit(1)
    click.echo(f"all {findings.parts:,} parts exist and are unchanged")


@lake.command("repair")
@LAKE
def lake_repair(lake: Path) -> None:
    """Take missing and damaged parts out of the lake; damaged files go to quarantine."""
    from tqdm import tqdm

    from apm_analytics.lake import damage, snapshots
    from apm_analytics.lake.maintenance import repair

    total = int(snapshots.status(lake)["bytes"].sum())
    with tqdm(desc="verifying", total=total, unit="B", unit_scale=True, disable=None) as bar:
        lost = repair.repair(lake, progress=bar.update)
    for each in lost:
        click.echo(f"{each.reason:8} {each.part.path}")
    for table in dict.fromkeys(each.part.table for each in lost):
        of_table = [each for each in lost if each.part.table == table]
        click.echo(f"gone from {table}: {damage.describe(of_table)}")
    click.echo(
        "damaged files are in the folder quarantine of the lake for 30 days"
        if lost
        else "nothing is missing or damaged"
    )


@lake.command("rebuild")
@LAKE
def lake_rebuild(lake: Path) -> None:
    """Make a lost manifest again from the parts, or complete one that is older than they are."""
    from tqdm import tqdm

    from apm_analytics.lake.maintenance import rebuild

    with tqdm(desc="reading", unit="B", unit_scale=True, disable=None) as bar:
        done = rebuild.rebuild(lake, progress=bar.update)
    bases = {
        "manifest": "the manifest is sound",
        "backup": "the manifest was made again from its last backup",
        "parts": "the manifest was made again from the parts; it knows the documents of unmerged "
        "parts only, so do not import older files again",
    }
    click.echo(f"{bases[done.base]}; {len(done.taken_in):,} parts ({done.rows:,} rows) were added")
    for path in done.set_aside:
        click.echo(f"in quarantine: {path}")
    _echo_left_out(done.missing, "is missing or damaged")


@lake.command("erase")
@LAKE
@click.option("--user", required=True, metavar="ID", help="The person's user.id.")
def lake_erase(lake: Path, user: str) -> None:
    """Remove a person's records from every table and write a receipt."""
    import json

    from tqdm import tqdm

    from apm_analytics.lake import snapshots
    from apm_analytics.lake.maintenance import erasure

    total = int(snapshots.status(lake)["bytes"].sum())
    with tqdm(desc="erasing", total=total, unit="B", unit_scale=True, disable=None) as bar:
        receipt = erasure.erase(lake, user, progress=bar.update)
    result = json.loads(receipt.read_text())
    counts = ", ".join(f"{count:,} {table}" for table, count in result["records"].items() if count)
    click.echo(
        f"removed {counts or 'nothing'} and {result['dead_letters']:,} dead letters, masked the id "
        f"in {sum(result['masked'].values()):,} other records; "
        f"{result['parts_rewritten']:,} parts were rewritten; the receipt is {receipt}"
    )
    if not result["mentions_masked"]:
        click.echo(
            "the id is too short to be unambiguous: it is not masked in records of others that "
            "mention it"
        )
    _echo_left_out(result["parts_not_searched"], "could not be searched, and may hold the id")
    if result["parts_not_searched"]:
        click.echo(
            "restore these files from a backup and repeat this command, or accept the loss with "
            "`apm lake repair`: files in quarantine are deleted after 30 days"
        )
    if result["journal_segments_left"]:
        click.echo(
            f"{result['journal_segments_left']} segments of the journal mention the id and wait "
            "to be written to parts: run `apm receive` on this lake, then repeat this command"
        )
    if result["journal_segments_left"] or result["parts_not_searched"]:
        sys.exit(1)


@lake.command("retain")
@LAKE
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
def lake_retain(lake: Path, dry_run: bool) -> None:
    """Remove records older than their retention, and roll up old metric points."""
    from tqdm import tqdm

    from apm_analytics.foundation import settings
    from apm_analytics.lake.maintenance import retention

    periods = settings.retention(settings.load().workspace)
    now = datetime.now(UTC)
    click.echo(f"relative to now, {now:%Y-%m-%d %H:%M} UTC: {periods.described()}")
    with tqdm(desc="looking", unit=" rows", unit_scale=True, disable=None) as bar:
        done = retention.retain(
            lake, periods, now_s=now.timestamp(), dry_run=dry_run, progress=bar.update
        )
    removed = ", ".join(f"{count:,} {table}" for table, count in done.removed.items() if count)
    click.echo(f"{'would remove' if dry_run else 'removed'} {removed or 'nothing'}")
    if done.points_before:
        click.echo(
            f"{done.points_before:,} points would be rolled up"
            if dry_run
            else f"{done.points_before:,} points were rolled up to {done.points_after:,}"
        )
    for service, metric in done.set_aside:
        click.secho(
            f"{metric} of {service} stays as it is where the sum of a minute does not fit into 64 "
            "bits; mend its sender",
            fg="yellow",
        )
    _echo_left_out([part.path for part in done.left_out], "stays as it is")


@lake.group("dead-letters")
def dead_letters() -> None:
    """Records that were not taken, with their reasons."""


@dead_letters.command("list")
@LAKE
def dead_letters_list(lake: Path) -> None:
    """Count the dead letters by reason."""
    from apm_analytics.ingest.files import retry
    from apm_analytics.lake import answers

    click.echo(answers.as_text(retry.reasons(lake)))


@dead_letters.command("retry")
@LAKE
@click.option("--reason", default="", metavar="TEXT", help="Only those whose reason contains this.")
@click.option(
    "--earliest",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Take records from this day on.  [default: 2000-01-01]",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be taken.")
def dead_letters_retry(lake: Path, reason: str, earliest: datetime | None, dry_run: bool) -> None:
    """Take the dead letters that are accepted now; the others stay.

    For example those of a time when the receiver's clock was wrong.
    """
    from tqdm import tqdm

    from apm_analytics.ingest.files import retry

    since = earliest.replace(tzinfo=UTC) if earliest else None
    with tqdm(desc="retrying", unit=" letters", disable=None) as bar:
        done = retry.retry(
            lake, reason=reason, earliest=since, dry_run=dry_run, progress=bar.update
        )
    rows = ", ".join(f"{count:,} {table}" for table, count in sorted(done.rows.items()))
    verb = "would take" if dry_run else "took"
    click.echo(f"{verb} {done.taken:,} dead letters ({rows or 'no rows'}); {done.left:,} stay")
    if done.waiting:
        click.echo(
            f"{done.waiting:,} of them belong to requests that are still in the journal: "
            "start `apm receive` on this lake, then repeat this command"
        )


def _echo_left_out(paths: list[str], outcome: str) -> None:
    """Show parts that are left out, in amber."""
    for path in paths:
        click.secho(f"{path} {outcome}: missing or damaged", fg="yellow")
    if paths:
        click.secho("`apm lake verify` says which; `apm lake repair` sets them aside", fg="yellow")
