"""What the journal took is there after any end of its writer, and only that."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apm_analytics.errors import ApmError
from apm_analytics.lake import journal
from apm_analytics.lake.journal import Entry, Journal, Segment


def left_behind(lake: Path) -> list[Entry]:
    """Read what a dead writer left, as the next one would."""
    with_lock = Journal(lake)
    try:
        return [e for segment in with_lock.adopt() for e in journal.read(segment).entries]
    finally:
        with_lock.close()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path)
    yield opened
    opened.close()


def test_a_segment_gives_back_what_was_appended(writer: Journal) -> None:
    many = [Entry("traces", bytes([number % 256]) * number) for number in range(1000)]
    writer.append(many)
    writer.append([Entry("logs+json", b"{}")])
    (segment,) = writer.rotate()
    content = journal.read(segment)
    assert content.entries == [*many, Entry("logs+json", b"{}")]
    assert not content.torn_bytes and not content.damaged
    assert writer.rotate() == []


def test_the_next_writer_takes_over_after_kill_9(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path;"
        "from apm_analytics.lake.journal import Entry, Journal;"
        "Journal(Path(sys.argv[1])).append([Entry('logs', b'kept')]);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60)
    assert left_behind(tmp_path) == [Entry("logs", b"kept")]


def test_the_journal_of_a_living_writer_is_left_alone(tmp_path: Path, writer: Journal) -> None:
    writer.append([Entry("logs", b"mine")])
    assert left_behind(tmp_path) == []


def test_a_write_cut_short_costs_only_itself(writer: Journal) -> None:
    writer.append([Entry("logs", b"first")])
    writer.append([Entry("logs", b"second")])
    (segment,) = writer.rotate()
    whole = segment.path.read_bytes()
    for cut in range(1, len(b"second") + 13):
        segment.path.write_bytes(whole[:-cut])
        content = journal.read(segment)
        assert content.entries == [Entry("logs", b"first")]
        assert not content.damaged
    segment.path.write_bytes(whole + bytes(64))  # zeros, as after a power failure
    assert len(journal.read(segment).entries) == 2


def test_a_changed_byte_is_damage_not_data(writer: Journal) -> None:
    writer.append([Entry("logs", b"first"), Entry("logs", b"second")])
    (segment,) = writer.rotate()
    content = bytearray(segment.path.read_bytes())
    content[-1] ^= 1
    segment.path.write_bytes(content)
    found = journal.read(segment)
    assert found.entries == [Entry("logs", b"first")] and found.damaged


def test_a_full_disk_keeps_what_was_taken_and_goes_on(writer: Journal) -> None:
    writer.append([Entry("logs", b"before")])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores SIGXFSZ, so the write fails like one on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ApmError, match="nothing was acknowledged"):
            writer.append([Entry("logs", b"x" * 10_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.append([Entry("logs", b"after")])
    (segment,) = writer.rotate()
    assert [entry.payload for entry in journal.read(segment).entries] == [b"before", b"after"]


def test_closing_leaves_no_folder_behind_but_what_is_not_written_yet(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.append([Entry("logs", b"kept")])
    first.close()
    second = Journal(tmp_path)
    (segment,) = second.adopt()
    assert segment == Segment(segment.path) and segment.document == f"journal:{segment.path.stem}"
    segment.remove()
    second.close()
    assert os.listdir(tmp_path / journal.FOLDER) == []
