"""Only authenticated senders may send, within their rate; no secret is logged.

Tests serve.access, with a receiver; TLS and the commands are tested here as well.
"""

import logging
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import otlp_requests
import pytest
import trustme
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from live_receiver import running
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.ingest.receiver import Config, Receiver, Tls
from apm_analytics.ingest.receiver.grpc_endpoint import SERVICES
from apm_analytics.lake import query
from apm_analytics.serve.access import load_access, new_token
from apm_analytics.serve.refusals import STATUS_TRAILER

GOOD = otlp_requests.traces(1).SerializeToString()
PROTOBUF = {"content-type": "application/x-protobuf"}
ORIGIN = "https://shop.example"


class Tokens:
    """A token file with a stamped tenant and a rate-limited one."""

    def __init__(self, folder: Path) -> None:
        self.shop, shop = new_token("shop")
        self.slow, slow = new_token("slow")
        self.file = folder / "tokens.yaml"
        self.file.write_text(
            f"tokens:\n{shop}  resource: {{tenant.id: shop}}\n{slow}  max_bytes_per_s: 1000\n"
        )


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return Tokens(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def receiver(tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    lake = tmp_path_factory.mktemp("lake")
    config = Config(lake, access=load_access(tokens.file), cors_origins=[ORIGIN])
    with running(config) as made:
        yield made


def post(receiver: Receiver, content: bytes = GOOD, **headers: str) -> httpx.Response:
    url = f"http://127.0.0.1:{receiver.http_port}/v1/traces"
    return httpx.post(url, content=content, headers={**PROTOBUF, **headers})


def export(
    receiver: Receiver, content: bytes, *metadata: tuple[str, str]
) -> tuple[grpc.StatusCode, Status | None]:
    """Send over gRPC; return the code and the details of a refusal."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{receiver.grpc_port}", options=options) as channel:
        call = channel.unary_unary(f"/{SERVICES['traces']}/Export").future(
            content, metadata=metadata
        )
        trailer = dict(call.trailing_metadata() or ()).get(STATUS_TRAILER)
        return call.code(), Status.FromString(trailer) if trailer else None


def test_without_its_token_nobody_may_send(receiver: Receiver, tokens: Tokens) -> None:
    assert export(receiver, GOOD)[0] is grpc.StatusCode.UNAUTHENTICATED
    wrong = ("authorization", f"Bearer {tokens.shop}x")
    assert export(receiver, GOOD, wrong)[0] is grpc.StatusCode.UNAUTHENTICATED
    refused = post(receiver)
    assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
    assert post(receiver, authorization=f"Basic {tokens.shop}").status_code == 401


def test_a_token_is_valid_for_both_endpoints(receiver: Receiver, tokens: Tokens) -> None:
    bearer = ("authorization", f"bearer {tokens.shop}")
    assert export(receiver, GOOD, bearer)[0] is grpc.StatusCode.OK
    assert post(receiver, authorization=f"Bearer {tokens.shop}").status_code == 200
    assert post(receiver, **{"x-api-key": tokens.shop}).status_code == 200


def test_a_token_gives_no_right_to_read(receiver: Receiver, tokens: Tokens) -> None:
    for path in ("/metrics", "/readyz", "/v1/traces"):
        url = f"http://127.0.0.1:{receiver.http_port}{path}"
        answer = httpx.get(url, headers={"authorization": f"Bearer {tokens.shop}"})
        assert answer.status_code in (404, 405)


def test_a_sender_above_its_rate_is_told_when_to_retry(receiver: Receiver, tokens: Tokens) -> None:
    large = otlp_requests.traces(20).SerializeToString()
    slow = ("authorization", f"Bearer {tokens.slow}")
    answers = [export(receiver, large, slow) for _ in range(3)]
    code, details = answers[-1]
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and details
    retry = RetryInfo()
    assert details.details[0].Unpack(retry) and retry.retry_delay.ToTimedelta().total_seconds() > 0
    refused = post(receiver, large, authorization=f"Bearer {tokens.slow}")
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert post(receiver, authorization=f"Bearer {tokens.shop}").status_code == 200


def test_what_a_tenant_sends_carries_its_stamp(tokens: Tokens, tmp_path: Path) -> None:
    forged = otlp_requests.traces(2)
    forged.resource_spans[0].resource.attributes.append(
        otlp_requests.attribute("tenant.id", "another")
    )
    bare = otlp_requests.traces(1)
    bare.resource_spans[0].ClearField("resource")
    with running(Config(tmp_path, access=load_access(tokens.file))) as receiver:
        for request in (forged, bare):
            content = request.SerializeToString()
            assert post(receiver, content, **{"x-api-key": tokens.shop}).status_code == 200
    rows = query.connect(tmp_path).execute(
        "select resource_attributes['tenant.id'], count(*) from spans group by all"
    )
    assert rows.fetchall() == [("shop", 3)]


def test_only_listed_origins_may_send_from_a_browser(receiver: Receiver) -> None:
    url = f"http://127.0.0.1:{receiver.http_port}/v1/traces"
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    allowed = httpx.options(url, headers={**asked, "origin": ORIGIN})
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    refused = httpx.options(url, headers={**asked, "origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers


def test_no_secret_is_logged(
    receiver: Receiver, tokens: Tokens, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        for token in (tokens.shop, "wrong-secret"):
            post(receiver, authorization=f"Bearer {token}")
            post(receiver, b"\xff", authorization=f"Bearer {token}")
    assert tokens.shop not in caplog.text and "wrong-secret" not in caplog.text
    assert tokens.shop not in tokens.file.read_text()


def test_without_tokens_only_loopback_is_served(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="apm token NAME"):
        Receiver(Config(tmp_path, host="0.0.0.0"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens:\n- name: a\n  sha256: short\n", "tokens.0.sha256"),
        ("tokens:\n- nam: a\n", "tokens.0.nam"),
        ("tokens: [", "not YAML"),
        ("tokens:\n" + 2 * ("- name: a\n  sha256: " + 64 * "a" + "\n"), "twice"),
    ],
)
def test_a_token_file_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text(text)
    with pytest.raises(BadParameter, match=message):
        load_access(file)


def test_tls_and_client_certificates(tmp_path: Path) -> None:
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("sender@shop.example")
    files = {
        name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "client", "client-key")
    }
    authority.cert_pem.write_to_path(files["ca"])
    server.cert_chain_pems[0].write_to_path(files["cert"])
    server.private_key_pem.write_to_path(files["key"])
    client.cert_chain_pems[0].write_to_path(files["client"])
    client.private_key_pem.write_to_path(files["client-key"])
    tls = Tls(files["cert"], files["key"], files["ca"])
    with running(Config(tmp_path / "lake", tls=tls)) as receiver:
        url = f"https://127.0.0.1:{receiver.http_port}/v1/traces"
        context = ssl.create_default_context(cafile=str(files["ca"]))
        with pytest.raises(httpx.TransportError):
            httpx.post(url, content=GOOD, headers=PROTOBUF, verify=context)
        context.load_cert_chain(files["client"], files["client-key"])
        answer = httpx.post(url, content=GOOD, headers=PROTOBUF, verify=context)
        assert answer.status_code == 200
        credentials = grpc.ssl_channel_credentials(
            files["ca"].read_bytes(),
            files["client-key"].read_bytes(),
            files["client"].read_bytes(),
        )
        exporter = OTLPSpanExporter(f"https://127.0.0.1:{receiver.grpc_port}", None, credentials)
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        with provider.get_tracer("tests").start_as_current_span("over mTLS"):
            pass
        provider.shutdown()
        without = grpc.ssl_channel_credentials(files["ca"].read_bytes())
        address = f"127.0.0.1:{receiver.grpc_port}"
        with grpc.secure_channel(address, without) as channel:
            call = channel.unary_unary(f"/{SERVICES['traces']}/Export").future(GOOD, timeout=10)
            assert call.code() is grpc.StatusCode.UNAVAILABLE
    found = query.connect(tmp_path / "lake").execute(
        "select count(*) from spans where name = 'over mTLS'"
    )
    assert found.fetchall() == [(1,)]


def test_the_command_serves_with_a_token_it_made(tmp_path: Path) -> None:
    apm = Path(sys.executable).parent / "apm"
    made = subprocess.run([apm, "token", "shop"], capture_output=True, text=True, check=True)
    file = tmp_path / "tokens.yaml"
    file.write_text(f"tokens:\n{made.stdout}")
    command = [apm, "receive", "--lake", tmp_path / "lake", "--host", "127.0.0.1"]
    for option in ("--grpc-port", "--http-port", "--admin-port"):
        command += [option, "0"]
    environment = {**os.environ, "APM_RECEIVE_TOKENS_FILE": str(file)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr
            line = next(line for line in process.stderr if "over HTTP" in line)
            url = next(word for word in line.split() if "://" in word).removesuffix(",")
            token = made.stderr.splitlines()[0].split()[-1]
            assert httpx.post(url, content=GOOD, headers=PROTOBUF).status_code == 401
            headers = {**PROTOBUF, "authorization": f"Bearer {token}"}
            assert httpx.post(url, content=GOOD, headers=headers).status_code == 200
            process.terminate()
            output = process.communicate(timeout=60)[1]
        finally:
            process.kill()  # if the test failed; no effect on an ended process
    assert process.returncode == 0 and "stopped" in output and token not in output
    assert query.connect(tmp_path / "lake").execute("from spans").fetchall()
