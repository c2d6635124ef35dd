"""Segments as the journal wrote them before it went past the page cache."""

import struct
import zlib
from collections.abc import Sequence

from apm_analytics.lake.journal.journal import Entry


def old_segment(entries: Sequence[Entry], reserved: int = 100_000) -> bytes:
    """Give the bytes of a segment whose writer was killed, with room that it had reserved."""
    written = b"APMJRNL1"
    for entry in entries:
        kind = entry.kind.encode()
        checksum = zlib.crc32(kind + entry.payload)
        written += struct.pack("<IIB", len(entry.payload), checksum, len(kind))
        written += kind + entry.payload
    return written + bytes(reserved)
