"""Run the shop: servers, services, customers, faults; its telemetry goes into a lake.

In:  duration, faults, path of the lake.
Out: a lake written by `apm receive`; beside it truth.json, and requests.jsonl of the customers.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from apm_analytics.foundation.atomic import write_atomic
from demo import plan, servers
from demo.shop import places

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = {"good": "1.4.0", "bad": "1.5.0"}
STOP_S = 20.0
SETTLE_S = 2.0  # wait after the load, for the last exports and the worker


@dataclass
class Shop:
    """Running processes of the shop."""

    environment: dict[str, str]
    folder: Path
    log: Path
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, *names: str, **more: str) -> None:
        """Start parts of the shop and wait until all are ready."""
        version = more.pop("version", VERSIONS["good"])
        with self.log.open("ab") as log:
            for name in names:
                own = {
                    "OTEL_SERVICE_NAME": name,
                    "OTEL_RESOURCE_ATTRIBUTES": f"service.version={version},"
                    "service.namespace=demo,deployment.environment.name=demo",
                    **more,
                }
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "demo.shop", name],
                    env={**self.environment, **own},
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                )
        for name in names:
            self._await(self.processes[name])

    def _await(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + servers.READY_S
        while not (self.folder / "ready" / str(process.pid)).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-2_000:]
                raise RuntimeError(f"{process.args!r} did not start; its log ends:\n{tail}")
            time.sleep(0.05)

    def replace(self, name: str, **more: str) -> None:
        """Deploy another release: the new one is ready before the old one stops."""
        old = self.processes[name]
        self.start(name, **more)
        end(old)

    def stop(self, name: str) -> None:
        """Stop one part; it sends its telemetry before it ends."""
        end(self.processes.pop(name))

    def set(self, *on: str) -> None:
        """Set the faults that are on."""
        write_atomic(self.folder / "faults.json", json.dumps(dict.fromkeys(on, True)).encode())


def end(process: "subprocess.Popen[Any]") -> None:
    """Terminate a process; kill it when it does not end in time."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def storage(folder: Path) -> Iterator[dict[str, str]]:
    """Run PostgreSQL and Redis if they are installed; else use SQLite and no cache."""
    with contextlib.ExitStack() as stack:
        place = f"sqlite:///{folder / 'shop.sqlite'}"
        if servers.postgres_program("postgres"):
            place = stack.enter_context(servers.postgres())
        cache = ""
        if shutil.which("redis-server"):
            cache = stack.enter_context(servers.redis(folder))
        yield {"DEMO_DATABASE": place, "DEMO_REDIS": cache}


@contextlib.contextmanager
def receiver(lake: Path) -> Iterator[str]:
    """Run `apm receive` on free loopback ports; yield its HTTP endpoint."""
    grpc, http, admin = (servers.free_port() for _ in range(3))
    ports = ["--grpc-port", str(grpc), "--http-port", str(http), "--admin-port", str(admin)]
    process = subprocess.Popen(
        [sys.executable, "-m", "apm_analytics", "receive", "--lake", str(lake), *ports],
        stderr=subprocess.DEVNULL,
    )
    try:
        servers.await_port(places.HOST, http, process)
        yield f"http://{places.HOST}:{http}"
    finally:
        end(process)


@contextlib.contextmanager
def shop(
    endpoint: str, folder: Path, stored: dict[str, str], log: Path, **more: str
) -> Iterator[Shop]:
    """Run all services and the worker."""
    (folder / "ready").mkdir()
    environment = {
        **os.environ,
        **stored,
        "DEMO_FAULTS": str(folder / "faults.json"),
        "DEMO_READY": str(folder / "ready"),
        "APM_PRIVACY_SALT": secrets.token_hex(16),
        "DEMO_PORT": str(_free_range()),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "5000",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
        "APM_OWN_HOSTS": places.HOST,
        "APM_GRAPH_HOSTS": places.THIRD_PARTY,
        "PYTHONUNBUFFERED": "1",
        **more,
    }
    subprocess.run(
        [sys.executable, "-m", "demo.shop", "fill"], env=environment, cwd=ROOT, check=True
    )
    running = Shop(environment, folder, log)
    running.set()
    try:
        running.start(*places.SERVICES, "worker")
        yield running
    finally:
        for name in reversed(list(running.processes)):
            running.stop(name)


