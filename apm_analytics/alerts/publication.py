"""Publish a release as one whole: the old set or the new one, never a mixture.

In:  the files that one nightly run wrote into `out/releases/<run_id>.partial`.
Out: `out/published`, a symlink to `out/releases/<run_id>`, swapped by one atomic rename.

Callers hold the nightly lock: one process at a time publishes into an `out`. A reader needs no
lock; kill -9 or a full disk at any moment leaves the previous set as it was.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apm_analytics.foundation import atomic
from apm_analytics.foundation.errors import ApmError, BadParameter, NotFound

KEPT_RELEASES = 14  # two weeks of nights to go back to
PARTIAL = ".partial"  # being written
GONE = ".gone"  # being removed
STAGING = ".publishing"  # in a release: thresholds and rules before they are checked
SWAPPING = ".swapping"  # in a release: checked, and being moved to their places
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def begin(out: Path, run_id: str) -> Path:
    """Open a release: a new folder that holds a copy of what is published now.

    A run that may not publish new thresholds (or fails to) thereby carries the old ones on.
    The files are copied, not linked: a writer that opens one in place must never reach into the
    published set. What killed runs left behind is removed first.

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
        `run_id` is no plain name.
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

    Everything is on disk (fsync) before the symlink moves. Of the older releases the newest
    `KEPT_RELEASES` (this one included) stay.

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
        `release` is no open release of `out`, or is empty.
    ApmError
        A `thresholds.publish` into it was interrupted half-way, or the disk is full or not
        writable. The previous set stays published.
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
            # Never published: back to a leftover, which the next `begin` removes.
            link.unlink(missing_ok=True)
            os.rename(final, release)
            raise
        _sync(out)
    _prune(releases, keep=final)
    return final


def current(out: Path) -> Path | None:
    """Find the folder of the published set; None when nothing was published yet."""
    published = out / "published"
    if not published.is_dir():
        return None
    # Resolved by one hop and only here: whoever reads on sees one release to its end.
    return out / published.readlink() if published.is_symlink() else published


def write_atomic(file: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Raises
    ------
    ApmError
        The disk is full or the folder not writable; the old content stays.
    """
    with _explained(file):
        atomic.write_atomic(file, content)


def _clear_leftovers(out: Path) -> None:
    for entry in sorted((out / "releases").iterdir()):
        if entry.name.endswith((PARTIAL, GONE)):
            shutil.rmtree(entry)
    for entry in out.glob(".published.*"):
        entry.unlink()


def _prune(releases: Path, *, keep: Path) -> None:
    """Remove the oldest releases. Run ids start with their time, so names sort by age."""
    closed = sorted(
        entry
        for entry in releases.iterdir()
        if entry != keep and not entry.name.endswith((PARTIAL, GONE))
    )
    for old in closed[: max(0, len(closed) - (KEPT_RELEASES - 1))]:
        gone = old.with_name(f"{old.name}{GONE}")
        try:
            os.rename(old, gone)  # a half-removed release must not look like a whole one
            shutil.rmtree(gone)
        except OSError:
            # The new set is out, which is what counts; the next `begin` tries again and says why.
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
    """Turn what the disk refuses into an error that says what to do."""
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
