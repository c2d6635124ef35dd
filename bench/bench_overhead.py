"""Measure what instrumentation costs a service, compared with none and plain OpenTelemetry.

In:  PostgreSQL and Redis from Debian's packages, --rounds, --requests per round.
Out: a table on standard output: latency, throughput, CPU and memory of each variant, and whether
     the project's limits hold.

Every variant is the same FastAPI service in a separate uvicorn process, all pinned to one core;
the load, the databases and the OTLP sink share the other. The variants take turns, one short burst
each, so that other load on the machine affects all of them. Latency is measured by one client at a
time, throughput by eight. Spans leave every second, and a turn ends when those of its requests have
left: what sending costs counts for the variant that sends, not for the next one on the core.
"""

import argparse
import asyncio
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo import servers

SERVICE_CORE, LOAD_CORE = 1, 0
PLAIN = str(Path(sys.executable).with_name("opentelemetry-instrument"))
# The memory layout of a process makes two of the same variant differ by some 5 %, so each variant
# is started this many times.
STARTS = 4
PRODUCTS = 2_000
CLIENTS = 8
SENT_S = 1.5  # after this long all spans have left
SENDING = {"OTEL_BSP_SCHEDULE_DELAY": "1000"}
PEERS = {
    "OTEL_SEMCONV_STABILITY_OPT_IN": "http,database",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_PYTHON_DISTRO": "distro",
    "OTEL_PYTHON_CONFIGURATOR": "configurator",
}
TENTH = {
    "plain": {
        **PEERS,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
    },
    "ours": {"APM_SAMPLE_RATE": "0.1"},
}
# Name -> how the service is watched, and its environment.
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    "bare": ("bare", {}),
    "bare, GC as ours": ("tuned", {}),  # the effect of our garbage collector settings alone
    "ours, 10 %": ("ours", TENTH["ours"]),
    "plain, 10 %": ("plain", TENTH["plain"]),
    "ours, 10 %, profiler": ("ours", {**TENTH["ours"], "APM_PROFILING_ENABLED": "true"}),
    "ours, all": ("ours", {"APM_SAMPLE_RATE": "1"}),
    "plain, all": ("plain", PEERS),
}


@dataclass
class Measured:
    """The measurements of one variant, burst by burst, over all its processes."""

    port: int = 0  # of the present process
    pid: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    medians_ms: list[float] = field(default_factory=list)
    throughputs: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)  # per request
    memory_mb: list[float] = field(default_factory=list)  # at the end of each process


def main() -> None:
    """Start all, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=150, help="a burst")
    parser.add_argument("--only", default="", help="variants, separated by |")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sink:
        asyncio.run(_sink(arguments.port))
    elif arguments.serve:
        _serve(arguments.serve, arguments.port)
    else:
        _measure(arguments)


def _measure(arguments: argparse.Namespace) -> None:
    chosen = arguments.only.split("|") if arguments.only else list(VARIANTS)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        os.sched_setaffinity(0, {LOAD_CORE})
        environ = {
            **os.environ,
            "BENCH_POSTGRES": stack.enter_context(servers.postgres()),
            "BENCH_REDIS": stack.enter_context(servers.redis(Path(name))),
        }
        sink = servers.free_port()
        stack.enter_context(_process(["--sink", "--port", str(sink)], environ, LOAD_CORE))
        environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{sink}"
        _fill(environ["BENCH_POSTGRES"])
        variants = {variant: Measured() for variant in chosen}
        for _ in range(STARTS):
            with ExitStack() as started:
                for variant, measured in variants.items():
                    how, settings = VARIANTS[variant]
                    measured.port = servers.free_port()
                    options = ["--serve", how, "--port", str(measured.port)]
                    named = {"OTEL_SERVICE_NAME": "bench", **SENDING, **settings}
                    launcher = [PLAIN] if how == "plain" else []
                    process = started.enter_context(
                        _process(options, {**environ, **named}, SERVICE_CORE, launcher)
                    )
                    measured.pid = process.pid
                rounds = max(arguments.rounds // STARTS, 1)
                asyncio.run(_take_turns(variants, rounds, arguments.requests))
                for measured in variants.values():
                    measured.memory_mb.append(_memory_mb(measured.pid))
        _print(variants)


@contextmanager
def _process(
    options: list[str], environ: dict[str, str], core: int, launcher: Sequence[str] = ()
) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *launcher, sys.executable, __file__, *options], env=environ
    )
    try:
        servers.await_port("127.0.0.1", int(options[-1]), process)
        yield process
    finally:
        process.terminate()
        process.wait(20)


async def _take_turns(variants: dict[str, Measured], rounds: int, requests: int) -> None:
    for measured in variants.values():  # routes compiled, pools filled, code warm
        await _burst(measured.port, CLIENTS, 200)
    names = list(variants)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            measured = variants[name]
            before = _cpu_s(measured.pid)
            latencies, _ = await _burst(measured.port, 1, requests)
            busy, seconds = await _burst(measured.port, CLIENTS, requests * 2)
            await asyncio.sleep(SENT_S)
            spent = _cpu_s(measured.pid) - before
            latencies.sort()
            measured.latencies_ms += latencies
            measured.medians_ms.append(statistics.median(latencies))
            measured.throughputs.append(len(busy) / seconds)
            measured.cpu_ms.append(1e3 * spent / (requests * 3))


async def _burst(port: int, clients: int, requests: int) -> tuple[list[float], float]:
    """Make requests by some clients with one connection each; return latencies in ms, and
    seconds."""
    latencies: list[float] = []

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for count in range(requests // clients):
            product = (number * 7919 + count * 104729) % PRODUCTS + 1
            request = f"GET /products/{product}?page=2 HTTP/1.1\r\nHost: shop\r\n"
            started = time.perf_counter()
            writer.write(f"{request}User-Agent: bench\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            latencies.append(1e3 * (time.perf_counter() - started))
            assert head.startswith(b"HTTP/1.1 200"), head
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return latencies, time.perf_counter() - started


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no VmRSS of {pid}")


def _print(variants: dict[str, Measured]) -> None:
    bare = variants.get("bare") or next(iter(variants.values()))
    print(
        f"{'variant':22}{'median':>9}{'':>8}{'p99':>9}{'':>8}{'req/s':>8}{'':>8}"
        f"{'CPU':>9}{'':>8}{'memory':>9}"
    )
    for name, m in variants.items():
        print(
            f"{name:22}"
            f"{statistics.median(m.latencies_ms):7.2f}ms"
            f"{_against(m.medians_ms, bare.medians_ms):+7.1f}%"
            f"{_p99(m):7.2f}ms{100 * _p99(m) / _p99(bare) - 100:+7.1f}%"
            f"{statistics.median(m.throughputs):8.0f}"
            f"{100 + _against(m.throughputs, bare.throughputs):7.1f}%"
            f"{statistics.median(m.cpu_ms):7.2f}ms"
            f"{_against(m.cpu_ms, bare.cpu_ms):+7.1f}%"
            f"{statistics.median(m.memory_mb):7.0f}MB"
        )
    if set(variants) >= set(VARIANTS):
        _print_limits(variants)
    print(f"load of the machine: {os.getloadavg()[1]:.1f} over 5 minutes on {os.cpu_count()} cores")


def _print_limits(variants: dict[str, Measured]) -> None:
    """Print which of the project's limits hold, at 10 % sampling."""
    bare, ours, plain = variants["bare"], variants["ours, 10 %"], variants["plain, 10 %"]
    profiled = variants["ours, 10 %, profiler"]
    grown = statistics.median(ours.memory_mb) - statistics.median(bare.memory_mb)
    for what, found, limit, unit in (
        ("median latency", _against(ours.medians_ms, bare.medians_ms), 8.0, "%"),
        ("p99 latency", 100 * _p99(ours) / _p99(bare) - 100, 10.0, "%"),
        ("throughput lost", -_against(ours.throughputs, bare.throughputs), 8.0, "%"),
        ("CPU of the profiler", _against(profiled.cpu_ms, ours.cpu_ms), 3.0, "%"),
        ("memory", grown, 40.0, "MB"),
        ("CPU against plain", _against(ours.cpu_ms, plain.cpu_ms), 0.0, "%"),
        ("median against plain", _against(ours.medians_ms, plain.medians_ms), 0.0, "%"),
    ):
        verdict = "holds" if found <= limit else "FALLS SHORT"
        print(f"{what:22}{found:+7.1f}{unit:3}limit {limit:+.0f}{unit:3}{verdict}")


