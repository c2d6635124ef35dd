"""Fuzz OTLP JSON: what the scanner takes gives the rows of `otlp_json`, its reference.

In:  --documents, --seed.
Out: what was compared; exit code 1 with the first difference.
"""

import argparse
import random
import sys
from collections.abc import Sequence

import orjson
from columnar_agreement import LIMITS, difference
from fuzz_columnar import mutated
from otlp_requests import as_json
from wire_requests import SIGNALS, Requests

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import protobuf
from apm_analytics.ingest.decode.columnar import Scanner
from apm_analytics.ingest.decode.sink import Sink
from apm_analytics.ingest.json import otlp as otlp_json
from apm_analytics.ingest.json import transcode

A_BATCH = 2_000
DRAWN = 30  # few are drawn, which is slow, and each is damaged in many ways

# Pieces of JSON that mean something else, or nothing, in another place.
PIECES = (
    b'"', b"\\", b"\\u00e9", b"\\u003c", b"\\n", b",", b"{", b"}", b"[", b"]", b":", b" ", b"\n",
    b"null", b"true", b"0", b"-", b"1e5", b".5", b'"1"', b"01", b"1.0", b'{"stringValue":"x"}',
    b'"intValue":', b'"doubleValue":1.5', b'"key":"k"', b'"attributes":[', b'"kind":"2"', b"\xff",
    b'"SPAN_KIND_CLIENT"', b'"kind":"SPAN_KIND_SERVER"',
    b'"name":', b'"traceId":""', b"\xc3\xa9", b"9223372036854775808", b"-0", b"\x00",
)  # fmt: skip


def disagreement(signal: str, documents: Sequence[bytes]) -> tuple[str, int]:
    """Read documents both ways; gives what differs first, and how many the scanner took."""
    scanner, reference, taken = Scanner(signal, 0, LIMITS, {}), Sink(), 0
    for document in documents:
        found = transcode.to_protobuf(document)
        if found is None or not scanner.take(found[1]):
            continue
        assert found[0] == signal
        taken += 1
        try:
            otlp_json.read_document(orjson.loads(document), reference, LIMITS, only=signal)
        except (orjson.JSONDecodeError, BadInput) as error:
            return f"the scanner took what is refused: {error}: {document!r}", taken
        if reference.rejected or reference.warnings:
            return f"the scanner took what is odd: {reference.rejected}: {document!r}", taken
    return difference(scanner.tables(), reference.finish().tables), taken


def drawn(draw: random.Random, signal: str, count: int) -> list[bytes]:
    """Draw documents that the scanner takes: anything it leaves would compare nothing."""
    made: list[bytes] = []
    while len(made) < count:
        try:
            request = protobuf.parse(signal, Requests(draw, 0.0).request(signal))
        except BadInput:
            continue
        document = orjson.dumps(as_json(request, enum_numbers=draw.random() < 0.5))
        if disagreement(signal, [document])[1]:
            made.append(document)
    return made


def spoilt(draw: random.Random, document: bytes, other: bytes) -> bytes:
    """Put a piece where none belongs, or damage a byte."""
    if draw.random() < 0.3:
        return mutated(draw, document, other)
    at = draw.randrange(len(document))
    upto = at + draw.choice((0, 0, 1, 2, 9))
    return document[:at] + draw.choice(PIECES) + document[upto:]


def batch(signal: str, seed: int, count: int) -> tuple[str, int]:
    """Compare so many damaged documents; gives what differs first, and how many were taken."""
    draw = random.Random(seed)
    whole = drawn(draw, signal, DRAWN)
    return disagreement(
        signal, [spoilt(draw, draw.choice(whole), draw.choice(whole)) for _ in range(count)]
    )


def main() -> None:
    """Compare until done, or until something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    taken = 0
    for number in range(max(given.documents // A_BATCH, 1)):
        signal = SIGNALS[number % len(SIGNALS)]
        found, some = batch(signal, given.seed + number, min(A_BATCH, given.documents))
        if found:
            sys.exit(f"{signal}, seed {given.seed + number}: {found}")
        taken += some
    print(f"{given.documents:,} documents agree; {taken:,} were taken")


if __name__ == "__main__":
    main()
