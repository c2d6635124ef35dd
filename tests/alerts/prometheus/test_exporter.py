"""The .prom text means the same to every reader, up to a real Prometheus."""

import http.server
import json
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import publishing
import pytest
from bounds_frames import make_bounds, make_provenance
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from apm_analytics.alerts import publication, thresholds
from apm_analytics.alerts.gate.history import NONE
from apm_analytics.alerts.prometheus import exporter
from apm_analytics.foundation import settings as workspace_settings
from demo.servers import free_port

OLD, NEW = "20261123T020000Z-4f2a", "20261124T020000Z-77aa"
ODD = [('sh"op\\', 'GET "/a"\\n\n{id},x=y}  # ünï \U0001f6d2\t\u2028'), ("", "")]


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Sample name -> labels and value, as Prometheus' own Python client reads it."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_every_threshold_reads_back_with_its_labels_and_value() -> None:
    frame = thresholds.thresholds(make_bounds(ODD), make_provenance())
    found = samples(exporter.text(frame))
    for bound in ("lower", "upper"):
        rows = frame.filter(pl.col("bound") == bound)
        assert {
            (d["service"], d["operation"], d["signal"], int(d["hour_of_week"])): value
            for d, value in found[f"apm_baseline_{bound}"]
        } == {
            (service, operation, signal, hour): value
            for service, operation, signal, hour, value in rows.select(
                *thresholds.SERIES, "hour_of_week", "value"
            ).iter_rows()
        }
    assert len(found["apm_baseline_expected"]) == len(ODD) * 3 * 168


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_operation_name_reads_back(name: str) -> None:
    text = f'x{{operation="{exporter.escape(name)}"}} 1\n'
    assert samples(text)["x"] == [({"operation": name}, 1.0)]


def test_provenance_reads_back_per_series_with_the_training_time() -> None:
    trained_at = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
    frame = thresholds.thresholds(make_bounds(), make_provenance(OLD, trained_at))
    found = samples(exporter.text(frame))
    assert found["apm_baseline_trained_timestamp_seconds"] == [({}, trained_at.timestamp())]
    assert len(found["apm_baseline_info"]) == 9
    labels, value = found["apm_baseline_info"][0]
    assert value == 1
    assert labels == {
        "service": "cart",
        "operation": "POST /cart/{id}",
        "signal": "error_ratio",
        "unit": "1",
        "model": "prophet",
        "run_id": OLD,
        "git_commit": "0123abc-dirty",
        "data_hash": "sha256:feed",
    }


def test_each_metric_has_one_help_and_one_type_line_and_promtool_agrees(
    server_binary: Callable[[str], Path],
) -> None:
    judged = thresholds.thresholds(make_bounds(), make_provenance())
    decided = judged.with_columns(
        pages_per_week=pl.lit(0.25), unproven=pl.lit(True), candidate=pl.lit(NONE)
    )
    text = exporter.text(decided)
    lines = text.splitlines()
    for name in exporter.HELP:
        assert sum(line.startswith(f"# HELP {name} ") for line in lines) == 1
        assert lines.count(f"# TYPE {name} gauge") == 1
    subprocess.run(
        [server_binary("promtool"), "check", "metrics"], input=text, text=True, check=True
    )


def test_a_threshold_that_the_gate_refused_is_left_out_but_its_expected_value_is_not() -> None:
    frame = thresholds.thresholds(make_bounds(), make_provenance())
    refused = pl.col("signal") == "latency_p95"
    found = samples(exporter.text(frame.with_columns(published=~refused, pages_per_week=1.5)))
    assert {labels["signal"] for labels, _ in found["apm_baseline_upper"]} == {
        "rate",
        "error_ratio",
    }
    assert "latency_p95" in {labels["signal"] for labels, _ in found["apm_baseline_expected"]}
    pages = found["apm_threshold_pages_per_week"]
    assert {(labels["signal"], labels["bound"], value) for labels, value in pages} == {
        ("rate", "lower", 1.5),
        ("rate", "upper", 1.5),
        ("error_ratio", "upper", 1.5),
    }


def test_the_text_does_not_depend_on_the_order_of_rows() -> None:
    frame = thresholds.thresholds(make_bounds(), make_provenance())
    assert exporter.text(frame.sample(fraction=1, shuffle=True, seed=1)) == exporter.text(frame)


@contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as opened, subprocess.Popen(command, stdout=opened, stderr=opened) as own:
        try:
            yield
        finally:
            own.terminate()


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Serve a folder over HTTP as a scrape target."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map = {".prom": "text/plain; version=0.0.4"}  # noqa: RUF012

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def prometheus(binary: Path, folder: Path, target: str, path: str, rules: Path) -> Iterator[int]:
    """A Prometheus on a free port that scrapes one target and evaluates every second."""
    port = free_port()
    folder.mkdir()
    config = folder / "prometheus.json"  # JSON is YAML
    job = {"job_name": "apm", "metrics_path": path, "static_configs": [{"targets": [target]}]}
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(rules / "*.yml")],
                "scrape_configs": [job],
            }
        )
    )
    command = [
        str(binary),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command, folder / "log"):
        yield port


def ask(port: int, query: str, *, until: Callable[[list[Any]], bool]) -> list[Any]:
    """Ask Prometheus until the answer fits; fail with the last one."""
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    deadline = time.monotonic() + 30
    result: list[Any] = []
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                result = json.load(answer)["data"]["result"]
        except OSError:
            result = []  # not up yet
        if until(result):
            return result
        time.sleep(0.3)
    raise AssertionError(f"{query} gave {result} for 30 s")


def has(count: int) -> Callable[[list[Any]], bool]:
    return lambda found: len(found) == count


def publish(out: Path, run_id: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Publish thresholds of odd and plain operations, without promtool, which other tests run."""
    release = publication.begin(out, run_id)
    bounds = make_bounds([*ODD, ("cart", "GET /")])
    frame = thresholds.thresholds(bounds, make_provenance(run_id))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(out))
        publishing.publish(frame, release, workspace / "specs")
    publication.promote(release, out)
    return out / "published" / "prometheus"


def check_this_hour(port: int, prometheus_folder: Path) -> None:
    """`apm:baseline_*:current` is the wider value of the hours that the look-back spans."""
    look_back = timedelta(seconds=workspace_settings.load().params.thresholds.sustained_s)
    frame = pl.read_parquet(prometheus_folder.parent / "thresholds.parquet")
    for bound, wider in (("upper", max), ("lower", min)):
        rows = frame.filter(pl.col("bound") == bound)
        count = len(rows) // 168
        before = datetime.now(UTC)
        found = ask(port, f"apm:baseline_{bound}:current", until=has(count))
        spans = [
            [(t.isoweekday() % 7) * 24 + t.hour for t in (now - look_back, now)]
            for now in (before, datetime.now(UTC))
        ]
        values = {
            (service, operation, signal, hour): value
            for service, operation, signal, hour, value in rows.select(
                *thresholds.SERIES, "hour_of_week", "value"
            ).iter_rows()
        }
        for item in found:
            labels, value = item["metric"], float(item["value"][1])
            key = (labels.get("service", ""), labels.get("operation", ""), labels["signal"])
            assert value in {wider(values[(*key, hour)] for hour in hours) for hours in spans}, (
                labels
            )


def test_a_real_prometheus_joins_the_threshold_of_this_hour(
    tmp_path: Path,
    workspace: Path,
    server_binary: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    binary = server_binary("prometheus")
    folder = publish(tmp_path / "out", OLD, workspace, monkeypatch)
    with (
        serving(folder) as target,
        prometheus(
            binary,
            tmp_path / "prometheus",
            f"127.0.0.1:{target}",
            "/apm_thresholds.prom",
            folder / "rules",
        ) as port,
    ):
        check_this_hour(port, folder)
        ask(port, "apm:baseline_fresh:bool == 1", until=has(1))


def test_new_thresholds_reach_prometheus_through_node_exporters_textfile_collector(
    tmp_path: Path,
    workspace: Path,
    server_binary: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    binary, exporter_binary = server_binary("prometheus"), server_binary("prometheus-node-exporter")
    folder = publish(tmp_path / "out", OLD, workspace, monkeypatch)
    target = f"127.0.0.1:{free_port()}"
    command = [
        str(exporter_binary),
        f"--web.listen-address={target}",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={folder}",
    ]
    runs = "max by (run_id) (apm_baseline_info)"

    def only(run_id: str) -> Callable[[list[Any]], bool]:
        return lambda found: [item["metric"]["run_id"] for item in found] == [run_id]

    with (
        running(command, tmp_path / "exporter.log"),
        prometheus(binary, tmp_path / "prometheus", target, "/metrics", folder / "rules") as port,
    ):
        ask(port, runs, until=only(OLD))
        check_this_hour(port, folder)
        publish(tmp_path / "out", NEW, workspace, monkeypatch)
        ask(port, runs, until=only(NEW))
        check_this_hour(port, folder)
        errors = ask(port, "node_textfile_scrape_error", until=has(1))
        assert float(errors[0]["value"][1]) == 0
