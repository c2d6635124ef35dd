"""Real clients from other languages in front of us: the JavaScript SDK, the Collector.

`make e2e` runs it; it needs Node and Go, builds the Collector once and is not in `make test`.
"""

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import collector
import grpc
import otlp_requests
import pytest
from live_receiver import count, exporting, running

from apm_analytics.ingest.receiver import Config, Receiver
from apm_analytics.lake import query
from apm_analytics.serve.access import load_access, new_token

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "deploy" / "otel-collector" / "config.yaml"
SPANS = 2_000
TRACES = 800


@pytest.fixture(scope="module")
def program() -> Path:
    built = collector.built(collector.WHOLE)
    if built is None:
        pytest.fail("Go is not installed: install it, or leave `make e2e` out")
    return built


def test_the_javascript_sdk_sends_over_both_protocols(tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    assert npm and node, "Node is not installed"
    subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=HERE / "js", check=True)
    with running(Config(tmp_path)) as receiver:
        ports = [str(receiver.grpc_port), str(receiver.http_port)]
        subprocess.run([node, "send.js", *ports], cwd=HERE / "js", check=True, timeout=60)
    rows = query.connect(tmp_path).execute(
        "select service_name, count(*), count(distinct span_id) from spans group by all order by 1"
    )
    assert rows.fetchall() == [("js-grpc", 100, 100), ("js-http", 100, 100)]
    orders = query.connect(tmp_path).execute("select name, value from metric_points")
    assert orders.fetchall() == [("js.orders", 3.0)]


def test_the_collector_passes_on_what_it_takes_with_our_token(
    tmp_path: Path, program: Path
) -> None:
    token, entry = new_token("collector")
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(f"tokens:\n{entry}")
    lake = tmp_path / "lake"
    config = prepared(tmp_path, sampling=False)
    with (
        running(Config(lake, access=load_access(tokens))) as receiver,
        collecting(config, program, receiver, token) as port,
        exporting(port) as export,
    ):
        for first in range(0, SPANS, 100):
            export(otlp_requests.traces(100, first=first + 1).SerializeToString())
        wait_for(lake, SPANS)
    ids = query.connect(lake).execute("select count(*), count(distinct span_id) from spans")
    assert ids.fetchall() == [(SPANS, SPANS)]


def test_errors_are_kept_whole_and_jaeger_gets_a_copy(tmp_path: Path, program: Path) -> None:
    lake, copy = tmp_path / "lake", tmp_path / "copy"
    request, draw = otlp_requests.traces(TRACES), random.Random(7)
    for number, span in enumerate(request.resource_spans[0].scope_spans[0].spans):
        span.status.code = 2 if number % 4 == 0 else 0
        span.trace_id = draw.randbytes(16)  # its last bytes decide whether it is sampled
    config = prepared(tmp_path, sampling=True)
    with (
        running(Config(lake)) as receiver,
        running(Config(copy)) as jaeger,
        collecting(config, program, receiver, "t", jaeger=jaeger.grpc_port) as port,
        exporting(port) as export,
    ):
        export(request.SerializeToString())
        wait_for(lake, TRACES // 4)
        wait_for(copy, count(lake))
    kept = query.connect(lake).execute("select status_code, count(*) from spans group by all")
    counts = dict(kept.fetchall())
    assert counts["error"] == TRACES // 4
    assert 0 < counts["unset"] < TRACES // 4  # a tenth of three quarters
    assert count(copy) == count(lake)


def test_the_whole_configuration_is_valid(program: Path) -> None:
    said = subprocess.run(
        [program, "validate", "--config", CONFIG],
        env={**os.environ, **environment("127.0.0.1:1", "t", 4317)},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr


def prepared(folder: Path, *, sampling: bool) -> Path:
    """Return the configuration without tail sampling, or with a shorter wait for late spans."""
    import yaml

    config = yaml.safe_load(CONFIG.read_text())
    config["processors"]["tail_sampling"]["decision_wait"] = "1s"
    if not sampling:
        del config["processors"]["tail_sampling"]
        for pipeline in config["service"]["pipelines"].values():
            pipeline["processors"] = [p for p in pipeline["processors"] if p != "tail_sampling"]
    file = folder / "collector.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def environment(receiver: str, token: str, port: int, jaeger: int = 9) -> dict[str, str]:
    return {
        "APM_RECEIVER": receiver,
        "APM_TOKEN": token,
        "APM_RECEIVER_INSECURE": "true",
        "JAEGER": f"127.0.0.1:{jaeger}",
        "OTLP_GRPC": f"127.0.0.1:{port}",
        "OTLP_HTTP": f"127.0.0.1:{free_port()}",
    }


@contextmanager
def collecting(
    config: Path, program: Path, receiver: Receiver, token: str, *, jaeger: int = 9
) -> Iterator[int]:
    """Run the Collector in front of a receiver, with Jaeger on a port; yield its gRPC port."""
    port = free_port()
    own = environment(f"127.0.0.1:{receiver.grpc_port}", token, port, jaeger)
    with config.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [program, "--config", config],
            env={**os.environ, **own},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(60)
            yield port
        finally:
            process.terminate()
            process.wait(60)


def wait_for(lake: Path, rows: int) -> None:
    deadline = time.monotonic() + 30
    while count(lake) < rows:
        assert time.monotonic() < deadline, f"{count(lake)} rows after 30 s"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
