"""Is every request of a load run one whole trace, and are durations those that a client sees?

In:  a running shop; --requests of each load, --clients of each.
Out: requests.jsonl, what clients saw; `Completeness` from that and the lake: whole traces, orphans,
     what a client waits longer than the gateway's span lasts.

A client's clock runs from just before the request's bytes are handed to the kernel until the last
byte of the answer was read. It includes what no span can know: the way through the kernel twice,
the client's own wake-up, and the server's work before it calls the application and after the
application handed it the last bytes, with the time that other requests keep its event loop busy.
Where there are fewer cores than processes, most of it is waiting for a core; how long the client
and the gateway did, the kernel knows (Linux, schedstat).
"""

import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import polars as pl

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.lake import query
from demo import run
from demo.shop import places

# One visit, and the services that each request of it crosses.
VISIT: tuple[tuple[str, str, Any, tuple[str, ...]], ...] = (
    ("GET", "/products?category=books", None, ("gateway", "catalogue")),
    ("GET", "/products/7", None, ("gateway", "catalogue")),
    ("POST", "/cart/items", {"product": 7}, ("gateway", "cart")),
    ("POST", "/cart/items", {"product": 8}, ("gateway", "cart")),
    ("POST", "/cart/items", {"product": 9}, ("gateway", "cart")),
    ("GET", "/cart", None, ("gateway", "cart")),
    ("GET", "/search?q=article", None, ("gateway", "catalogue")),
    ("POST", "/checkout", {}, ("gateway", "cart", "checkout", "payment", "worker")),
    ("GET", "/orders", None, ("gateway", "checkout")),
    ("GET", "/calendar", None, ("gateway",)),  # a third party is not ours to watch
    ("POST", "/signup", {}, ("gateway",)),
)


@dataclass(frozen=True)
class Completeness:
    """What became of the requests of one load.

    `more_ms` is what a client waited longer than the root span lasts, one a request that has a
    root; of it `there_ms` before the span began and `back_ms` after its end. `no_core_ms` is how
    long the client and the gateway's event loop could have run and had no core, from just before
    the request until the next.
    """

    requests: int
    whole: int  # one root, every parent there, every service that the request must cross
    orphans: int  # spans whose parent is not there
    spans: int
    more_ms: pl.Series
    there_ms: pl.Series
    back_ms: pl.Series
    no_core_ms: pl.Series

    def within(self, limit_ms: float, *, less_no_core: bool = False) -> float:
        """Give the share of requests whose duration is the client's to a limit.

        Parameters
        ----------
        less_no_core : allow for what was waited for a core.
        """
        differ_ms = self.more_ms.abs()
        if less_no_core:
            differ_ms -= self.no_core_ms
        return float((differ_ms <= limit_ms).mean() or 0.0)  # type: ignore[arg-type]


