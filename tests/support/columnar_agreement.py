"""Compare the scanner with the protobuf library, request by request."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import protobuf
from apm_analytics.ingest.decode.columnar import Scanner
from apm_analytics.ingest.decode.records import Limits
from apm_analytics.ingest.decode.sink import Sink
from apm_analytics.ingest.wire.blocks import recycled
from apm_analytics.ingest.wire.state import Allocate
from apm_analytics.lake.parts import in_order
from apm_analytics.lake.schema import TABLES

LIMITS = Limits.around_now()


Payload = bytes | NDArray[np.uint8]


def disagreement(
    signal: str,
    payloads: Sequence[Payload],
    allocate: Allocate = recycled,
    *,
    ordered: bool = False,
) -> tuple[str, int]:
    """Decode requests both ways; return the first difference, and how many the scanner took.

    Parameters
    ----------
    ordered : compare the rows in order of time.
    """
    scanner = Scanner(signal, 0, LIMITS, {}, allocate)
    reference = Sink()
    taken = 0
    for payload in payloads:
        aside, before = Sink(), len(reference.rejected)
        by_scanner = scanner.take(payload)
        taken += by_scanner
        sink = reference if by_scanner else aside
        try:
            request = protobuf.parse(signal, bytes(payload))
        except BadInput as error:
            if by_scanner:
                return f"the scanner took a request that the library refuses: {error}", taken
            continue
        protobuf.read_request(signal, request, sink, LIMITS)
        if by_scanner and (len(reference.rejected) > before or reference.warnings):
            return f"the scanner took a record that is rejected: {reference.rejected}", taken
        aside.finish()
    theirs = reference.finish().tables
    if ordered:
        theirs = {name: in_order(table) for name, table in theirs.items()}
    return difference(scanner.tables(in_order=ordered), theirs), taken


def difference(ours: dict[str, pa.Table], theirs: dict[str, pa.Table]) -> str:
    """Return the first column of two sets of tables that differs, "" for none."""
    if ours.keys() != theirs.keys():
        return f"tables {sorted(ours)}, need {sorted(theirs)}"
    for name, table in ours.items():
        table.validate(full=True)
        for field in TABLES[name]:
            actual = table[field.name].cast(field.type).combine_chunks()
            needed = theirs[name][field.name].cast(field.type).combine_chunks()
            # For Arrow, NaN does not equal NaN; as texts they are equal.
            if not actual.equals(needed) and str(actual.to_pylist()) != str(needed.to_pylist()):
                return f"{name}.{field.name}: {actual.to_pylist()}, need {needed.to_pylist()}"
    return ""


def first_culprit(signal: str, payloads: Iterable[Payload]) -> str:
    """Return the first request that differs when decoded alone."""
    for payload in payloads:
        differing, _ = disagreement(signal, [payload])
        if differing:
            return f"{signal} {bytes(payload).hex()}: {differing}"
    return "only together"
