"""A token's attributes are in every row that it sends, whatever the request says.

Tests ingest.stamps, ingest.staging, decode.columns and the receiver together.
"""

import hashlib
from pathlib import Path
from typing import Any

import httpx
import orjson
import otlp_requests
import pytest
from fuzz_stamps import fuzz
from live_receiver import exporting, running
from warm_receiver import RULES, Started, started

from apm_analytics.ingest.decode.columns import context
from apm_analytics.ingest.receiver import Config, Receiver
from apm_analytics.lake import query
from apm_analytics.serve import Access
from apm_analytics.serve.access import Token

SHOP = {"tenant.id": "shop", "service.namespace": "shop"}
MILL = {"tenant.id": "mill", "service.namespace": "mill"}
BANK = {"tenant.id": "bank", "service.namespace": "bank"}
TENANTS = """
    select distinct resource_attributes['tenant.id'] as tenant, service_namespace as namespace
    from {} order by all
"""


def access() -> Access:
    """Return the access of two tenants whose tokens are their names."""
    return Access(
        [
            Token(name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), resource=stamp)
            for name, stamp in (("shop", SHOP), ("mill", MILL))
        ]
    )


def post(receiver: Receiver | Started, token: str, payload: bytes, media: str, signal: str) -> Any:
    url = f"http://127.0.0.1:{receiver.http_port}/v1/{signal}"
    headers = {"authorization": f"Bearer {token}", "content-type": media}
    return httpx.post(url, content=payload, headers=headers)


def tenants(lake: Path, table: str) -> list[tuple[str, str]]:
    return query.connect(lake).execute(TENANTS.format(table)).fetchall()


def claimed(request: Any) -> Any:
    """Return the request with the tenant bank in its resource, scope and records."""
    claim = [otlp_requests.attribute(key, value) for key, value in BANK.items()]
    (_, (entry,)), *_ = request.ListFields()
    entry.resource.attributes.extend(claim)
    return request


def two_resources(signal: str, request: Any) -> tuple[bytes, str]:
    payload = request.SerializeToString()
    forged = claimed(type(request).FromString(payload))
    (_, (entry,)), *_ = forged.ListFields()
    extra = entry.resource.SerializeToString()
    (_, (entry,)), *_ = request.ListFields()
    body = entry.SerializeToString() + b"\x0a" + bytes([len(extra)]) + extra
    size = len(body)
    return b"\x0a" + bytes([size & 0x7F | 0x80, size >> 7]) + body, "application/x-protobuf"


def own_attribute(signal: str, request: Any) -> tuple[bytes, str]:
    return claimed(request).SerializeToString(), "application/x-protobuf"


def no_resource(signal: str, request: Any) -> tuple[bytes, str]:
    (_, (entry,)), *_ = request.ListFields()
    entry.ClearField("resource")
    return request.SerializeToString(), "application/x-protobuf"


def snake_case(signal: str, request: Any) -> tuple[bytes, str]:
    names = {"resourceSpans": "resource_spans", "resourceMetrics": "resource_metrics"}
    text = orjson.dumps(otlp_requests.as_json(claimed(request)))
    for camel, snake in {
        **names,
        "resourceLogs": "resource_logs",
        "scopeLogs": "scope_logs",
    }.items():
        text = text.replace(camel.encode(), snake.encode())
    return text, "application/json"


def repeated_names(signal: str, request: Any) -> tuple[bytes, str]:
    text = orjson.dumps(otlp_requests.as_json(request))
    (_, (entry,)), *_ = claimed(request).ListFields()
    forged = orjson.dumps(otlp_requests.as_json(entry.resource))
    return text.replace(b'"scope', b'"resource":' + forged + b',"scope', 1), "application/json"


def empty_resource(signal: str, request: Any) -> tuple[bytes, str]:
    document = otlp_requests.as_json(request)
    (entries,) = document.values()
    entries[0]["resource"] = None
    return orjson.dumps(document), "application/json"


REQUESTS = {
    "traces": (otlp_requests.traces, "spans"),
    "metrics": (otlp_requests.metrics, "metric_points"),
    "logs": (otlp_requests.logs, "logs"),
}
FORMS = (own_attribute, two_resources, no_resource, snake_case, repeated_names, empty_resource)


