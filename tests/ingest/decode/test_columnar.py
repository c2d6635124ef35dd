"""The scanner gives what the protobuf library gives, its reference. Covers all of `ingest.wire`."""

import random
import signal as signals
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from columnar_agreement import LIMITS, difference, disagreement
from fuzz_columnar import fuzz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from otlp_requests import attribute, logs, metrics, traces
from wire_requests import SIGNALS, Requests

from apm_analytics.foundation.errors import BadInput
from apm_analytics.ingest.decode import columnar, otlp, protobuf, requests
from apm_analytics.ingest.decode.columnar import Scanner
from apm_analytics.ingest.decode.sink import Sink
from apm_analytics.ingest.wire import layout

HERE = Path(__file__).resolve().parents[2] / "support"


@pytest.fixture(autouse=True, scope="module")
def _by_scanner() -> Iterator[None]:
    """Use the scanner for small requests too."""
    otlp.warm_up()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "SCANNER_PAYS_PER_CALL_BYTES", 0)
        yield


def _library(signal: str, payloads: list[bytes], refused: Any = None) -> otlp.DecodedRequests:
    sink, broken = Sink(refused), {}
    for number, payload in enumerate(payloads):
        sink.document = number
        try:
            request = protobuf.parse(signal, payload)
        except BadInput as error:
            broken[number] = str(error)
        else:
            protobuf.read_request(signal, request, sink, LIMITS)
    decoded = sink.finish()
    return otlp.DecodedRequests(decoded.tables, decoded.rejected, decoded.warnings, broken)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    draw=st.randoms(use_true_random=False),
    signal=st.sampled_from(SIGNALS),
    oddity=st.sampled_from([0.0, 0.01, 0.1]),
    count=st.integers(1, 4),
    ordered=st.booleans(),
)
def test_any_requests_give_what_the_library_gives(
    draw: random.Random, signal: str, oddity: float, count: int, ordered: bool
) -> None:
    payloads = [Requests(draw, oddity).request(signal) for _ in range(count)]
    differing, _ = disagreement(signal, payloads, ordered=ordered)
    assert not differing
    ours, theirs = otlp.decode_requests(signal, payloads, LIMITS), _library(signal, payloads)
    assert ours.rejected == theirs.rejected or str(ours.rejected) == str(theirs.rejected)
    assert (ours.warnings, ours.broken) == (theirs.warnings, theirs.broken)
    rows = {name: table.num_rows for name, table in theirs.tables.items()}
    assert {name: table.num_rows for name, table in ours.tables.items()} == rows


def test_20_000_damaged_requests_give_what_the_library_gives() -> None:
    # Most damaged requests are left to the library; enough others must remain to compare.
    assert fuzz(20_000, seed=1) > 5_000


def test_no_byte_beyond_a_request_or_a_buffer_is_touched() -> None:
    command = [sys.executable, "fuzz_columnar.py", "--requests", "1000", "--guarded", "--seed", "7"]
    run = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "1,000 requests agree" in run.stdout


