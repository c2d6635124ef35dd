"""`verify` finds missing, damaged and stray files, and nothing in a sound lake."""

import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from rows import spans

from apm_analytics import cli
from apm_analytics.lake import snapshots
from apm_analytics.lake.maintenance import compaction
from apm_analytics.lake.maintenance.verify import Findings, verify


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    for day in range(3):
        snapshots.append(tmp_path, {"spans": spans([day * 86_400])})
    return sorted(tmp_path.glob("spans/*/*/*.parquet"))


def test_a_sound_lake_has_no_findings_also_after_compaction(
    tmp_path: Path, parts: list[Path]
) -> None:
    snapshots.append(tmp_path, {"spans": spans([5])})
    compaction.compact(tmp_path)
    read: list[int] = []
    found = verify(tmp_path, now_s=time.time() + 3_600, progress=read.append)
    assert found == Findings(parts=3) and found.sound
    assert sum(read) == snapshots.status(tmp_path)["bytes"].sum()


def test_missing_damaged_and_stray_files_are_named(tmp_path: Path, parts: list[Path]) -> None:
    parts[0].unlink()
    content = bytearray(parts[1].read_bytes())
    content[100] ^= 1
    parts[1].write_bytes(content)
    stray, young = parts[2].with_name("stray.parquet"), parts[2].with_name("young.parquet")
    for file in (stray, young):
        file.write_bytes(b"left behind")
    os.utime(stray, (time.time() - 3_600,) * 2)
    found = verify(tmp_path)
    assert found.missing == [str(parts[0].relative_to(tmp_path))]
    assert found.damaged == [str(parts[1].relative_to(tmp_path))]
    assert found.stray == [str(stray.relative_to(tmp_path))]
    done = CliRunner().invoke(cli.apm, ["lake", "verify", "--lake", str(tmp_path)])
    assert done.exit_code == 1
    assert "damaged" in done.output and "restore" in done.output


def test_the_command_says_that_all_is_well(tmp_path: Path, parts: list[Path]) -> None:
    done = CliRunner().invoke(cli.apm, ["lake", "verify", "--lake", str(tmp_path)])
    assert done.exit_code == 0 and "all 3 parts" in done.output
