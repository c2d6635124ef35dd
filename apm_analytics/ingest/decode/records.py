"""Check one OTLP record and lay it out as a row, for either encoding.

In:  the fields of a span, a metric point or a log record as Python values.
Out: the row in the order of `TableBuilder.fields`, or `Reject` with the field and the reason.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber

from apm_analytics.ingest.decode.columns import Value

INT64_END = 2**63
# A larger value is most likely a misplaced payload, and would dominate its whole part.
MAX_ATTRIBUTE_BYTES = 1024 * 1024
MAX_AHEAD = timedelta(days=1)
# Values of these types can never be too large.
SMALL = (int, float, bool, type(None))
DEFAULT_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
NO_RECORDED_VALUE = 1  # bit of a data point's flags

SPAN_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUS_CODES = ("unset", "ok", "error")
TEMPORALITIES = (None, "delta", "cumulative")
ENUM_NUMBERS: dict[str, dict[str, int]] = {
    "kind": {f"SPAN_KIND_{name.upper()}": n for n, name in enumerate(SPAN_KINDS)},
    "status.code": {f"STATUS_CODE_{name.upper()}": n for n, name in enumerate(STATUS_CODES)},
    "aggregationTemporality": {
        "AGGREGATION_TEMPORALITY_UNSPECIFIED": 0,
        "AGGREGATION_TEMPORALITY_DELTA": 1,
        "AGGREGATION_TEMPORALITY_CUMULATIVE": 2,
    },
    "severityNumber": dict(SeverityNumber.items()),
}
SEVERITIES = frozenset(ENUM_NUMBERS["severityNumber"].values())
# The option that accepts records rejected for their time; their reason contains it.
LIFTED_BY_EARLIEST = "import with --earliest"


class Reject(Exception):
    """A record is rejected: the field and the reason, in words that a user can act on."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """The first and the last valid time, in nanoseconds since 1970 UTC."""

    earliest_ns: int
    latest_ns: int

    @classmethod
    def around_now(cls, earliest: datetime | None = None) -> "Limits":
        """Accept times from `earliest` (2000-01-01 by default) to a day from now."""
        first = earliest or DEFAULT_EARLIEST
        latest = datetime.now(UTC) + MAX_AHEAD
        return cls(int(first.timestamp()) * 10**9, int(latest.timestamp()) * 10**9)

    def check(self, field: str, time_ns: int) -> int:
        """Return the time, or reject it."""
        if self.earliest_ns <= time_ns <= self.latest_ns:
            return time_ns
        if time_ns >= INT64_END:
            raise Reject(field, f"{time_ns} does not fit 64 bits of nanoseconds (year 2262)")
        shown = "missing (0)" if time_ns == 0 else _instant(time_ns)
        if time_ns < self.earliest_ns:
            raise Reject(
                field,
                f"{shown} is before {_instant(self.earliest_ns)}; correct the sender's clock, "
                f"or {LIFTED_BY_EARLIEST}",
            )
        raise Reject(field, f"{shown} is over a day in the future; correct the sender's clock")


def check_attributes(pairs: Sequence[tuple[str, Value]]) -> None:
    """Reject a record with an attribute beyond `MAX_ATTRIBUTE_BYTES`."""
    for key, value in pairs:
        size = _size(value)
        if size > MAX_ATTRIBUTE_BYTES:
            raise Reject(
                f"attributes[{key}]",
                f"{size:,} bytes, at most {MAX_ATTRIBUTE_BYTES:,} are taken; "
                "shorten it where it is set (OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT)",
            )


def _size(value: Value) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list):
        return sum(map(_size, value))
    if isinstance(value, dict):
        return sum(len(key) + _size(item) for key, item in value.items())
    return 8


def moment(field: str, time_ns: int) -> int | None:
    """Return a time within a record, such as that of an event; None when it is missing (0)."""
    if not -INT64_END <= time_ns < INT64_END:
        raise Reject(field, f"{time_ns} does not fit 64 bits of nanoseconds (year 2262)")
    return time_ns or None


def identifier(field: str, value: object, size: int) -> str | None:
    """Return an id as hex; None when it is empty.

    It comes as bytes, or as text in hex (padded where short) or base64: OTLP JSON uses hex,
    protobuf's own JSON mapping, which some exporters use, base64.
    """
    if not value:
        return None
    if type(value) is bytes and len(value) == size:
        return value.hex() if value.strip(b"\0") else None
    if type(value) is str and len(value) == 2 * size and value.isalnum():
        try:
            return value.lower() if int(value, 16) else None
        except ValueError:
            pass
    if isinstance(value, bytes):
        raise Reject(field, f"{value.hex()[:60]} has {len(value)} bytes, need {size}")
    text = ""
    if isinstance(value, str):
        text = value.lower()
        if not _is_hex(text) or len(text) > 2 * size:
            text = _from_base64(value, size) or ""
    if not text:
        raise Reject(field, f"{repr(value)[:60]} is no id of {2 * size} hex digits")
    return text.rjust(2 * size, "0") if text.strip("0") else None


def _is_hex(text: str) -> bool:
    try:
        int(text, 16)
    except ValueError:
        return False
    return text.isalnum()


def _from_base64(text: str, size: int) -> str | None:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded.hex() if len(decoded) == size else None


def span(
    limits: Limits,
    *,
    trace_id: object,
    span_id: object,
    parent_span_id: object,
    name: str,
    kind: int,
    status_code: int,
    status_message: str,
    trace_state: str,
    flags: int,
    start_ns: int,
    end_ns: int,
    dropped: tuple[int, int, int],
    events: list[dict[str, Any]],
    links: list[dict[str, Any]],
) -> tuple[Any, ...]:
    """Return the row of a span; `dropped` has counts of attributes, events and links."""
    trace = identifier("traceId", trace_id, 16)
    span_hex = identifier("spanId", span_id, 8)
    if trace is None or span_hex is None:
        missing = "traceId" if trace is None else "spanId"
        raise Reject(missing, "missing or all zero; a span cannot be joined to anything without")
    limits.check("startTimeUnixNano", start_ns)
    if end_ns < start_ns:
        raise Reject(
            "endTimeUnixNano",
            f"the span ends {(start_ns - end_ns) / 1e9:.3f} s before it starts"
            if end_ns
            else "missing (0): the span never ended",
        )
    if end_ns >= INT64_END:
        raise Reject("endTimeUnixNano", f"{end_ns} does not fit 64 bits of nanoseconds")
    return (
        start_ns,
        end_ns - start_ns,
        trace,
        span_hex,
        identifier("parentSpanId", parent_span_id, 8),
        name,
        _word("kind", SPAN_KINDS, kind),
        _word("status.code", STATUS_CODES, status_code),
        status_message or None,
        trace_state or None,
        flags,
        *dropped,
        events or None,
        links or None,
    )


def point(
    limits: Limits,
    *,
    time_ns: int,
    start_ns: int,
    name: str,
    unit: str,
    description: str,
    kind: str,
    temporality: int,
    flags: int,
    metadata: list[tuple[str, str]],
) -> tuple[Any, ...]:
    """Return the columns that all kinds of metric points share."""
    limits.check("timeUnixNano", time_ns)
    if start_ns >= INT64_END:
        raise Reject("startTimeUnixNano", f"{start_ns} does not fit 64 bits of nanoseconds")
    return (
        time_ns,
        start_ns or None,
        name,
        unit,
        description or None,
        kind,
        _word("aggregationTemporality", TEMPORALITIES, temporality),
        flags,
        metadata or None,
    )


def number(
    value: float | None, whole: int | None, flags: int, monotonic: bool | None
) -> tuple[Any, ...]:
    """Return the value columns of a gauge or sum point."""
    if value is None and whole is None and not flags & NO_RECORDED_VALUE:
        raise Reject("value", "neither asDouble nor asInt is there")
    if whole is not None and not -INT64_END <= whole < INT64_END:
        raise Reject("asInt", f"{whole} does not fit 64 bits")
    return (float(whole) if whole is not None else value, whole, monotonic)


def count_of(value: int) -> int:
    """Return a count or the size of a bucket, or reject it."""
    if not 0 <= value < INT64_END:
        raise Reject("count", f"{value} is no count that fits 63 bits")
    return value


def log(
    limits: Limits,
    *,
    time_ns: int,
    observed_ns: int,
    severity_number: int,
    severity_text: str,
    body: str | None,
    event_name: str,
    trace_id: object,
    span_id: object,
    flags: int,
    dropped: int,
) -> tuple[Any, ...]:
    """Return the row of a log record; a missing time is replaced by the observed time."""
    if severity_number not in SEVERITIES:
        raise Reject("severityNumber", f"found {severity_number}, need a number from 0 to 24")
    if body is not None and len(body) > MAX_ATTRIBUTE_BYTES:
        raise Reject("body", f"{len(body):,} bytes, at most {MAX_ATTRIBUTE_BYTES:,} are taken")
    if observed_ns >= INT64_END:
        raise Reject("observedTimeUnixNano", f"{observed_ns} does not fit 64 bits of nanoseconds")
    return (
        limits.check("timeUnixNano", time_ns or observed_ns),
        observed_ns or None,
        severity_number,
        severity_text or None,
        body,
        event_name or None,
        identifier("traceId", trace_id, 16),
        identifier("spanId", span_id, 8),
        flags,
        dropped,
    )


def _word(field: str, words: Sequence[Any], number_: int) -> Any:
    if 0 <= number_ < len(words):
        return words[number_]
    raise Reject(field, f"found {number_}, need a number from 0 to {len(words) - 1}")


def _instant(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