class Client:
    """One connection to the gateway that stays open, and what it saw of each request."""

    def __init__(self, shop: run.Shop, name: str) -> None:
        port = int(shop.environment["DEMO_PORT"])
        self._socket = socket.create_connection((places.HOST, port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._name = name
        gateway = shop.processes["gateway"].pid
        self._threads = ["/proc/thread-self", f"/proc/{gateway}/task/{gateway}"]
        self._no_core_ns = 0  # in all, when the last request began
        self.seen: list[dict[str, Any]] = []

    def visit(self, number: int) -> None:
        """Make the requests of one session, one after the other."""
        for step, (method, path, body, services) in enumerate(VISIT):
            self.ask(method, path, body, f"{self._name}-{number}", step, services)

    def ask(
        self, method: str, path: str, body: Any, session: str, step: int, services: Iterable[str]
    ) -> None:
        """Make one request and note it."""
        sent = b"" if body is None else json.dumps(body).encode()
        correlation = f"{session}-{step}"
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {places.HOST}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n"
            f"X-Correlation-ID: {correlation}\r\nX-Session-ID: session-{session}\r\n"
            f"X-User-ID: user-{step}\r\nX-Organization-ID: org-01\r\n\r\n"
        )
        request = head.encode() + sent
        self._note_waits()
        began_ns = time.time_ns()
        self._socket.sendall(request)
        status = self._answer()
        ended_ns = time.time_ns()
        self.seen.append(
            {
                "load": self._name.partition("-")[0],
                "correlation_id": correlation,
                "name": f"{method} {path}",
                "services": sorted(services),
                "status": status,
                "began_ns": began_ns,
                "ended_ns": ended_ns,
            }
        )

    def _note_waits(self) -> None:
        """Note how long this thread and the gateway's waited for a core since the last request.

        Not with its answer: a wait is known when it is over, and the gateway's may have just begun.
        """
        before_ns = self._no_core_ns
        self._no_core_ns = sum(map(_no_core_ns, self._threads))
        if self.seen:
            self.seen[-1]["no_core_ns"] = self._no_core_ns - before_ns

    def _answer(self) -> int:
        """Read one answer to its end; give its status."""
        held = b""
        while b"\r\n\r\n" not in held:
            held += self._read()
        head, _, body = held.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        left = length - len(body)
        while left > 0:
            left -= len(self._read())
        return int(head.split(b" ", 2)[1])

    def _read(self) -> bytes:
        got = self._socket.recv(65_536)
        if not got:
            raise ConnectionError("the gateway closed a connection that it should keep open")
        return got

    def close(self) -> None:
        """Close the connection."""
        self._note_waits()
        self._socket.close()


def _no_core_ns(thread: str) -> int:
    """Give how long a thread could have run and had no core, since it began."""
    try:
        return int(Path(thread, "schedstat").read_text().split()[1])
    except FileNotFoundError:  # another system than Linux
        return 0


def drive(shop: run.Shop, visits: int, clients: int) -> list[dict[str, Any]]:
    """Let clients visit the shop side by side; give what they saw, one row a request."""
    each = [Client(shop, f"{clients}-{number}") for number in range(clients)]

    def work(client: Client, first: int) -> None:
        for number in range(first, visits, clients):
            client.visit(number)
        client.close()

    threads = [threading.Thread(target=work, args=(one, n)) for n, one in enumerate(each)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [row for client in each for row in client.seen]
    assert len(seen) == visits * len(VISIT), "a client has given up; see the services' log"
    return seen


def check(lake: Path, seen: pl.DataFrame, *, worker: bool = True) -> Completeness:
    """Look for the requests of a load in the lake.

    Parameters
    ----------
    seen : rows of `drive`.
    worker : whether one ran, which takes Redis.
    """
    con = query.connect(lake)
    con.register("seen", seen.to_arrow())
    found = query.frame(con, FOUND)
    con.close()
    services = seen.sort("correlation_id")["services"].to_list()
    wanted = [[one for one in names if worker or one != "worker"] for names in services]
    found = found.with_columns(pl.Series("wanted", wanted, pl.List(pl.String)))
    whole = (
        (pl.col("roots") == 1) & (pl.col("orphans") == 0) & (pl.col("crossed") == pl.col("wanted"))
    )
    rooted = found.filter(pl.col("roots") == 1)
    return Completeness(
        requests=len(seen),
        whole=len(found.filter(whole)),
        orphans=int(found["orphans"].sum()),
        spans=int(found["spans"].sum()),
        more_ms=rooted["there_ms"] + rooted["back_ms"],
        there_ms=rooted["there_ms"],
        back_ms=rooted["back_ms"],
        no_core_ms=rooted["no_core_ms"],
    )


# One row a request: its root, what lies below it, and how its clock compares.
FOUND = """
with roots as (
    select seen.correlation_id, spans.trace_id, epoch_ns(spans.time) as start_ns, duration_ns,
        began_ns, ended_ns, no_core_ns
    from seen join spans on spans.attributes['correlation.id'] = seen.correlation_id
    where service_name = 'gateway' and kind = 'server'
),
inside as (
    select child.trace_id, count(*) as spans, list(distinct child.service_name) as crossed,
        count(*) filter (child.parent_span_id is not null and parent.span_id is null) as orphans
    from spans as child
    left join spans as parent
        on parent.trace_id = child.trace_id and parent.span_id = child.parent_span_id
    where child.trace_id in (select trace_id from roots)
    group by child.trace_id
)
select seen.correlation_id, count(roots.trace_id) as roots,
    coalesce(sum(spans), 0) as spans, coalesce(sum(orphans), 0) as orphans,
    list_sort(coalesce(any_value(crossed), [])) as crossed,
    any_value(start_ns - roots.began_ns) / 1e6 as there_ms,
    any_value(roots.ended_ns - start_ns - duration_ns) / 1e6 as back_ms,
    any_value(roots.no_core_ns) / 1e6 as no_core_ms
from seen left join roots using (correlation_id) left join inside using (trace_id)
group by seen.correlation_id
order by seen.correlation_id
"""


def show(clients: int, found: Completeness) -> None:
    """Print one load."""
    click.echo(
        f"{clients} at a time: {found.requests} requests, {found.whole} whole traces"
        f" ({100 * found.whole / found.requests:.2f} %),"
        f" {found.spans} spans, {found.orphans} orphans"
    )
    for what, values in (
        ("a client waits longer than the span", found.more_ms),
        ("  before the span begins", found.there_ms),
        ("  after it has ended", found.back_ms),
        ("the two wait for a core", found.no_core_ms),
    ):
        shown = "".join(f"{values.quantile(q) or 0:9.2f}" for q in (0, 0.01, 0.5, 0.9, 0.99, 1))
        click.echo(f"  {what:38}{shown}   ms: min, p1, p50, p90, p99, max")
    click.echo(
        f"  within 1 ms: {100 * found.within(1.0):.2f} % of the requests;"
        f" less waiting for a core: {100 * found.within(1.0, less_no_core=True):.2f} %"
    )


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--lake", type=click.Path(path_type=Path), default=Path("data/traces/lake"))
@click.option("--requests", type=click.IntRange(len(VISIT)), default=5_000, show_default=True)
@click.option("--clients", multiple=True, type=click.IntRange(1, 64), default=(1, 4),
              show_default=True, help="Of each load.")  # fmt: skip
def main(lake: Path, requests: int, clients: tuple[int, ...]) -> None:
    """Run the shop under one load after the other, then look into the lake."""
    lake = lake.resolve()
    lake.parent.mkdir(parents=True, exist_ok=True)
    seen: list[dict[str, Any]] = []
    visits = -(-requests // len(VISIT))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apm-traces-")))
        stored = stack.enter_context(run.storage(folder))
        endpoint = stack.enter_context(run.receiver(lake))
        log = lake.parent / "services.log"
        shop = stack.enter_context(run.shop(endpoint, folder, stored, log, APM_SAMPLE_RATE="1"))
        for count in clients:
            seen += drive(shop, visits, count)
    lines = [json.dumps(row) for row in seen]
    write_atomic(lake.parent / "requests.jsonl", ("\n".join(lines) + "\n").encode())
    table = pl.DataFrame(seen)
    complete = True
    for count in clients:
        load = table.filter(pl.col("load") == str(count))
        found = check(lake, load, worker=bool(stored["DEMO_REDIS"]))
        show(count, found)
        complete &= found.whole == found.requests and not found.orphans
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
