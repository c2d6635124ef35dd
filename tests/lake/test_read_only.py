"""A lake is read also where nothing can be written: a read-only mount, another user's folder."""

import shutil
from pathlib import Path

import pytest
from rows import spans
from write_protection import read_only

from apm_analytics.foundation.errors import ApmError
from apm_analytics.lake import manifest, query, snapshots
from apm_analytics.lake.hot import HotView
from apm_analytics.lake.maintenance.verify import verify


def count(lake: Path) -> int:
    with query.connect(lake) as con:
        return int(query.frame(con, "select count(*) as n from spans")["n"].item())


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    lake = tmp_path / "lake"
    snapshots.append(lake, {"spans": spans([0, 1])})
    return lake


def test_a_closed_lake_is_read_and_stays_as_it_is(lake: Path) -> None:
    before = sorted(lake.rglob("*"))
    with read_only(lake):
        assert count(lake) == 2
        assert HotView(lake).spans().num_rows == 2
        assert verify(lake).sound
        assert snapshots.status(lake)["rows"].sum() == 2
    assert sorted(lake.rglob("*")) == before


@pytest.mark.parametrize("lost", [(), ("-shm",)])
def test_commits_that_are_only_in_the_log_are_read(
    lake: Path, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    """As in a backup that was taken while a receiver wrote, or after it was killed."""
    with manifest.open_manifest(lake):
        snapshots.append(lake, {"spans": spans([2])})
        backup = Path(shutil.copytree(lake, tmp_path / "backup"))
    log = backup / f"{manifest.FILE_NAME}-wal"
    assert log.stat().st_size > 0
    for ending in lost:
        (backup / f"{manifest.FILE_NAME}{ending}").unlink()
    with read_only(backup):
        assert count(backup) == 3


def test_a_writer_that_cannot_write_says_so(lake: Path) -> None:
    with read_only(lake), pytest.raises(ApmError, match=r"unable to open|readonly"):
        snapshots.append(lake, {"spans": spans([2])})
    assert count(lake) == 2
