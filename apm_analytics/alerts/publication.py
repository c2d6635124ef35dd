"""Publish a release as one whole: readers see the old set or the new one, never a mixture.

In:  the files that one nightly run writes into `out/releases/<run_id>.partial`.
Out: `out/published`, a symlink to `out/releases/<run_id>`, replaced by one atomic rename.

Callers hold the nightly lock, so one process at a time publishes into an `out`. Readers need no
lock. kill -9 or a full disk at any moment leaves the previous set as it was.
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from apm_analytics.alerts.prometheus import promtool
from apm_analytics.foundation import atomic
from apm_analytics.foundation.errors import ApmError, BadParameter, NotFound

KEPT_RELEASES = 14  # two weeks of nights to go back to
PARTIAL = ".partial"  # being written
GONE = ".gone"  # being removed
STAGING = ".publishing"  # in a release: files not checked yet
SWAPPING = ".swapping"  # in a release: checked files on the way to their places
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

log = logging.getLogger(__name__)


def begin(out: Path, run_id: str) -> Path:
    """Open a release: a new folder that holds a copy of what is published now.

    So a run that publishes no new thresholds keeps the old ones. The files are copied, not
    linked, so that writing to one never changes the published set. Leftovers of killed runs are
    removed first.

    Parameters
    ----------
    out : folder of the published set.
    run_id : name of the release.

    Returns
    -------
    The folder to write into, `out/releases/<run_id>.partial`.

    Raises
    ------
    BadParameter
        `run_id` is not a plain name.
    ApmError
        A release of that name exists, or the disk is full or not writable.
    """
    if not RUN_ID.fullmatch(run_id) or run_id.endswith((PARTIAL, GONE)):
        raise BadParameter(
            f"run id {run_id!r}: needs letters, digits, '.', '_' and '-' only, "
            f"and no ending {PARTIAL} or {GONE}"
        )
    releases = out / "releases"
    release = releases / f"{run_id}{PARTIAL}"
    if (releases / run_id).exists():
        raise ApmError(
            f"{releases / run_id} is published already; a release never changes: use a new run id"
        )
    with _explained(release):
        releases.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(out)
        previous = current(out)
        if previous is None:
            release.mkdir()
        else:
            shutil.copytree(previous, release, ignore=shutil.ignore_patterns(STAGING, SWAPPING))
    return release


def promote(release: Path, out: Path) -> Path:
    """Make a release the published set.

    Every file is synced to disk before the symlink moves. The newest `KEPT_RELEASES` releases,
    this one included, are kept.

    Parameters
    ----------
    release : what `begin` returned, filled.
    out : the same `out` as given to `begin`.

    Returns
    -------
    The final folder, `out/releases/<run_id>`.

    Raises
    ------
    NotFound
        `release` is not an open release of `out`, or is empty.
    ApmError
        A `fill` of it was interrupted, or the disk is full or not writable. The previous set
        stays published.
    """
    releases = out / "releases"
    if release.suffix != PARTIAL or not release.is_dir() or not _same(release.parent, releases):
        raise NotFound(f"{release} is no open release of {out}; call publication.begin first")
    if (release / SWAPPING).exists():
        raise ApmError(
            f"publishing thresholds into {release} was interrupted half-way; "
            "what was published before stays. Run `apm nightly` again"
        )
    final = releases / release.name.removesuffix(PARTIAL)
    link = out / f".published.{final.name}"
    with _explained(release):
        shutil.rmtree(release / STAGING, ignore_errors=True)
        if not any(release.iterdir()):
            raise NotFound(f"{release} is empty; write the release before promoting it")
        _sync_tree(release)
        os.rename(release, final)
        try:
            _sync(releases)
            link.unlink(missing_ok=True)
            link.symlink_to(Path("releases") / final.name, target_is_directory=True)
            os.replace(link, out / "published")
        except OSError:
            # Not published: turn it back into a leftover, which the next `begin` removes.
            link.unlink(missing_ok=True)
            os.rename(final, release)
            raise
        _sync(out)
    _prune(releases, keep=final)
    return final


def fill(release: Path, files: Mapping[str, bytes]) -> None:
    """Put thresholds and rules into a release, checked by promtool: all of them or none.

    The files replace thresholds.parquet and the whole of prometheus/. Without promtool on PATH a
    warning is logged that nothing was checked.

    Parameters
    ----------
    release : what `begin` returned.
    files : content by path, as `threshold_files.files` and `slo_rules.files` return them.

    Raises
    ------
    NotFound
        There is no such folder.
    ApmError
        promtool refuses a rule or a test, or the disk is full. The release stays as it was.
    """
    if not release.is_dir():
        raise NotFound(f"no release folder {release}; call publication.begin first")
    staging = release / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    try:
        for name, content in files.items():
            write_atomic(staging / name, content)
        if not promtool.check(staging / "prometheus"):
            log.warning("promtool is not on PATH: the rules are published unchecked")
        _swap(staging, release)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def runs(release: Path) -> str:
    """Return the folder of the executed notebooks of all runs, for links in alerts."""
    out = release.parent.parent if release.suffix == PARTIAL else release.parent
    return str(out.resolve() / "runs").replace("{{", "{ {")


def current(out: Path) -> Path | None:
    """Return the folder of the published set; None when nothing was published yet."""
    published = out / "published"
    if not published.is_dir():
        return None
    # Resolved once, so that a reader stays in one release while another one is published.
    return out / published.readlink() if published.is_symlink() else published


def write_atomic(file: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part.

    Raises
    ------
    ApmError
        The disk is full or the folder not writable; the old content stays.
    """
    with _explained(file):
        atomic.write_atomic(file, content)