def customers(running: Shop, seconds: float, users: int, requests: Path) -> "subprocess.Popen[Any]":
    """Start the load: locust without its web interface."""
    gateway = f"http://{places.HOST}:{running.environment['DEMO_PORT']}"
    return subprocess.Popen(
        [sys.executable, "-m", "locust", "-f", str(ROOT / "demo" / "load.py"), "--headless",
         "--host", gateway, "--only-summary", "--exit-code-on-error", "0"],
        env={**os.environ, "DEMO_SECONDS": str(seconds), "DEMO_USERS": str(users),
             "DEMO_REQUESTS": str(requests)},
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def play(
    running: Shop, load: "subprocess.Popen[Any]", steps: list[plan.Planned], truth: Path
) -> None:
    """Turn faults on and off as planned while the load lasts."""
    log, began = plan.Truth(truth), time.monotonic()
    for step in steps:
        _sleep_until(began + step.begins_s, load)
        click.echo(f"  {step.fault} begins", err=True)
        _turn(running, step.fault, log, on=True)
        log.began(step.fault)  # a release takes some seconds until it serves
        _sleep_until(began + step.ends_s, load)
        _turn(running, step.fault, log, on=False)
        log.ended(step.fault)
    load.wait()


def _turn(running: Shop, fault: str, log: plan.Truth, *, on: bool) -> None:
    if fault != "bad_deployment":
        running.set(*([fault] if on else []))
        return
    old, new = ("good", "bad") if on else ("bad", "good")
    bad = "1" if on else "0"
    running.replace("checkout", version=VERSIONS[new], DEMO_BAD_RELEASE=bad)
    log.deployed("checkout", VERSIONS[new], VERSIONS[old])


def _sleep_until(moment: float, load: "subprocess.Popen[Any]") -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        load.wait(max(moment - time.monotonic(), 0.0))


def _free_range() -> int:
    """Find a port whose successors, one per service, are free as well."""
    while True:
        first = servers.free_port()
        try:
            for number, name in enumerate(places.SERVICES):
                with servers.socket.socket() as held:
                    held.bind((places.host(name), first + number))
            return first
        except (OSError, OverflowError):
            continue


@click.command()
@click.option("--lake", type=click.Path(path_type=Path), default=Path("data/demo/lake"))
@click.option("--seconds", type=click.FloatRange(5, 86_400), default=180.0, show_default=True)
@click.option("--users", type=click.IntRange(2, 1_000), default=14, show_default=True)
@click.option("--fault", "faults", multiple=True, type=click.Choice([*plan.FAULTS, "none"]),
              help="Only these faults.  [default: all]")  # fmt: skip
def main(lake: Path, seconds: float, users: int, faults: tuple[str, ...]) -> None:
    """Run the shop and store its telemetry in a lake."""
    chosen = tuple(f for f in faults if f != "none") if faults else tuple(plan.FAULTS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lake = lake.resolve()
    lake.parent.mkdir(parents=True, exist_ok=True)
    if not lake.exists():  # otherwise this run is appended, as in the lake
        for name in ("truth.json", "requests.jsonl"):
            (lake.parent / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="apm-demo-") as name:
        folder = Path(name)
        with storage(folder) as stored, receiver(lake) as endpoint:
            kind = "PostgreSQL" if "postgres" in stored["DEMO_DATABASE"] else "SQLite"
            cache = "Redis" if stored["DEMO_REDIS"] else "no Redis"
            click.echo(f"starting the shop with {kind} and {cache}", err=True)
            log = lake.parent / "services.log"
            with shop(endpoint, folder, stored, log, APM_PROFILING_ENABLED="true") as running:
                click.echo(f"running the load for {seconds:g} s", err=True)
                load = customers(running, seconds, users, lake.parent / "requests.jsonl")
                try:
                    steps = plan.plan(seconds, chosen)
                    play(running, load, steps, lake.parent / "truth.json")
                finally:
                    end(load)
                time.sleep(SETTLE_S)
    click.echo(f"lake:     {lake}")
    click.echo(f"truth:    {lake.parent / 'truth.json'}")
    click.echo(f"logs:     {lake.parent / 'services.log'}")
    click.echo(f"requests: {lake.parent / 'requests.jsonl'}")
    click.echo(f"next:     make nightly LAKE={lake} OUT={lake.parent} PARAMS=demo/params.yaml")


if __name__ == "__main__":
    main()
