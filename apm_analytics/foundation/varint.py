"""Numbers of variable length, as protobuf and Thrift write them: seven bits a byte, lowest first.

In:  a number from 0 on, or bytes.
Out: bytes, or a number and the place after it.
"""

LONGEST = 10  # bytes of a 64-bit number


def encode(number: int) -> bytes:
    """Write a number from 0 on.

    Examples
    --------
    >>> encode(300)
    b'\\xac\\x02'
    """
    if number < 0x80:
        return number.to_bytes(1)
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def decode(content: bytes | memoryview, at: int) -> tuple[int, int]:
    """Read the number at a place; give it, and the place after it.

    Raises
    ------
    IndexError
        The bytes end within it.
    ValueError
        It is longer than 64 bits.

    Examples
    --------
    >>> decode(b"\\xac\\x02", 0)
    (300, 2)
    """
    number = 0
    for count in range(LONGEST):
        byte = content[at + count]
        number |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return number, at + count + 1
    raise ValueError(f"the number at byte {at} does not end within {LONGEST} bytes")
