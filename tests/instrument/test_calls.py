"""Graph-like APIs: span names without the tenant's data; KPIs: few series."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from apm_analytics import instrument
from apm_analytics.instrument import business
from apm_analytics.instrument.calls import CallHooks, resource
from apm_analytics.instrument.correlation import OwnHosts

GRAPH = "https://graph.microsoft.com"


@pytest.mark.parametrize(
    ("path", "version", "template"),
    [
        ("/v1.0/me", "v1.0", "/me"),
        ("/v1.0/users/anna", "v1.0", "/users/{id}"),
        ("/v1.0/users/anna@contoso.com/messages", "v1.0", "/users/{id}/messages"),
        ("/beta/groups/6e7b768e-07e2-48/members/$ref", "beta", "/groups/{id}/members/$ref"),
        ("/v1.0/users/delta", "v1.0", "/users/delta"),
        ("/v1.0/sites/root/lists/Salaries/items", "v1.0", "/sites/root/lists/{id}/items"),
        ("/v1.0/me/drive/root:/A/B.docx:/content", "v1.0", "/me/drive/root:/{path}:/content"),
        ("/v1.0/me/drive/root:/Plans", "v1.0", "/me/drive/root:/{path}"),
        ("/v1.0/users('anna')/calendar", "v1.0", "/users({id})/calendar"),
        ("/v1.0/$batch", "v1.0", "/$batch"),
        ("/", "", "/"),
    ],
)
def test_a_graph_path_keeps_its_shape_and_loses_what_it_names(
    path: str, version: str, template: str
) -> None:
    assert resource(path) == (version, template)


def hooked(url: str, status: int = 200, **more: Any) -> Any:
    """Run our hooks as contrib does, over a real span."""
    spans = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    hooks = CallHooks(OwnHosts(("*.svc",)), ("graph.microsoft.com",))
    request = httpx.Request(more.get("method", "GET"), url, json=more.get("json"))
    with provider.get_tracer("t").start_as_current_span("GET") as span:
        span.set_attribute("url.full", url)
        if more.get("later"):
            asyncio.run(hooks.request_later(span, request))
        else:
            hooks.request(span, request)
        hooks.response(span, request, httpx.Response(status, headers=more.get("headers")))
    return spans.get_finished_spans()[0]


def test_a_graph_call_has_its_own_name_and_no_data_of_the_tenant() -> None:
    url = f"{GRAPH}/v1.0/users/anna@contoso.com/messages?$filter=subject eq 'Salary'"
    span = hooked(url, later=True, headers={"request-id": "r-1"})
    found = dict(span.attributes)
    assert span.name == "GET /users/{id}/messages"
    assert found["graph.resource"] == "/users/{id}/messages" and found["graph.version"] == "v1.0"
    assert found["graph.request_id"] == "r-1"
    assert "anna" not in str(found) and "Salary" not in str(found)


def test_throttling_says_how_long_to_wait() -> None:
    found = hooked(f"{GRAPH}/v1.0/me", 429, headers={"Retry-After": "17"}).attributes
    assert found["graph.throttled"] is True and found["graph.retry_after"] == 17
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=600))
    found = hooked(f"{GRAPH}/v1.0/me", 503, headers={"Retry-After": date}).attributes
    assert found["graph.throttled"] is False and 500 <= found["graph.retry_after"] <= 601


def test_a_rubbish_retry_after_is_no_trouble() -> None:
    found = hooked(f"{GRAPH}/v1.0/me", 429, headers={"Retry-After": "soon"}).attributes
    assert found["graph.throttled"] is True and "graph.retry_after" not in found


def test_a_batch_says_how_many_requests_it_holds() -> None:
    batch = {"requests": [{"id": n, "url": f"/users/anna{n}"} for n in range(20)]}
    span = hooked(f"{GRAPH}/v1.0/$batch", method="POST", json=batch)
    assert span.name == "POST /$batch" and span.attributes["graph.batch.size"] == 20
    assert "graph.batch.size" not in hooked(f"{GRAPH}/v1.0/$batch", method="POST").attributes


def test_other_hosts_keep_their_span_as_it_is() -> None:
    assert hooked("https://api.example.com/users/anna").name == "GET"


def test_own_hosts_are_told_from_others() -> None:
    hosts = OwnHosts(("*.shop.example", "127.*"))
    ours = ["cart", "CART.shop.example", "127.0.0.1", "a.b.shop.example."]
    others = ["", "shop.example", "cart.shop.example.evil.com", "example.com", "10.0.0.1", "::1"]
    assert [hosts.holds(one) for one in ours] == [True] * 4
    assert [hosts.holds(one) for one in others] == [False] * 6


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    """KPIs of their own meter provider."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(business, "_kpis", business._Kpis())
    monkeypatch.setattr(business.metrics, "get_meter", provider.get_meter)
    return reader


def points(reader: InMemoryMetricReader, name: str) -> dict[tuple[Any, ...], Any]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        tuple(sorted(point.attributes.items())): point
        for resource_metrics in data.resource_metrics
        for scope in resource_metrics.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    }


def test_a_kpi_has_the_instrument_of_its_kind(figures: InMemoryMetricReader) -> None:
    for value in (1.0, 2.0):
        instrument.kpi("revenue", value, unit="EUR")
        instrument.kpi("basket", value, unit="EUR", kind="histogram")
        instrument.kpi("open", value, kind="gauge")
    assert points(figures, "revenue")[()].value == 3.0
    assert points(figures, "basket")[()].count == 2
    assert points(figures, "open")[()].value == 2.0


def test_a_kpi_with_ever_new_attributes_stays_small_and_says_why(
    figures: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for number in range(150):
            instrument.kpi("orders", 1, segment=f"s{number}", order_id=number)
    found = points(figures, "orders")
    assert len(found) == 101
    assert found[(("otel.metric.overflow", True),)].value == 50
    text = "\n".join(record.message for record in caplog.records)
    assert "order.id has about as many values as requests" in text
    assert "attribute 'segment' has 100 values" in text
    assert len(caplog.records) == 2


def test_a_kpi_used_wrongly_is_said_and_not_recorded(
    figures: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        instrument.kpi("revenue", 5.0, unit="EUR")
        instrument.kpi("revenue", 5.0, unit="USD")
        instrument.kpi("revenue", -5.0, unit="EUR")
        instrument.kpi("revenue", float("nan"), unit="EUR")
    assert points(figures, "revenue")[()].value == 5.0
    assert len(caplog.records) == 2 and "needs values >= 0" in caplog.text


def test_transactions_work_without_any_setup_and_let_exceptions_through() -> None:
    @instrument.transaction("refund")
    async def refund(amount: int) -> int:
        return amount * 2

    @instrument.transaction("refund")
    def refuse() -> None:
        raise KeyError("theirs")

    async def both() -> int:
        async with instrument.transaction("checkout", user_id="u1"):
            return await refund(21)

    assert asyncio.run(both()) == 42
    with pytest.raises(KeyError, match="theirs"):
        refuse()
    assert trace.get_current_span() is trace.INVALID_SPAN
