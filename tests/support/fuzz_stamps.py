"""Fuzz stamps: whatever a sender sends, its rows carry its own tenant, and no other.

In:  --requests, --seed.
Out: the number of requests and rows; exit code 1 with the first row of another tenant.
"""

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
from fuzz_columnar import mutated
from fuzz_json import spoilt
from otlp_requests import as_json, attribute
from wire_requests import SIGNALS, Requests

from apm_analytics.foundation import varint
from apm_analytics.foundation.errors import BadInput
from apm_analytics.foundation.privacy import PrivacyRules
from apm_analytics.ingest.decode import otlp, protobuf
from apm_analytics.ingest.json.otlp import SIGNALS as SIGNAL_FIELDS
from apm_analytics.ingest.redaction.requests import Redactor
from apm_analytics.ingest.staging import Stage, Taken
from apm_analytics.ingest.stamps import stamp
from apm_analytics.ingest.units import Units
from apm_analytics.lake.journal import Entry

# One key that is stored in the map of resource attributes, one that is a column.
KEY, COLUMN_KEY, COLUMN = "tenant.id", "service.namespace", "service_namespace"
TENANTS = ("shop", "mill")
FORGED = "mill"  # what every request claims, whoever sends it
A_BATCH = 500
DRAWN = 12  # drawing is slow, so few are drawn and each is damaged in many ways
_FORGED_PAIR = attribute(KEY, FORGED).SerializeToString()
_FORGED_PAIRS = b"".join(
    b"\x0a" + varint.encode(len(pair)) + pair
    for pair in (_FORGED_PAIR, attribute(COLUMN_KEY, FORGED).SerializeToString())
)
_JSON_PAIRS = [{"key": key, "value": {"stringValue": FORGED}} for key in (KEY, COLUMN_KEY)]
_JSON_RESOURCE = b'"resource":{"attributes":' + orjson.dumps(_JSON_PAIRS) + b"}"
_FIELD = re.compile(rb'"([a-z]+(?:[A-Z][a-z]+)+)":')


def of_tenant(tenant: str) -> bytes:
    """Return the stamp of one tenant's token."""
    return stamp({KEY: tenant, COLUMN_KEY: tenant})


def forged(draw: random.Random, request: bytes) -> bytes:
    """Add what claims another tenant to the entries of a protobuf request."""
    entries: list[bytes] = []
    at = 0
    while at < len(request):
        size, start = varint.decode(request, at + 1)
        entry, at = request[start : start + size], start + size
        resource = b"\x0a" + varint.encode(len(_FORGED_PAIRS)) + _FORGED_PAIRS
        way = draw.randrange(7)
        if way == 0:
            entry = resource + entry
        elif way == 1:
            entry += resource
        elif way == 2:
            entry = resource + entry + resource
        elif way == 3:  # the entry has no resource of its own
            entry = _without_field_1(entry)
        elif way == 4:
            entry = b"\x0a\x00" + _without_field_1(entry)
        elif way == 5:  # a tag that is longer than it must be
            entry += b"\x8a\x00" + resource[1:]
        entries.append(b"\x0a" + varint.encode(len(entry)) + entry)
    return b"".join(entries)


def _without_field_1(message: bytes) -> bytes:
    kept = b""
    at = 0
    while at < len(message):
        size, start = varint.decode(message, at + 1)
        if message[at] != 0x0A:
            kept += message[at : start + size]
        at = start + size
    return kept


def _claimed_below(signal: str, payload: bytes) -> bytes:
    """Return a request whose scopes and records have attributes with the stamped keys."""
    request = protobuf.parse(signal, payload)
    claim = [attribute(KEY, FORGED), attribute(COLUMN_KEY, FORGED)]
    top, middle, leaf = (_snake_case(name.encode()).decode() for name in SIGNAL_FIELDS[signal])
    for entry in getattr(request, top):
        for group in getattr(entry, middle):
            group.scope.attributes.extend(claim)
            for record in getattr(group, leaf) if signal != "metrics" else ():
                record.attributes.extend(claim)
    return bytes(request.SerializeToString())


def forged_json(draw: random.Random, document: bytes) -> bytes:
    """Add what claims another tenant to a document, and write some names as protobuf does."""
    way = draw.randrange(5)
    if way == 0:
        document = document.replace(b'"scope', _JSON_RESOURCE + b',"scope')
    elif way == 1:
        document = document.replace(b'"resource":', _JSON_RESOURCE + b',"resource":')
    elif way == 2:
        document = document.replace(b'"resource":', b'"resource":{},"Resource":')
    elif way == 3:
        pairs = orjson.dumps(_JSON_PAIRS)[1:-1]
        document = document.replace(b'"attributes":[', b'"attributes":[' + pairs + b",")
    share = draw.choice((0.0, 0.3, 1.0))
    return _FIELD.sub(
        lambda name: _snake_case(name[0]) if draw.random() < share else name[0], document
    )


