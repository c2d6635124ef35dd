"""Where telemetry goes: OTLP over gRPC into a real receiver, or standard output; masked on both."""

import os
import subprocess
import sys
from pathlib import Path

from live_receiver import count, running

from apm_analytics.ingest.receiver import Config
from apm_analytics.lake import query

PROGRAM = """
import logging
from apm_analytics import instrument
pipeline = instrument.setup()
with instrument.transaction("checkout", user_id="u1") as tx:
    tx.set("client.address", "203.0.113.9")
    logging.getLogger("shop").warning("password=hunter2")
    instrument.kpi("shop.revenue", 42.0, unit="EUR")
assert pipeline.flush(20)
"""


def run(**settings: str) -> str:
    """Run a watched program; return its standard output."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("APM_", "OTEL_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environ | {"APM_PRIVACY_SALT": "pepper"} | settings,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_signals_arrive_in_the_lake_over_grpc(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with running(Config(lake)) as receiver:
        endpoint = f"http://127.0.0.1:{receiver.grpc_port}"
        run(OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    with query.connect(lake) as con:
        found = query.frame(con, "select name, user_id, client_address from spans").to_dicts()
    assert found == [{"name": "checkout", "user_id": "u1", "client_address": "***"}]
    assert count(lake, "logs where body = 'password=***'") == 1
    assert count(lake, "metric_points where name = 'shop.revenue' and value = 42") >= 1


def test_all_signals_can_be_read_on_standard_output() -> None:
    console = {f"OTEL_{signal}_EXPORTER": "console" for signal in ("TRACES", "METRICS", "LOGS")}
    output = run(**console)
    assert '"name": "checkout"' in output and "shop.revenue" in output and "password=***" in output
    assert "hunter2" not in output and "203.0.113.9" not in output
