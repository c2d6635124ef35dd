"""Fuzz OTLP JSON: documents that the scanner takes give the rows of `json.otlp`, its reference.

In:  --documents, --seed.
Out: the number of compared documents; exit code 1 with the first difference.
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
DRAWN = 30  # drawing is slow, so few are drawn and each is damaged in many ways

# Pieces of JSON that have another meaning, or none, in another place.
PIECES = (
    b'"', b"\\", b"\\u00e9", b"\\u003c", b"\\n", b",", b"{", b"}", b"[", b"]", b":", b" ", b"\n",
    b"null", b"true", b"0", b"-", b"1e5", b".5", b'"1"', b"01", b"1.0", b'{"stringValue":"x"}',
    b'"intValue":', b'"doubleValue":1.5', b'"key":"k"', b'"attributes":[', b'"kind":"2"', b"\xff",
    b'"SPAN_KIND_CLIENT"', b'"kind":"SPAN_KIND_SERVER"',
    b'"name":', b'"traceId":""', b"\xc3\xa9", b"9223372036854775808", b"-0", b"\x00",
)  # fmt: skip


def disagreement(signal: str, documents: Sequence[bytes]) -> tuple[str, int]:
    """Read documents both ways; return the first difference, and how many the scanner took."""
    scanner, reference, taken = Scanner(signal, 0, LIMITS, {}), Sink(), 0
    for document in documents:
        transcoded = transcode.to_protobuf(document)
        if transcoded is None or not scanner.take(transcoded[1]):
            continue
        assert transcoded[0] == signal
        taken += 1
        try:
            otlp_json.read_document(orjson.loads(document), reference, LIMITS, only=signal)
        except (orjson.JSONDecodeError, BadInput) as error:
            return f"the scanner took what is refused: {error}: {document!r}", taken
        if reference.rejected or reference.warnings:
            return f"the scanner took what is odd: {reference.rejected}: {document!r}", taken
    return difference(scanner.tables(), reference.finish().tables), taken


def drawn(draw: random.Random, signal: str, count: int) -> list[bytes]:
    """Draw documents that the scanner takes, because only those are compared."""
    documents: list[bytes] = []
    while len(documents) < count:
        try:
            request = protobuf.parse(signal, Requests(draw, 0.0).request(signal))
        except BadInput:
            continue
        document = orjson.dumps(as_json(request, enum_numbers=draw.random() < 0.5))
        if disagreement(signal, [document])[1]:
            documents.append(document)
    return documents


def spoilt(draw: random.Random, document: bytes, other: bytes) -> bytes:
    """Insert a piece at a random place, or damage a byte."""
    if draw.random() < 0.3:
        return mutated(draw, document, other)
    at = draw.randrange(len(document))
    upto = at + draw.choice((0, 0, 1, 2, 9))
    return document[:at] + draw.choice(PIECES) + document[upto:]


def batch(signal: str, seed: int, count: int) -> tuple[str, int]:
    """Compare damaged documents; return the first difference, and how many were taken."""
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
    options = parser.parse_args()
    taken = 0
    for number in range(max(options.documents // A_BATCH, 1)):
        signal = SIGNALS[number % len(SIGNALS)]
        differing, some = batch(signal, options.seed + number, min(A_BATCH, options.documents))
        if differing:
            sys.exit(f"{signal}, seed {options.seed + number}: {differing}")
        taken += some
    print(f"{options.documents:,} documents agree; {taken:,} were taken")


if __name__ == "__main__":
    main()