def _swap(staging: Path, release: Path) -> None:
    """Move checked files to their places; `promote` refuses a release where this was killed."""
    swapping = release / SWAPPING
    try:
        shutil.rmtree(swapping, ignore_errors=True)
        os.rename(staging, swapping)
        if (release / "prometheus").exists():
            os.rename(release / "prometheus", swapping / "old")
        os.rename(swapping / "prometheus", release / "prometheus")
        os.replace(swapping / "thresholds.parquet", release / "thresholds.parquet")
        shutil.rmtree(swapping)
    except OSError as error:
        raise ApmError(
            f"cannot put the thresholds into {release}: {error}; "
            "what was published before stays. Run `apm nightly` again"
        ) from error


def _clear_leftovers(out: Path) -> None:
    for entry in sorted((out / "releases").iterdir()):
        if entry.name.endswith((PARTIAL, GONE)):
            shutil.rmtree(entry)
    for entry in out.glob(".published.*"):
        entry.unlink()


def _prune(releases: Path, *, keep: Path) -> None:
    """Remove the oldest releases; run ids start with their time, so names sort by age."""
    closed = sorted(
        entry
        for entry in releases.iterdir()
        if entry != keep and not entry.name.endswith((PARTIAL, GONE))
    )
    for old in closed[: max(0, len(closed) - (KEPT_RELEASES - 1))]:
        gone = old.with_name(f"{old.name}{GONE}")
        try:
            os.rename(old, gone)  # a partly removed release must not look complete
            shutil.rmtree(gone)
        except OSError:
            # The new set is published; the next `begin` tries again and reports the error.
            return


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_symlink():
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _same(one: Path, other: Path) -> bool:
    return other.is_dir() and one.resolve() == other.resolve()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an `OSError` into an `ApmError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise ApmError(
            f"cannot write {path}: {error.strerror or error}{_free_space(path)}; "
            "what was published before stays as it was. Free space or fix the permissions, "
            "then run `apm nightly` again"
        ) from error


def _free_space(path: Path) -> str:
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    return f" ({shutil.disk_usage(existing).free / 1e6:,.0f} MB free)"
