"""A journal returns exactly what was appended, however its writer ended.

Tests lake.journal.journal and lake.journal.blockfile.
"""

import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from apm_analytics.foundation.errors import ApmError
from apm_analytics.lake.journal import blockfile, journal
from apm_analytics.lake.journal.journal import Entry, Journal, Segment


def left_behind(lake: Path) -> list[Entry]:
    """Return the entries that an ended writer left, as the next writer reads them."""
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
    many = [
        Entry("traces", bytes([number % 256]) * number, b"stamp" * (number % 3))
        for number in range(1000)
    ]
    writer.append(many)
    writer.append([Entry("logs+json", b"{}")])
    (segment,) = writer.rotate()
    content = journal.read(segment)
    assert content.entries == [*many, Entry("logs+json", b"{}")]
    assert not content.torn_bytes and not content.damaged
    assert writer.rotate() == []


def test_groups_give_back_what_they_held_wherever_they_end_in_a_block(writer: Journal) -> None:
    sizes = [*range(blockfile.BLOCK - 48, blockfile.BLOCK + 8), 2 * blockfile.PIECE_BYTES + 1]
    sent = [Entry("logs", b"x" * size) for size in sizes]
    for entry in sent:
        writer.append([entry, Entry("traces", b"")])
    (segment,) = writer.rotate()
    content = journal.read(segment)
    assert content.entries[::2] == sent
    assert content.entries[1::2] == [Entry("traces", b"")] * len(sent)
    assert not content.torn_bytes and not content.damaged


def test_a_disk_of_larger_blocks_is_written_through_the_page_cache(
    writer: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The disk refuses blocks of 1,000 bytes, as a disk with larger blocks would refuse ours.
    monkeypatch.setattr(blockfile, "BLOCK", 1000)
    monkeypatch.setattr(journal, "BLOCK", 1000)
    sent = [Entry("logs", bytes([number]) * 1500) for number in range(1, 5)]
    for entry in sent:
        writer.append([entry])
    (segment,) = writer.rotate()
    assert journal.read(segment).entries == sent


def test_a_file_system_without_direct_writes_is_noticed() -> None:
    file = os.open("/proc/self/comm", os.O_WRONLY)
    try:
        assert not blockfile.try_direct(file)
    finally:
        os.close(file)


def test_the_next_writer_takes_over_after_kill_9(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path;"
        "from apm_analytics.lake.journal.journal import Entry, Journal;"
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
    whole = segment.path.read_bytes().rstrip(b"\0")
    for cut in range(1, len(b"second") + 13):
        segment.path.write_bytes(whole[:-cut])
        content = journal.read(segment)
        assert content.entries == [Entry("logs", b"first")]
        assert not content.damaged
    segment.path.write_bytes(whole + bytes(64))  # zeros, as after a power failure
    assert len(journal.read(segment).entries) == 2


def test_blocks_that_were_never_written_are_a_write_cut_short(writer: Journal) -> None:
    block = blockfile.BLOCK
    writer.append([Entry("logs", b"first")])
    writer.append([Entry("logs", b"second" * block)])
    (segment,) = writer.rotate()
    whole = segment.path.read_bytes()
    for cut in range(block, len(whole), block):
        segment.path.write_bytes(whole[:-cut] + bytes(cut + 2**20))
        content = journal.read(segment)
        assert content.entries == [Entry("logs", b"first")]
        assert bool(content.torn_bytes) == (cut < len(whole) - block) and not content.damaged
    segment.path.write_bytes(bytes(2**20))
    assert journal.read(segment) == journal.Content([])


def test_any_flipped_bit_costs_at_most_its_own_entry(writer: Journal) -> None:
    sent = [Entry("logs", bytes([65 + number]) * 40) for number in range(6)]
    sent[3] = Entry("traces", b"large" * blockfile.BLOCK)
    for start in range(0, 6, 2):
        writer.append(sent[start : start + 2])
    (segment,) = writer.rotate()
    whole = segment.path.read_bytes()
    kept = [at for at in range(len(whole)) if whole[at : at + 64].strip(b"\0")]
    for at in [*kept[:300], *kept[300:-400:97], *kept[-400:]]:
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        segment.path.write_bytes(changed)
        content = journal.read(segment)
        lost = [entry for entry in sent if entry not in content.entries]
        assert len(lost) <= 1 and len(content.entries) == 6 - len(lost), at
        assert content.damaged == len(lost) and not content.torn_bytes, at
        if whole[at] and at >= len(journal.MAGIC):
            assert lost, at


def test_an_entry_inside_another_is_not_taken_for_one(writer: Journal) -> None:
    writer.append([Entry("logs", b"inner")])
    (inner,) = writer.rotate()
    writer.append([Entry("logs", inner.path.read_bytes()), Entry("logs", b"last")])
    (segment,) = writer.rotate()
    content = bytearray(segment.path.read_bytes())
    content[len(journal.MAGIC)] ^= 1  # the marker of the first entry
    segment.path.write_bytes(content)
    assert journal.read(segment).entries == [Entry("logs", b"last")]


def former(entries: list[list[Entry]]) -> bytes:
    """Return the segment that the former format had for these writes."""
    content = journal.FORMER_MAGIC
    for write in entries:
        content += bytes(-len(content) % blockfile.BLOCK) if len(content) > 8 else b""
        for entry in write:
            kind = entry.kind.encode() + (b"|%d" % len(entry.stamp) if entry.stamp else b"")
            head = (kind + entry.stamp, entry.payload)
            sizes = len(entry.stamp) + len(entry.payload), zlib.crc32(b"".join(head)), len(kind)
            content += struct.pack("<IIB", *sizes) + b"".join(head)
        content += bytes(9)
    return content + bytes(-len(content) % blockfile.BLOCK)


def test_segments_of_the_former_format_are_still_read(tmp_path: Path) -> None:
    sent = [Entry("traces", b"x" * 5000), Entry("logs", b"stamped", b"shop"), Entry("logs", b"z")]
    segment = Segment(tmp_path / "old.segment")
    whole = former([sent[:2], sent[2:]])
    segment.path.write_bytes(whole + bytes(2**20))
    content = journal.read(segment)
    assert content.entries == sent and not content.torn_bytes and not content.damaged
    segment.path.write_bytes(whole[: blockfile.BLOCK] + bytes(len(whole) - blockfile.BLOCK))
    assert journal.read(segment).torn_bytes and not journal.read(segment).entries
    segment.path.write_bytes(whole.replace(b"stamped", b"stampEd"))
    content = journal.read(segment)
    assert content.entries == sent[:1] and content.damaged == 1


def test_an_entry_keeps_its_place_when_those_before_it_are_damaged(writer: Journal) -> None:
    writer.append([Entry("logs", b"first"), Entry("logs", b"second"), Entry("logs", b"third")])
    (segment,) = writer.rotate()
    whole = segment.path.read_bytes()
    places = journal.read(segment).places
    segment.path.write_bytes(whole.replace(b"second", b"sec0nd"))
    content = journal.read(segment)
    assert content.damaged == 1 and content.places == [places[0], places[2]]


# No room at all, for a whole block, for one and a half.
@pytest.mark.parametrize("limit", [4096, 8192, 10_000])
def test_a_full_disk_keeps_what_was_taken_and_goes_on(writer: Journal, limit: int) -> None:
    writer.append([Entry("logs", b"before")])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores SIGXFSZ, so the write fails like one on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
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