@pytest.mark.parametrize("signal", REQUESTS)
def test_no_form_of_a_request_changes_its_tenant(tmp_path: Path, signal: str) -> None:
    make, table = REQUESTS[signal]
    with running(Config(tmp_path, access=access())) as receiver:
        for form in FORMS:
            payload, media = form(signal, make())
            answer = post(receiver, "shop", payload, media, signal)
            assert answer.status_code == 200, (form.__name__, answer.text)
            assert post(receiver, "mill", payload, media, signal).status_code == 200
    assert tenants(tmp_path, table) == [("mill", "mill"), ("shop", "shop")]
    per_tenant = f"select count(*) from {table} group by service_namespace"
    (shop,), (mill,) = query.connect(tmp_path).execute(per_tenant).fetchall()
    assert shop == mill > len(FORMS) - 1


def test_what_a_sender_says_under_a_stamped_key_is_kept_under_another(tmp_path: Path) -> None:
    payload, media = own_attribute("traces", otlp_requests.traces())
    with running(Config(tmp_path, access=access())) as receiver:
        post(receiver, "shop", payload, media, "traces")
    kept = "select distinct resource_attributes::text from spans"
    ((attributes,),) = query.connect(tmp_path).execute(kept).fetchall()
    assert "tenant.id.duplicate=bank" in attributes
    assert "service.namespace.duplicate=bank" in attributes


def test_a_stamp_survives_a_crash_and_two_tenants_may_send_the_same_bytes(tmp_path: Path) -> None:
    payload, media = two_resources("traces", otlp_requests.traces(3))
    with started(tmp_path, access=access()) as receiver:
        for tenant in ("shop", "mill"):
            assert post(receiver, tenant, payload, media, "traces").status_code == 200
        receiver.kill()
    with started(tmp_path, access=access()) as receiver:
        # Repeats of both are recognised, so there are no more rows.
        for tenant in ("shop", "mill"):
            assert post(receiver, tenant, payload, media, "traces").status_code == 200
        receiver.stop()
    rows = "select service_namespace, count(*) from spans group by all order by all"
    assert query.connect(tmp_path).execute(rows).fetchall() == [("mill", 3), ("shop", 3)]
    assert tenants(tmp_path, "spans") == [("mill", "mill"), ("shop", "shop")]


def test_a_rejected_record_keeps_its_stamp(tmp_path: Path) -> None:
    request = otlp_requests.traces(2)
    request.resource_spans[0].scope_spans[0].spans[0].span_id = b""
    with running(Config(tmp_path, access=access())) as receiver:
        post(receiver, "shop", *own_attribute("traces", request), "traces")
    (letters,) = (tmp_path / "dead_letter").glob("*.jsonl")
    assert orjson.loads(letters.read_bytes())["stamp"] == SHOP


def test_a_stamp_is_longer_than_the_kind_of_a_journal_entry(tmp_path: Path) -> None:
    long = {f"team.{number}": "é" * 100 for number in range(50)}
    token = Token(name="shop", sha256=hashlib.sha256(b"shop").hexdigest(), resource=long)
    payload = otlp_requests.traces(1).SerializeToString()
    with started(tmp_path, access=Access([token])) as receiver:
        post(receiver, "shop", payload, "application/x-protobuf", "traces")
        receiver.kill()
    with started(tmp_path) as receiver:
        receiver.stop()
    found = "select resource_attributes['team.49'] from spans"
    assert query.connect(tmp_path).execute(found).fetchall() == [("é" * 100,)]


def test_grpc_requests_are_stamped_too(tmp_path: Path) -> None:
    payload, _ = two_resources("traces", otlp_requests.traces(3))
    with (
        running(Config(tmp_path, access=access())) as receiver,
        exporting(receiver.grpc_port) as export,
    ):
        export(payload, metadata=(("authorization", "Bearer shop"),))
    assert tenants(tmp_path, "spans") == [("shop", "shop")]


def test_an_old_name_of_a_stamped_attribute_does_not_pass_for_it() -> None:
    stamp = (("deployment.environment.name", "live"),)
    values = context([("deployment.environment", "test")], "", "", "", [], "", stamp)
    assert "live" in values
    assert [("deployment.environment.duplicate", "test")] in values


def test_fuzzed_requests_keep_their_tenants(tmp_path: Path) -> None:
    assert fuzz(3_000, 1, tmp_path, RULES) > 2_000
