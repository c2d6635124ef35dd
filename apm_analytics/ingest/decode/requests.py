"""Decode requests: by the scanner where it pays and can, else by the protobuf library.

In:  Export*ServiceRequests as bytes; OTLP JSON of the usual form.
Out: one set of tables; rejected records and warnings as the library's way gives them.

The scanner is compiled when it is first used: seconds from the disk's cache, half a minute
without. A server warms it up before it serves; everybody else gets it after some megabytes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import protobuf
from apm_analytics.ingest.decode.records import Limits
from apm_analytics.ingest.decode.sink import Decoded, DecodedRequests, RefusedUnits, Sink

if TYPE_CHECKING:
    from apm_analytics.ingest.decode.columnar import Scanner
    from apm_analytics.ingest.redaction.requests import Redactor

# The library decodes so much in about the time that the compiled scanner takes to load.
SCANNER_PAYS_BYTES = 16 * 1024 * 1024
# And so much in the time that its buffers and tables take, whatever they hold.
SCANNER_PAYS_A_CALL_BYTES = 8 * 1024
_seen: Counter[str] = Counter()
_WARM, _BYTES = "warm", "bytes"


def warm_up() -> None:
    """Load the scanner and the writer's loops, and compile what is not compiled yet.

    A server calls it before it serves; otherwise the first requests wait.
    """
    from apm_analytics.ingest.decode.columnar import Scanner
    from apm_analytics.ingest.json import transcode
    from apm_analytics.lake.parquet import loops

    loops.load()
    transcode.to_protobuf(b'{"resourceSpans": []}')
    for signal in protobuf.REQUESTS:
        scanner = Scanner(signal, 0, Limits.around_now(), {})
        for payload in (b"", b"\xff"):
            scanner.take(payload)
        scanner.tables()
    _seen[_WARM] = 1


def decode(
    signal: str,
    payloads: Sequence[bytes],
    limits: Limits,
    refused_units: RefusedUnits | None = None,
) -> DecodedRequests:
    """Decode requests of one signal; see `otlp.decode_requests`."""
    sink = Sink(refused_units)
    requests = Requests(sink, limits, refused_units, sum(map(len, payloads)))
    broken: dict[int, str] = {}
    for number, payload in enumerate(payloads):
        sink.document = number
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
    sink : where the library's way puts what it reads; others may use it too.
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
        self._by_scanner = bool(loaded) and expected >= SCANNER_PAYS_A_CALL_BYTES

    def read(self, signal: str, payload: bytes) -> None:
        """Decode one request.

        Raises
        ------
        BadInput
            The bytes are no such message; the error names the field that is damaged.
        """
        if not self._take(signal, payload):
            self._read_by_library(signal, payload)

    def read_redacted(self, signal: str, payload: bytes, redactor: "Redactor") -> bytes:
        """Decode one request without what the privacy rules take out; gives what was decoded.

        Where the scanner has taken it, only what is new to the scanner is held against the rules.

        Raises
        ------
        BadInput
            The bytes are no such message, or the redactor refuses it.
        """
        if not self._take(signal, payload):
            kept = redactor.redact(signal, payload)
            self.read(signal, kept)
            return kept
        scanner = self._scanners[signal]
        changing = redactor.changing(signal, scanner)
        if changing == []:
            return payload
        try:
            kept = redactor.redact(signal, payload, changing)
        except BadInput:
            scanner.take_back()
            raise
        if kept is payload:
            redactor.trust(scanner)
        else:
            scanner.take_back()
            if self._take(signal, kept):
                # Redacting it again would change nothing.
                redactor.trust(scanner)
            else:
                self._read_by_library(signal, kept)
        return kept

    def take_json(self, document: bytes, signal: str | None = None) -> bool:
        """Take an OTLP JSON document wholly, or leave no trace of it and say so.

        Parameters
        ----------
        signal : the only one that is taken; any when left out.
        """
        if not self._by_scanner:
            return False
        from apm_analytics.ingest.json import transcode

        found = transcode.to_protobuf(document)
        if found is None or (signal is not None and found[0] != signal):
            return False
        return self._take(*found)

    def read_any(self, payload: bytes, guess: str) -> str:
        """Decode one request of unknown signal; `guess` is tried first. Gives its signal.

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
        """Give everything, also what others put into the sink; not used again afterwards.

        Parameters
        ----------
        in_order : what the scanner took comes in order of time.
        """
        rest = self._sink.finish()
        tables = dict(rest.tables)
        if not self._by_scanner:
            return rest
        from apm_analytics.ingest.wire.encoded import encoded

        for scanner in self._scanners.values():
            for name, table in scanner.tables(in_order=in_order).items():
                if name in tables:
                    both = [table, encoded(name, tables[name])]
                    table = pa.concat_tables(both).unify_dictionaries().combine_chunks()
                tables[name] = table
        return Decoded(tables, rest.rejected, rest.warnings)

    def _read_by_library(self, signal: str, payload: bytes) -> None:
        request = protobuf.parse(signal, payload)
        protobuf.check_signal(signal, request, payload)
        protobuf.read_request(signal, request, self._sink, self._limits)

    def _take(self, signal: str, payload: bytes) -> bool:
        """Let the scanner take a request, where it is in use."""
        if not self._by_scanner:
            return False
        scanner = self._scanners.get(signal)
        if scanner is None:
            from apm_analytics.ingest.decode.columnar import Scanner

            scanner = Scanner(signal, self._expected, self._limits, self._refused_units)
            self._scanners[signal] = scanner
        return scanner.take(payload)