def _snake_case(name: bytes) -> bytes:
    return re.sub(rb"[A-Z]", lambda letter: b"_" + letter[0].lower(), name)


def batch(signal: str, seed: int, count: int) -> list[Entry]:
    """Draw requests of several tenants in both encodings, most of them forged or damaged."""
    draw = random.Random(seed)
    requests = Requests(draw, 0.0)
    binary: list[bytes] = []
    while len(binary) < DRAWN:
        payload = requests.request(signal)
        try:
            if not otlp.decode_protobuf(signal, payload).tables:
                continue
        except BadInput:
            continue
        binary.append(_claimed_below(signal, payload) if len(binary) % 2 else payload)
    documents = [
        orjson.dumps(as_json(protobuf.parse(signal, payload), enum_numbers=True))
        for payload in binary
    ]
    spoil: Callable[[random.Random, bytes, bytes], bytes]
    entries = []
    for _ in range(count):
        if draw.random() < 0.5:
            kind, spoil = signal, mutated
            payload, other = (forged(draw, draw.choice(binary)) for _ in range(2))
        else:
            kind, spoil = f"{signal}+json", spoilt
            payload, other = (forged_json(draw, draw.choice(documents)) for _ in range(2))
        if draw.random() < 0.5:
            payload = spoil(draw, payload, other)
        entries.append(Entry(kind, payload, of_tenant(draw.choice(TENANTS))))
    return entries


def tenants(entries: Sequence[Entry], units: Units, redactor: Redactor) -> Counter[str]:
    """Return the rows of each tenant, as the receiver would write these requests.

    Raises
    ------
    AssertionError
        A row or dead letter has another tenant than the senders, or none.
    """
    found: Counter[str] = Counter()
    stage = Stage(units, sum(len(entry.payload) for entry in entries))
    taken = stage.take(entries, redactor)
    decoded = stage.finish()
    replay = Stage(units, sum(len(entry.payload) for entry in entries))
    replay.take([one.entry for one in taken if isinstance(one, Taken)])
    replayed = replay.finish()
    for rows in (decoded, replayed):
        for table in rows.tables.values():
            for attributes, column in zip(
                table["resource_attributes"].to_pylist(), table[COLUMN].to_pylist(), strict=True
            ):
                values = [value for key, value in attributes if key == KEY]
                assert values == [column] and column in TENANTS, f"{values}, {column}: {attributes}"
                assert COLUMN_KEY not in dict(attributes)
                found[column] += rows is decoded
        for letter in rows.letters:
            assert letter["stamp"][KEY] in TENANTS
    assert {name: table.num_rows for name, table in decoded.tables.items()} == {
        name: table.num_rows for name, table in replayed.tables.items()
    }
    return found


def fuzz(count: int, seed: int, lake: Path, rules: PrivacyRules) -> int:
    """Check a number of requests; return how many rows they became.

    Raises
    ------
    AssertionError
        A row lacks its tenant or carries another one.
    """
    redactor, units, rows = Redactor(rules), Units(lake), 0
    for number in range(-(-count // A_BATCH)):
        signal = SIGNALS[number % len(SIGNALS)]
        entries = batch(signal, seed + number, min(A_BATCH, count - number * A_BATCH))
        together = tenants(entries, units, redactor)
        alone: Counter[str] = Counter()
        for tenant in TENANTS:
            mine = [entry for entry in entries if entry.stamp == of_tenant(tenant)]
            by_tenant = tenants(mine, units, redactor)
            assert set(by_tenant) <= {tenant}, f"{signal}, seed {seed + number}: {by_tenant}"
            alone += by_tenant
        assert alone == together, f"{signal}, seed {seed + number}: {alone}, {together}"
        rows += together.total()
    return rows


def main() -> None:
    """Fuzz and print the result."""
    import tempfile

    from apm_analytics.foundation.privacy import load_rules
    from apm_analytics.ingest.decode.requests import warm_up

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=120_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    warm_up()
    rules = load_rules(Path(__file__).parents[2] / "specs" / "privacy.yaml", salt="fuzz")
    with tempfile.TemporaryDirectory() as folder:
        try:
            rows = fuzz(arguments.requests, arguments.seed, Path(folder), rules)
        except AssertionError as error:
            sys.exit(str(error))
    print(f"{arguments.requests:,} requests became {rows:,} rows, each of its own tenant")


if __name__ == "__main__":
    main()
