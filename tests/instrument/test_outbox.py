"""A watched service works as before whatever the receiver does, and leaks no secrets."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from otlp_sink import attributes, otlp_sink
from run_shop import echo, output_of, shop

from apm_analytics.ingest.files.importer import import_files
from apm_analytics.instrument import outbox
from apm_analytics.instrument.counts import Losses
from apm_analytics.instrument.outbox import Outbox
from apm_analytics.lake import query

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
PLANTED = ("hunter2", "anna@example.com", "4111111111111111", JWT[-20:], "dXNlcjpwYXNz", "Salary")


def burst(client: httpx.Client, requests: int) -> list[float]:
    """Make requests by four clients at once; return the latencies in seconds."""

    def one(number: int) -> float:
        started = time.perf_counter()
        answer = client.get(f"/products/{number}")
        assert answer.status_code == 200 and answer.json() == {"id": number}
        return time.perf_counter() - started

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, range(requests)))


def test_whatever_the_receiver_does_the_service_answers_as_ever() -> None:
    queues = {"OTEL_BSP_MAX_QUEUE_SIZE": "40", "OTEL_BLRP_MAX_QUEUE_SIZE": "40"}
    with ExitStack() as receiver, otlp_sink() as sink, shop(sink, **queues) as client:
        usual = statistics.median(burst(client, 150))

        def stays_itself() -> None:
            latencies = burst(client, 150)
            assert statistics.median(latencies) < 4 * usual + 0.05
            assert max(latencies) < 5.0  # waiting for an export would take 10 s

        for mode in ("slow", "refusing", "rubbish"):
            sink.mode = mode
            stays_itself()
            sink.await_that(lambda: sink.met[sink.mode, "/v1/traces"])
        sink.mode = "ok"

        def reasons() -> set[tuple[str, str]]:
            metric = sink.metrics().get("apm.telemetry.dropped")
            points = metric.sum.data_points if metric else []
            found = [attributes(point) for point in points]
            return {(str(one["signal"]), str(one["reason"])) for one in found}

        sink.await_that(lambda: {("spans", "queue_full"), ("spans", "export_failed")} <= reasons())
        sink.mode = "hanging"
        stays_itself()
        sink.await_that(lambda: sink.met[sink.mode, "/v1/traces"])
        stays_itself()
        receiver.close()
    assert "Traceback" not in output_of(client)


def test_a_receiver_that_is_not_there_changes_nothing_and_does_not_hold_the_exit() -> None:
    with shop(None, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as client:
        assert max(burst(client, 50)) < 5.0
        ended = time.monotonic()
    assert time.monotonic() - ended < 10  # the SDK would wait for half a minute


def test_secrets_and_personal_data_never_leave_the_process(tmp_path: Path) -> None:
    with otlp_sink() as sink, echo() as (third, _):
        graph = third.replace("127.0.0.1", "localhost") + "v1.0/users/anna@example.com/messages"
        settings = {
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": ".*",
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": ".*",
            "OTEL_RESOURCE_ATTRIBUTES": "app.password=hunter2,owner=anna@example.com",
            "SHOP_CALLS": f"{graph}?$filter=subject+eq+'Salary' {third}?api_key=hunter2",
            "APM_GRAPH_HOSTS": "localhost",
            "APM_OWN_HOSTS": "none.example",
        }
        with shop(sink, **settings) as client:
            secret = {
                "Authorization": f"Bearer {JWT}",
                "Cookie": "sid=hunter2; card=4111111111111111",
                "X-Api-Key": "hunter2",
                "X-Note": "ask anna@example.com",
                "Proxy-Authorization": "Basic dXNlcjpwYXNz",
                "X-Request-ID": "req-1",
                "baggage": "user.id=anna%40example.com,session.id=s1",
            }
            client.get("/products/7?token=hunter2&mail=anna%40example.com", headers=secret)
            client.post("/checkout?user=anna@example.com&password=hunter2", headers=secret)
            client.get("/fails", headers={**secret, "Connection": "close"})
            client.get("/nowhere/anna@example.com/4111111111111111", headers=secret)
            sink.await_that(lambda: any(span.name == "GET /fails" for span in sink.spans()))
            sink.await_that(lambda: any("order of" in log.body.string_value for log in sink.logs()))
            sink.await_that(lambda: "shop.revenue" in sink.metrics())
        for planted in PLANTED:
            for path, body in sink.requests:
                assert planted.encode() not in body, (planted, path)
        sink.write(tmp_path / "captured.jsonl")
    # Everything that is not secret has arrived, so the check above searched real telemetry.
    spans = {span.name: attributes(span) for span in sink.spans()}
    assert spans["GET /users/{id}/messages"]["graph.resource"] == "/users/{id}/messages"
    assert str(spans["GET /products/{product}"]["user.id"]).startswith("hash:")
    assert spans["GET /products/{product}"]["session.id"] == "s1"
    assert "http.request.header.authorization" not in spans["GET /products/{product}"]
    summary = import_files([tmp_path / "captured.jsonl"], tmp_path / "lake", progress=False)
    assert summary.ok
    with query.connect(tmp_path / "lake") as con:
        for table in ("spans", "logs", "metric_points", "histogram_points"):
            text = str(con.sql(f"select * from {table}").fetchall())
            assert len(text) > 100, table
            assert not [planted for planted in PLANTED if planted in text], table


def test_opentelemetry_instrument_watches_a_service_that_knows_nothing_of_it() -> None:
    launcher = (str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable)
    ours = {"OTEL_PYTHON_DISTRO": "apm", "OTEL_PYTHON_CONFIGURATOR": "apm"}
    with otlp_sink() as sink, shop(sink, launcher=launcher, **ours) as client:
        answer = client.get("/products/7", headers={"X-Correlation-ID": "visit-1"})
        assert answer.headers["x-correlation-id"] == "visit-1"
        failed = client.get("/fails", headers={"Connection": "close"})
        assert failed.json()["correlation_id"] == failed.headers["x-correlation-id"]
        sink.await_that(lambda: any(s.name == "GET /products/{product}" for s in sink.spans()))
        names = [span.name for span in sink.spans()]
        assert not any(name.endswith(("send", "receive")) for name in names)


def test_what_is_switched_off_or_badly_ruled_leaves_the_service_as_it_is(tmp_path: Path) -> None:
    broken = tmp_path / "privacy.yaml"
    broken.write_text("keys: 1\n")
    program = (
        "import sys, fastapi, logging; logging.basicConfig();"
        "from apm_analytics import instrument;"
        "app = fastapi.FastAPI(); before = app.build_middleware_stack;"
        "assert instrument.setup(app) is None;"
        "assert app.build_middleware_stack == before and not app.exception_handlers.get(Exception)"
    )
    for variable, value in (("APM_ENABLED", "0"), ("APM_PRIVACY_RULES", str(broken))):
        done = subprocess.run(
            [sys.executable, "-c", program], env={variable: value}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert "this service is not instrumented" in done.stderr and "line 1" in done.stderr


def test_importing_the_instrumentation_loads_no_analytics() -> None:
    heavy = ("duckdb", "polars", "pyarrow", "numba", "pandas", "numpy", "grpc", "pydantic")
    program = (
        "import sys; from apm_analytics import instrument;"
        "from apm_analytics.instrument import distro;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_outbox_drops_and_counts_what_does_not_fit_and_survives_a_bad_exporter() -> None:
    import threading

    go = threading.Event()
    sent: list[list[int]] = []

    def send(batch: list[int]) -> bool:
        go.wait(10)
        sent.append(batch)
        if len(sent) == 1:
            raise RuntimeError("theirs")
        return True

    losses = Losses()
    outbox: Outbox[Any] = Outbox(
        "spans", lambda item: item, send, losses, max_queue=10, max_batch=5, delay_s=0.01
    )
    for number in range(100):
        outbox.put(number)
    go.set()
    assert outbox.flush(10)
    arrived = sum(len(batch) for batch in sent[1:])
    counted = losses.by_reason()
    assert counted["spans", "export_failed"] == len(sent[0])
    assert arrived + losses.total("spans") == 100
    assert counted["spans", "queue_full"] >= 80
    outbox.close(1)
    outbox.put(1)
    assert losses.total("spans") == 100 - arrived + 1


def test_an_outbox_lets_the_application_run_between_items_unless_someone_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import threading

    monkeypatch.setattr(outbox, "PAUSE_S", 60.0)
    paused = threading.Event()
    prepared: list[int] = []
    sent: list[int] = []

    def prepare(item: int) -> int:
        prepared.append(item)
        if len(prepared) == outbox.SLICE:
            paused.set()
        return item

    def send(batch: Sequence[int]) -> bool:
        sent.extend(list(batch))
        return True

    box = outbox.Outbox("spans", prepare, send, Losses(), delay_s=60.0)
    for number in range(5):
        box.put(number)
    box._wake.set()  # the minute is over
    assert paused.wait(10) and not sent
    assert prepared == [0, 1]
    assert box.flush(10) and sent == [0, 1, 2, 3, 4]
    box.close(1)
