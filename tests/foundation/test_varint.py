"""Variable-length integers agree with protobuf's, and damaged ones are refused."""

import pytest
from google.protobuf.internal.encoder import _VarintBytes

from apm_analytics.foundation import varint


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**21, 2**35, 2**64 - 1])
def test_integers_are_encoded_as_protobuf_does_and_decode_to_the_same(number: int) -> None:
    encoded = varint.encode(number)
    assert encoded == _VarintBytes(number)
    assert varint.decode(b"x" + encoded + b"y", 1) == (number, 1 + len(encoded))


def test_an_integer_that_does_not_end_is_refused() -> None:
    with pytest.raises(IndexError):
        varint.decode(b"\x80", 0)
    with pytest.raises(ValueError, match="longer than 10 bytes"):
        varint.decode(b"\x80" * 20, 0)
    with pytest.raises(ValueError, match="longer than 2 bytes"):
        varint.decode(b"\x80" * 20, 0, longest=2)
