"""Numbers of variable length come back, and what is none is refused."""

import pytest
from google.protobuf.internal.encoder import _VarintBytes

from apm_analytics.foundation import varint


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**21, 2**35, 2**64 - 1])
def test_numbers_are_written_as_protobuf_does_and_come_back(number: int) -> None:
    written = varint.encode(number)
    assert written == _VarintBytes(number)
    assert varint.decode(b"x" + written + b"y", 1) == (number, 1 + len(written))


def test_a_number_that_does_not_end_is_refused() -> None:
    with pytest.raises(IndexError):
        varint.decode(b"\x80", 0)
    with pytest.raises(ValueError, match="does not end"):
        varint.decode(b"\x80" * 20, 0)
