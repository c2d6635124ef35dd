"""Encode and decode variable-length integers: seven bits per byte, lowest first.

In:  an integer >= 0, or bytes as protobuf and Thrift write them.
Out: bytes, or the integer and the offset behind it.

Compiled code has its own: `ingest.wire.fields` reads, `ingest.json.kernel` writes.
"""

LONGEST = 10  # bytes of a 64-bit integer


def encode(number: int) -> bytes:
    """Encode an integer >= 0.

    Examples
    --------
    >>> encode(300)
    b'\\xac\\x02'
    """
    if number < 0x80:
        return number.to_bytes(1)
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def decode(
    content: bytes | bytearray | memoryview, at: int, longest: int = LONGEST
) -> tuple[int, int]:
    """Decode the integer at an offset; return it and the offset behind it.

    Parameters
    ----------
    longest : the most bytes that the integer may have.

    Raises
    ------
    IndexError
        The content ends within the integer.
    ValueError
        The integer is longer than `longest` bytes.

    Examples
    --------
    >>> decode(b"\\xac\\x02", 0)
    (300, 2)
    """
    number = 0
    for count in range(longest):
        byte = content[at + count]
        number |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return number, at + count + 1
    raise ValueError(f"the integer at byte {at} is longer than {longest} bytes")
