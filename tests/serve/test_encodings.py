"""Compressed requests that expand too far are refused before they take memory."""

import gzip
import zlib
from pathlib import Path

import peak_memory
import pyarrow as pa
import pytest

DECOMPRESS = """
import sys
from pathlib import Path
from apm_analytics.serve.encodings import decompress
content = decompress(Path(sys.argv[1]).read_bytes(), sys.argv[2], 16 << 20)
print(len(content))
"""
ZEROS = bytes(400 << 20)
ZSTD = b"\x28\xb5\x2f\xfd"
LARGE_BLOCK = ((131_072 << 3) | 2).to_bytes(3, "little") + b"a"  # 128 kB of one letter
WINDOW_2_GIB = ZSTD + b"\x00" + bytes([21 << 3]) + LARGE_BLOCK
BOMBS = {
    "gzip": lambda: gzip.compress(ZEROS),
    "deflate": lambda: zlib.compress(ZEROS),
    "zstd": lambda: pa.compress(ZEROS, "zstd", asbytes=True),
    "zstd of repeated letters": lambda: ZSTD + b"\x00" + bytes([7 << 3]) + LARGE_BLOCK * 4_000,
    "zstd with a window of 2 GiB": lambda: WINDOW_2_GIB,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_within_200_mib(tmp_path: Path, bomb: str) -> None:
    file = tmp_path / "body"
    file.write_bytes(BOMBS[bomb]())
    peak, failure, _ = peak_memory.run(DECOMPRESS, str(file), bomb.split()[0])
    assert failure.startswith("Refused: ")
    assert "more than 16,777,216 bytes" in failure or "too much memory" in failure
    assert peak < 200  # measured: 110 MiB at most
