"""Run the watched shop, and hosts that it calls.

In:  a sink of OTLP, settings.
Out: a client of the running shop, and afterwards its output.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
from otlp_sink import Sink

from demo.servers import free_port

PYTHON = (sys.executable,)
SHOP = Path(__file__).with_name("watched_shop.py")
QUICK = {
    "OTEL_BSP_SCHEDULE_DELAY": "100",
    "OTEL_BLRP_SCHEDULE_DELAY": "100",
    "OTEL_METRIC_EXPORT_INTERVAL": "500",
    "OTEL_SERVICE_NAME": "shop",
    "APM_PRIVACY_SALT": "pepper",
    "APM_SHUTDOWN_SECONDS": "2",
}


@contextmanager
def shop(
    sink: Sink | None, *, launcher: tuple[str, ...] = PYTHON, **settings: str
) -> Iterator[httpx.Client]:
    """Run the service; yield a client of it. Its output is in `client.params["output"]`."""
    port = free_port()
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("APM_", "OTEL_"))}
    environ |= QUICK | settings
    if sink is not None:
        environ.setdefault("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
    command = [*launcher, str(SHOP), str(port), *([] if launcher != PYTHON else ["watched"])]
    with (
        tempfile.TemporaryFile("w+") as written,  # a pipe that nobody reads would fill up
        subprocess.Popen(command, env=environ, stderr=written) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        deadline = time.monotonic() + 40
        while True:
            try:
                client.get("/refuses")
                break
            except httpx.ConnectError:
                assert process.poll() is None, process.args
                assert time.monotonic() < deadline
                time.sleep(0.05)
        try:
            yield client
        finally:
            process.terminate()
            process.wait(timeout=20)
            written.seek(0)
            client.headers["x-output"] = json.dumps(written.read())


def output_of(client: httpx.Client) -> str:
    text: str = json.loads(client.headers["x-output"])
    return text


@contextmanager
def echo(redirect: str = "") -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Run a server that remembers the headers of GET requests, and may send them elsewhere."""
    heard: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(dict(self.headers.items()))
            self.send_response(302 if redirect else 200)
            if redirect:
                self.send_header("Location", redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Write no log line."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
