"""The privacy rules remove secrets before anything is stored; the rest is unchanged.

Covers `requests`, `scan` and `rewrite`.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import otlp_requests
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from apm_analytics.foundation.errors import BadInput, BadParameter
from apm_analytics.foundation.privacy import load_rules
from apm_analytics.ingest.decode import requests
from apm_analytics.ingest.decode.records import Limits
from apm_analytics.ingest.decode.sink import Sink
from apm_analytics.ingest.redaction import scan
from apm_analytics.ingest.redaction.requests import Redactor

RULES = load_rules(Path(__file__).resolve().parents[3] / "specs" / "privacy.yaml", salt="tests")
REDACTOR = Redactor(RULES)
SECRETS = [
    ("http.request.header.authorization", "Basic dXNlcjpwYXNz"),
    ("db.query.text", "select * from users where name = 'Ada'"),
    ("db.user.password", 1234),
    ("login.secret", ["a", "b"]),
    ("card_number", {"issuer": "x", "digits": 4111111111111111}),
    ("note", "card 4111 1111 1111 1111 was declined"),
    ("note", "4111111111111111"),
    ("contact", "mail ada@shop.example now"),
    ("url.full", "https://shop.example/?token=abc123def&next=/"),
    ("nested", {"deep": [{"api_key": "0123456789"}]}),
    ("reply", "Bearer abcdef0123456789abcdef"),
    ("jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"),
]
CLEAN = [
    ("http.route", "/api/v1/orders/{id}"),
    ("url.full", "https://shop.example/cart"),
    ("session.id", "0123456789abcdef"),
    ("db.query.text", "select * from users where name = ?"),
    ("retry", 3),
    ("path", ["a", "b"]),
    ("city", "Köln"),
    ("order", {"lines": [1, 2]}),
]


def request(*pairs: tuple[str, Any]) -> ExportTraceServiceRequest:
    message = otlp_requests.traces(2)
    span = message.resource_spans[0].scope_spans[0].spans[1]
    span.attributes.extend(otlp_requests.attribute(key, value) for key, value in pairs)
    return message


def redacted(message: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    left = REDACTOR.redact("traces", message.SerializeToString())
    return ExportTraceServiceRequest.FromString(left)


@pytest.mark.parametrize("pair", SECRETS, ids=str)
def test_secrets_are_removed(pair: tuple[str, Any]) -> None:
    message = request(pair)
    left = redacted(message)
    assert left != message
    for secret in ("dXNlcj", "Ada", "1234", "4111", "ada@", "abc123", "0123456789", "abcdef0"):
        assert secret not in str(left)


@pytest.mark.parametrize("pair", CLEAN, ids=str)
def test_clean_requests_are_returned_as_the_same_bytes(pair: tuple[str, Any]) -> None:
    content = request(pair).SerializeToString()
    assert REDACTOR.redact("traces", content) is content


def places(secret: str) -> dict[str, Callable[[ExportTraceServiceRequest], None]]:
    pair = otlp_requests.attribute("note", secret)

    def span(message: ExportTraceServiceRequest) -> Any:
        return message.resource_spans[0].scope_spans[0].spans[0]

    return {
        "span name": lambda message: setattr(span(message), "name", secret),
        "status": lambda message: setattr(span(message).status, "message", secret),
        "resource": lambda message: message.resource_spans[0].resource.attributes.append(pair),
        "scope": lambda message: (
            message.resource_spans[0].scope_spans[0].scope.attributes.append(pair)
        ),
        "event": lambda message: span(message).events.add().attributes.append(pair),
        "event name": lambda message: span(message).events.add(name=secret),
        "link": lambda message: span(message).links.add().attributes.append(pair),
    }


@pytest.mark.parametrize("place", places(""))
def test_every_place_of_a_trace_is_checked(place: str) -> None:
    message = request()
    places("ada@shop.example")[place](message)
    assert "ada@" not in str(redacted(message))


def test_log_bodies_and_exemplars_are_checked() -> None:
    logs = otlp_requests.logs()
    records = logs.resource_logs[0].scope_logs[0].log_records
    records[0].body.string_value = "password=hunter2"
    records[1].body.CopyFrom(otlp_requests.any_value({"password": "hunter3"}))
    left = REDACTOR.redact("logs", logs.SerializeToString())
    assert b"hunter" not in left and len(left) > 50
    metrics = otlp_requests.metrics()
    points = metrics.resource_metrics[0].scope_metrics[0].metrics[2].histogram.data_points
    points[0].exemplars[0].filtered_attributes.append(
        otlp_requests.attribute("cookie", "session=1")
    )
    assert b"session=1" not in REDACTOR.redact("metrics", metrics.SerializeToString())


@pytest.mark.parametrize("pair", SECRETS, ids=str)
def test_json_is_redacted_alike(pair: tuple[str, Any]) -> None:
    document = orjson.dumps(otlp_requests.as_json(request(pair)))
    left = orjson.loads(REDACTOR.redact("traces+json", document))
    assert left != orjson.loads(document)
    attributes = left["resourceSpans"][0]["scopeSpans"][0]["spans"][1]["attributes"]
    for secret in ("dXNlcj", "Ada", "1234", "4111", "ada@", "abc123", "0123456789", "abcdef0"):
        assert secret not in str(attributes)


def test_clean_json_is_returned_as_the_same_bytes() -> None:
    document = orjson.dumps(otlp_requests.as_json(request(*CLEAN)))
    assert REDACTOR.redact("traces+json", document) is document


def test_redacting_twice_changes_nothing_more() -> None:
    once = REDACTOR.redact("traces", request(*SECRETS).SerializeToString())
    assert REDACTOR.redact("traces", once) == once


def test_a_second_key_does_not_hide_the_first() -> None:
    pair = b"\x0a\x05note1" + b"\x0a\x08password" + b"\x12\x08\x0a\x06hunter"
    span = b"\x4a" + bytes([len(pair)]) + pair
    inner = b"\x12" + bytes([len(span)]) + span
    outer = b"\x12" + bytes([len(inner)]) + inner
    content = b"\x0a" + bytes([len(outer)]) + outer
    assert b"hunter" not in REDACTOR.redact("traces", content)


def test_unreadable_requests_are_left_to_the_decoder() -> None:
    content = request(*SECRETS).SerializeToString()[:-1]
    assert REDACTOR.redact("traces", content) == content
    with pytest.raises(BadInput, match="no JSON"):
        REDACTOR.redact("traces+json", b'{"a": "\xff"}')


PIECES = st.sampled_from(
    [
        *(str(value) for _, value in SECRETS + CLEAN),
        *(
            "password",
            "sk-",
            "@",
            "eyJ",
            "4111",
            "1111",
            " ",
            "-",
            "=",
            "://",
            "ü",
            "a",
            "Token",
            "x",
        ),
    ]
)
TEXTS = st.lists(PIECES, max_size=5).map("".join)
KEYS = st.sampled_from([key for key, _ in SECRETS + CLEAN]) | TEXTS
VALUES = st.recursive(
    TEXTS | st.integers(-(2**40), 2**40) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=6), TEXTS)
def test_the_scan_never_misses_what_the_rules_change(
    pairs: list[tuple[str, Any]], name: str
) -> None:
    message = request(*pairs)
    message.resource_spans[0].scope_spans[0].spans[0].name = name
    by_scan = redacted(message)
    REDACTOR._redact_message(message)  # every text and key, without a scan
    assert by_scan == message


def test_only_the_records_with_a_secret_are_rewritten() -> None:
    odd = b"\x2a\x01a\x2a\x01b"  # a name twice, which no library would write
    content = b"".join(field(2, span) for span in (odd, b"\x2a\x10ada@shop.example", odd))
    left = REDACTOR.redact("traces", field(1, field(2, content)))
    assert left.count(odd) == 2 and b"ada@" not in left
    spans = ExportTraceServiceRequest.FromString(left).resource_spans[0].scope_spans[0].spans
    assert [span.name for span in spans][::2] == ["b", "b"] and len(spans) == 3


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def test_scanning_a_large_request_gives_the_same_as_parsing_all_of_it() -> None:
    draw = random.Random(7)
    for _ in range(60):
        message = ExportTraceServiceRequest()
        for _ in range(draw.randrange(1, 4)):
            message.MergeFrom(otlp_requests.traces(draw.randrange(1, 6)))
        holders: list[Any] = []
        for entry in message.resource_spans:
            entry.schema_url = draw.choice(["", "https://opentelemetry.io/schemas/1.30.0"])
            holders.append(entry.resource)
            for group in entry.scope_spans:
                holders += [group.scope, *group.spans]
        for holder in draw.sample(holders, min(len(holders), draw.randrange(4))):
            # An empty text last: its message ends there.
            for key, value in draw.sample([*SECRETS, ("password", ""), ("password", 0)], 2):
                holder.attributes.append(otlp_requests.attribute(key, value))
        by_scan = redacted(message)
        REDACTOR._redact_message(message)
        assert by_scan == message


def test_redacting_what_the_scanner_took_gives_the_same_bytes_as_redacting_first() -> None:
    requests.warm_up()
    draw = random.Random(11)
    unchanged = 0
    for _ in range(6):  # texts and keys repeat from request to request
        redactor = Redactor(RULES)
        reading = requests.Requests(Sink(), Limits.around_now(), None, 1024 * 1024)
        alike = requests.Requests(Sink(), Limits.around_now(), None, 1024 * 1024)
        for _ in range(60):
            message = otlp_requests.traces(draw.randrange(1, 5))
            entry = message.resource_spans[0]
            spans = entry.scope_spans[0].spans
            for span in spans:
                for key, value in draw.sample(CLEAN, 3):
                    span.attributes.append(otlp_requests.attribute(key, value))
            if draw.random() < 0.4:
                place = draw.choice(list(places("")))
                places(draw.choice(["ada@shop.example", "fine", "4111111111111111"]))[place](
                    message
                )
            if draw.random() < 0.3:  # few texts, some of them several times; many
                for number in range(draw.choice((3, 12))):
                    mail = f"{'ada@' * (number % 7)}shop.example"
                    pair = otlp_requests.attribute(f"contact.{number}", mail)
                    draw.choice(spans).attributes.append(pair)
            if draw.random() < 0.3:
                pair = otlp_requests.attribute(*draw.choice(SECRETS))
                draw.choice([*spans, entry.resource, entry.scope_spans[0].scope]).attributes.append(
                    pair
                )
            content = message.SerializeToString()
            first = REDACTOR.redact("traces", content)
            assert reading.read_redacted("traces", content, redactor) == first
            unchanged += first is content
            alike.read("traces", first)
        assert reading.finish().tables["spans"].equals(alike.finish().tables["spans"])
    assert unchanged > 100


def test_a_record_of_very_many_attributes_is_refused_by_every_path() -> None:
    requests.warm_up()
    reading = requests.Requests(Sink(), Limits.around_now(), None, 1024 * 1024)
    message = otlp_requests.traces(1)
    span = message.resource_spans[0].scope_spans[0].spans[0]
    for number in range(scan.MAX_PAIRS + 1):
        span.attributes.add(key=f"{number}")
    with pytest.raises(BadInput, match="attributes in one record"):
        reading.read_redacted("traces", message.SerializeToString(), REDACTOR)
    assert not reading.finish().tables


def test_damaged_requests_are_read_within_their_bounds() -> None:
    draw = random.Random(5)
    whole = request(*SECRETS, *CLEAN).SerializeToString()
    for _ in range(3000):
        content = bytearray(whole[: draw.randrange(1, len(whole))])
        for _ in range(draw.randrange(4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        REDACTOR.redact("traces", bytes(content))


def test_a_rule_that_needs_too_short_a_part_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "privacy.yaml"
    file.write_text("keys: []\npatterns:\n  x: {action: mask, needs: [ab], regex: abc}\n")
    with pytest.raises(BadParameter, match="three bytes"):
        Redactor(load_rules(file, salt="s"))


def test_rules_apply_to_more_keys_than_the_table_holds() -> None:
    redactor = Redactor(RULES)
    for start in range(0, scan.KEY_SLOTS, 2000):
        pairs = [(f"key{number}", 1) for number in range(start, start + 2000)]
        content = request(*pairs, ("password", "hunter")).SerializeToString()
        assert b"hunter" not in redactor.redact("traces", content)
