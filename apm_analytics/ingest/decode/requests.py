"""Decode requests by the scanner where it pays off, else by the protobuf library.

In:  Export*ServiceRequests as bytes; OTLP JSON of the usual form.
Out: one set of tables, rejected records and warnings.

The scanner is compiled at its first use: seconds with the cache on disk, half a minute without. A
server warms it up before it serves; other processes use it after some megabytes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import protobuf
from apm_analytics.ingest.decode.columns import Stamp
from apm_analytics.ingest.decode.records import Limits
from apm_analytics.ingest.decode.sink import Decoded, DecodedRequests, RefusedUnits, Sink

if TYPE_CHECKING:
    from apm_analytics.ingest.decode.columnar import Scanner
    from apm_analytics.ingest.redaction.requests import Redactor

# The library decodes this much in about the time that the compiled scanner takes to load.
SCANNER_PAYS_BYTES = 16 * 1024 * 1024
# It decodes this much in the time that it takes to set up the scanner's buffers and tables.
SCANNER_PAYS_PER_CALL_BYTES = 8 * 1024
_seen: Counter[str] = Counter()
_WARM, _BYTES = "warm", "bytes"


def warm_up() -> None:
    """Load the scanner and the writer's loops, and compile what is not compiled yet.

    A server calls it before it serves, so that the first requests need not wait.
    """
    from apm_analytics.ingest.decode import messages
    from apm_analytics.ingest.decode.columnar import Scanner
    from apm_analytics.ingest.json import transcode
    from apm_analytics.lake.parquet import loops

    loops.load()
    transcode.to_protobuf(b'{"resourceSpans": []}')
    for signal in protobuf.REQUESTS:
        scanner = Scanner(signal, 0, Limits.around_now(), {})
        for payload in (b"", b"\xff"):
            scanner.take(payload)
            messages.weigh(signal, payload)
        scanner.tables()
    _seen[_WARM] = 1


def decode_requests(
    signal: str,
    payloads: Sequence[bytes],
    limits: Limits | None = None,
    refused_units: RefusedUnits | None = None,
    stamps: Sequence[Stamp] = (),
) -> DecodedRequests:
    """Decode many Export*ServiceRequests of one signal into one set of tables.

    Parameters
    ----------
    limits : the limits of valid times; by default 2000-01-01 to a day from now.
    stamps : what the token of each request's sender adds to it; nothing by default.

    Returns
    -------
    Tables with the lake's columns, whose texts may be dictionary-encoded; `lake.snapshots.append`
    accepts both. The `document` of a rejected record is the index of its request. A request that
    cannot be parsed has no rows; `broken` has its index, what is wrong and where.

    Examples
    --------
    >>> decode_requests("traces", [b"", bytes([255])]).broken
    {1: 'no OTLP traces request in protobuf: cut short within the field at byte 0'}
    """
    sink = Sink(refused_units)
    size = sum(map(len, payloads))
    requests = Requests(sink, limits or Limits.around_now(), refused_units, size)
    broken: dict[int, str] = {}
    for number, payload in enumerate(payloads):
        sink.document = number
        sink.stamp = stamps[number] if stamps else ()
        try:
            requests.read(signal, payload)
        except BadInput as error:
            broken[number] = str(error)
    decoded = requests.finish()
    return DecodedRequests(decoded.tables, decoded.rejected, decoded.warnings, broken)


class Requests:
    """Decode any number of requests into one set of tables.

    Parameters
    ----------
    sink : collects what the library reads; others may use it too.
    expected : bytes of all requests together.
    """

    def __init__(
        self, sink: Sink, limits: Limits, refused_units: RefusedUnits | None, expected: int
    ) -> None:
        self._sink = sink
        self._limits = limits
        self._refused_units = refused_units or {}
        self._expected = expected
        self._scanners: dict[str, Scanner] = {}
        _seen[_BYTES] += expected
        loaded = _seen[_WARM] or _seen[_BYTES] >= SCANNER_PAYS_BYTES
        self._by_scanner = bool(loaded) and expected >= SCANNER_PAYS_PER_CALL_BYTES

    def read(self, signal: str, payload: bytes) -> None:
        """Decode one request.

        Raises
        ------
        BadInput
            The bytes are not such a message; the error names the damaged field.
        """
        if not self._take(signal, payload):
            self._read_by_library(signal, payload)

    def read_redacted(self, signal: str, payload: bytes, redactor: "Redactor") -> bytes:
        """Redact and decode one request; return the bytes that were decoded.

        Of a request that the scanner took, only texts that are new to it are checked.

        Raises
        ------
        BadInput
            The bytes are not such a message, or the redactor refuses it.
        """
        if not self._take(signal, payload):
            self._count(signal, payload)
            redacted = redactor.redact(signal, payload, bound=self._sink.bound)
            if redacted is payload or not self._take(signal, redacted):
                self._read_by_library(signal, redacted)
            return redacted
        scanner = self._scanners[signal]
        changing = redactor.changing(signal, scanner)
        if changing == []:
            return payload
        try:
            redacted = redactor.redact(signal, payload, changing)
        except BadInput:
            scanner.take_back()
            raise
        if redacted is payload:
            redactor.trust(scanner)
        else:
            scanner.take_back()
            if self._take(signal, redacted):
                # Redacting it again would change nothing.
                redactor.trust(scanner)
            else:
                self._read_by_library(signal, redacted)
        return redacted

    def take_json(self, document: bytes, signal: str | None = None) -> bool:
        """Decode an OTLP JSON document and return True, or return False and leave no row.

        Parameters
        ----------
        signal : the only signal that is accepted; any by default.
        """
        if not self._by_scanner:
            return False
        from apm_analytics.ingest.json import transcode

        transcoded = transcode.to_protobuf(document)
        if transcoded is None or (signal is not None and transcoded[0] != signal):
            return False
        return self._take(*transcoded)

    def read_any(self, payload: bytes, guess: str) -> str:
        """Decode one request of unknown signal and return its signal; `guess` is tried first.

        Raises
        ------
        BadInput
            The bytes fit none of the three signals.
        """
        if self._take(guess, payload):
            return guess
        signal, request = protobuf.detect(payload, guess)
        if signal == guess or not self._take(signal, payload):
            protobuf.read_request(signal, request, self._sink, self._limits)
        return signal

    def finish(self, *, in_order: bool = False) -> Decoded:
        """Return everything, including what others put into the sink; not used again afterwards.

        With `in_order`, the scanner's rows are sorted by time.
        """
        by_library = self._sink.finish()
        if not self._by_scanner:
            return by_library
        tables = dict(by_library.tables)
        for scanner in self._scanners.values():
            for name, table in scanner.tables(in_order=in_order).items():
                if name in tables:
                    both = [table, tables[name]]
                    table = pa.concat_tables(both).unify_dictionaries().combine_chunks()
                tables[name] = table
        return Decoded(tables, by_library.rejected, by_library.warnings)

    def _read_by_library(self, signal: str, payload: bytes) -> None:
        self._count(signal, payload)
        request = protobuf.parse(signal, payload)
        protobuf.check_signal(signal, request, payload)
        protobuf.read_request(signal, request, self._sink, self._limits)

    def _count(self, signal: str, payload: bytes) -> None:
        """Refuse a request that would take too much memory when the library reads it."""
        bound = self._sink.bound
        if bound is not None:
            from apm_analytics.ingest.decode import messages

            bound.set(messages.weigh(signal, payload))

    def _take(self, signal: str, payload: bytes) -> bool:
        """Return whether the scanner is in use and took the request."""
        if not self._by_scanner:
            return False
        scanner = self._scanners.get(signal)
        if scanner is None:
            from apm_analytics.ingest.decode.columnar import Scanner

            scanner = Scanner(signal, self._expected, self._limits, self._refused_units)
            self._scanners[signal] = scanner
        return scanner.take(payload, self._sink.stamp, self._sink.bound)