def _against(values: list[float], others: list[float]) -> float:
    """Return by how many percent one variant exceeds another, the median over the rounds."""
    ratios = (a / b for a, b in zip(values, others, strict=True))
    return 100 * statistics.median(ratios) - 100


def _p99(measured: Measured) -> float:
    return sorted(measured.latencies_ms)[int(len(measured.latencies_ms) * 0.99)]


def _fill(url: str) -> None:
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(
            "CREATE TABLE products (id int PRIMARY KEY, name text, category int, price numeric)"
        )
        connection.execute(
            "INSERT INTO products SELECT n, 'product ' || n, n % 20, n % 97 + 0.99 "
            f"FROM generate_series(1, {PRODUCTS}) n"
        )
        connection.execute("CREATE INDEX ON products (category)")


def _serve(how: str, port: int) -> None:
    """Run the service."""
    import uvicorn

    app = _application(how)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def _application(how: str) -> Any:
    """A page of 100 products: Redis, a query by the ORM, the answer checked by pydantic."""
    from apm_analytics import instrument

    if how == "ours":
        assert instrument.setup() is not None
    import redis
    import sqlalchemy
    from fastapi import FastAPI
    from pydantic import BaseModel
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

    class Base(DeclarativeBase):
        pass

    class Product(Base):
        __tablename__ = "products"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        category: Mapped[int]
        price: Mapped[float]

    class Shown(BaseModel):
        id: int
        name: str
        price: float
        score: float

    class Page(BaseModel):
        product: int
        page: int
        seen: int
        similar: list[Shown]

    app = FastAPI(lifespan=_tuned if how == "tuned" else None)
    if how == "ours":
        instrument.setup(app)
    engine = sqlalchemy.create_engine(os.environ["BENCH_POSTGRES"], pool_size=CLIENTS)
    cache = redis.Redis.from_url(os.environ["BENCH_REDIS"])

    def product(product: int, page: int = 1) -> Page:
        seen = cache.incr(f"seen:{product}")
        with Session(engine) as session:
            similar = sqlalchemy.select(Product).where(Product.category == product % 20)
            found = session.scalars(similar.order_by(Product.price)).all()
            shown = [
                Shown(id=one.id, name=one.name, price=one.price, score=_score(one.name))
                for one in found
            ]
        return Page(product=product, page=page, seen=seen, similar=shown)

    app.get("/products/{product}", response_model=Page)(product)
    return app


@asynccontextmanager
async def _tuned(_: Any) -> AsyncIterator[None]:
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, *gc.get_threshold()[1:])
    yield


def _score(name: str) -> float:
    """Do typical work of a service: some text, some numbers."""
    letters = [ord(letter) % 13 for letter in name * 8]
    return sum(a * b for a, b in zip(letters, reversed(letters), strict=True)) / len(letters)


async def _sink(port: int) -> None:
    """Accept OTLP over HTTP and discard it."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    main()