@pytest.mark.parametrize(
    "beyond", ["against_a_guard_page(b'ab'), 2", "behind_a_guard_page(b'ab'), -1"]
)
def test_a_byte_beyond_a_guarded_buffer_cannot_be_read(beyond: str) -> None:
    program = (
        "import ctypes, guarded_memory as g\n"
        f"array, place = g.{beyond}\n"
        "ctypes.string_at(array.__array_interface__['data'][0] + place, 1)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=HERE, timeout=60)
    assert run.returncode == -signals.SIGSEGV


@pytest.mark.parametrize("build", [traces, metrics, logs])
def test_an_ordinary_request_needs_no_library(build: Any) -> None:
    request = build()
    signal = {traces: "traces", metrics: "metrics", logs: "logs"}[build]
    if build is logs:  # a body of pairs is left to the library
        request.resource_logs[0].scope_logs[0].log_records[1].body.string_value = "placed"
    assert Scanner(signal, 0, LIMITS, {}).take(request.SerializeToString())


def test_rows_of_the_library_follow_those_of_the_scanner() -> None:
    nested, payload = traces(2), traces(3).SerializeToString()
    span = nested.resource_spans[0].scope_spans[0].spans[0]
    span.attributes.append(attribute("cart", {"items": [1, 2.5, b"x"]}))
    span.events.add(name="priced", attributes=[attribute("eur", 2.5)])
    payloads = [nested.SerializeToString(), payload, b"\xff", payload]
    ours = otlp.decode_requests("traces", payloads, LIMITS)
    theirs = _library("traces", payloads)
    assert ours.broken == theirs.broken and list(ours.broken) == [2]
    assert (
        ours.tables["spans"].column("span_id").to_pylist()[-2:]
        == (theirs.tables["spans"].column("span_id").to_pylist()[:2])
    )
    assert not difference(
        {"spans": ours.tables["spans"].slice(6)}, {"spans": theirs.tables["spans"].slice(0, 2)}
    )


def test_a_request_left_to_the_library_leaves_no_text() -> None:
    request = traces(2)
    request.resource_spans[0].scope_spans[0].spans[0].attributes[0].value.string_value = "secret"
    request.resource_spans[0].scope_spans[0].spans[1].trace_id = b"short"
    scanner = Scanner("traces", 0, LIMITS, {})
    assert not scanner.take(request.SerializeToString())
    assert scanner.take(traces(1).SerializeToString())
    routes = scanner.tables()["spans"].column("http_route").combine_chunks()
    assert routes.dictionary.to_pylist() == ["/"]


def test_a_refused_unit_is_rejected_as_by_the_library() -> None:
    payloads = [metrics().SerializeToString()] * 2
    refused = {("shop", "cpu", "1"): "cpu is in percent"}
    ours = otlp.decode_requests("metrics", payloads, LIMITS, refused)
    theirs = _library("metrics", payloads, refused)
    assert ours.rejected == theirs.rejected and len(ours.rejected) == 2
    assert not difference(ours.tables, theirs.tables)


def test_both_names_of_an_attribute_are_folded_as_by_the_library() -> None:
    names = ("http.method", "http.request.method", "http.target", "url.path", "server.port")
    values = ("GET", "POST", "/a?b=1", "/a", 8080, "8080", "eighty", 2**60)
    draw, payloads = random.Random(3), []
    for _ in range(300):
        request = traces(1)
        span = request.resource_spans[0].scope_spans[0].spans[0]
        for _ in range(draw.randint(1, 5)):
            span.attributes.append(attribute(draw.choice(names), draw.choice(values)))
        payloads.append(request.SerializeToString())
    differing, taken = disagreement("traces", payloads)
    assert not differing and taken > 150


@pytest.mark.parametrize("distinct", [1_000_000, 30_000, 300])
def test_values_that_hardly_repeat_give_what_the_library_gives(distinct: int) -> None:
    draw, payloads = random.Random(distinct), []
    for number in range(600):
        request = traces(20, first=1 + 20 * number)
        for span in request.resource_spans[0].scope_spans[0].spans:
            path = f"/orders/{draw.randrange(distinct):08}"
            span.attributes.append(attribute("http.target", path))
            span.attributes.append(attribute("url.path", draw.choice((path, "/cart"))))
            span.attributes.append(attribute("app.cart", f"cart-{draw.randrange(distinct)}"))
        if number % 7 == 0:  # left to the library, and its rows removed
            span.trace_id = b"short"
        payloads.append(request.SerializeToString())
    differing, taken = disagreement("traces", payloads)
    assert not differing and taken == 600 - len(range(0, 600, 7))


def test_values_that_hardly_repeat_are_not_looked_up_and_others_have_one_code() -> None:
    request = traces(5_000)
    for number, span in enumerate(request.resource_spans[0].scope_spans[0].spans):
        span.name = "GET /orders/{id}"
        span.attributes.append(attribute("url.path", f"/orders/{number % 100:08}"))
        span.attributes.append(attribute("session.id", f"session-{number}"))
    scanner = Scanner("traces", 0, LIMITS, {})
    assert scanner.take(request.SerializeToString())
    assert scanner.state.words[layout.ENTERED // layout.WORD] < 1_000
    spans = scanner.tables()["spans"]
    assert len(spans["url_path"].combine_chunks().dictionary) < 1_000
    assert spans["session_id"].combine_chunks().dictionary.to_pylist() == [
        f"session-{number}" for number in range(5_000)
    ]


def test_repeated_attributes_give_what_the_library_gives() -> None:
    draw, payloads = random.Random(5), []
    texts = [f"{number}" * size for number in range(1, 9) for size in (0, 1, 7, 30, 60, 95, 120)]
    texts += [f"head {number:03} and a tail that all have in common" for number in range(40)]
    values = [*texts, 8080, -3, 2**60, 0.5, -0.25, True, False, "8080", "/a?b=1"]
    names = ("a", "http.target", "url.path", "server.port", "session.id", "app.name.of.length.30")
    for number in range(350):
        request = traces(5, first=1 + 5 * number)
        for span in request.resource_spans[0].scope_spans[0].spans:
            for name in draw.sample(names, 4):
                span.attributes.append(attribute(name, draw.choice(values)))
            # First in requests whose rows are removed, then in others.
            span.attributes.append(attribute("app.cart", f"cart-{number // 7}"))
        if number % 7 < 2:
            span.trace_id = b"short"
        payloads.append(request.SerializeToString())
    differing, taken = disagreement("traces", payloads)
    assert not differing and taken > 240


def test_buffers_grow_with_requests_of_any_size() -> None:
    sizes = (1, 5_000, 3, 20_000)
    payloads = [traces(count, first=1 + count).SerializeToString() for count in sizes]
    differing, taken = disagreement("traces", payloads)
    assert not differing and taken == len(sizes)


def test_more_bytes_than_arrow_can_count_are_left_to_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payload = traces(2).SerializeToString()
    monkeypatch.setattr(columnar, "MAX_BYTES", 2 * len(payload))
    scanner = Scanner("traces", 0, LIMITS, {})
    assert [scanner.take(payload) for _ in range(3)] == [True, True, False]
    assert scanner.tables()["spans"].num_rows == 4


def test_a_large_resource_is_left_to_the_library_and_leaves_no_row() -> None:
    crowded = traces(2)
    for number in range(10_000):
        crowded.resource_spans[0].resource.attributes.append(attribute(f"k{number}", "v"))
    scanner = Scanner("traces", 0, LIMITS, {})
    assert not scanner.take(crowded.SerializeToString())
    assert scanner.take(traces(3).SerializeToString())
    assert scanner.tables()["spans"].num_rows == 3
