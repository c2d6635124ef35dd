"""Check that every request is one whole trace, with the duration that a client measures.

In:  a running shop; --requests per load, --clients per load.
Out: requests.jsonl, what clients measured; `Completeness` from that and the lake: whole traces,
     orphans, how much longer a client waits than the gateway's span lasts.

A client's clock runs from just before the request's bytes are handed to the kernel until the last
byte of the answer was read. It includes what a span cannot: two passes through the kernel, the
client's wake-up, the server's work before and after it calls the application, and the time that
other requests keep its event loop busy. With fewer cores than processes, most of it is waiting for
a core; the kernel reports how long the client and the gateway waited (Linux, schedstat).
"""

import contextlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import polars as pl

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.lake import query
from demo import run
from demo.shop import places

# One visit, and the services that each of its requests crosses.
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
    ("GET", "/calendar", None, ("gateway",)),  # the third party is not instrumented
    ("POST", "/signup", {}, ("gateway",)),
)


@dataclass(frozen=True)
class Completeness:
    """The outcome of the requests of one load.

    `more_ms` is how much longer a client waited than the root span lasts, one value per request
    with a root: `there_ms` before the span began plus `back_ms` after its end. `no_core_ms` is how
    long the client and the gateway's event loop were runnable without a core, from just before the
    request until the next.
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
        """Return the share of requests whose duration agrees with the client's to a limit.

        Parameters
        ----------
        less_no_core : subtract the time without a core.
        """
        differ_ms = self.more_ms.abs()
        if less_no_core:
            differ_ms -= self.no_core_ms
        return float((differ_ms <= limit_ms).mean() or 0.0)  # type: ignore[arg-type]


class Client:
    """One connection to the gateway that stays open, and what it saw of each request.

    Its clock starts when the head of a request is written and stops when the body of the answer
    was read: the events of httpcore, without the work of httpx before and after.
    """

    def __init__(self, shop: run.Shop, name: str) -> None:
        gateway = f"http://{places.HOST}:{shop.environment['DEMO_PORT']}"
        # One connection: a client that had to open another would count the handshake.
        limits = httpx.Limits(max_connections=1, keepalive_expiry=None)
        self._http = httpx.Client(base_url=gateway, timeout=30, limits=limits, trust_env=False)
        self._name = name
        pid = shop.processes["gateway"].pid
        self._threads = ["/proc/thread-self", f"/proc/{pid}/task/{pid}"]
        self._no_core_ns = 0  # in all, when the last request began
        self.seen: list[dict[str, Any]] = []

    def visit(self, number: int) -> None:
        """Make the requests of one session, one after the other."""
        for step, (method, path, body, services) in enumerate(VISIT):
            self.request(method, path, body, f"{self._name}-{number}", step, services)

    def request(
        self, method: str, path: str, body: Any, session: str, step: int, services: Iterable[str]
    ) -> None:
        """Make one request and note it."""
        correlation = f"{session}-{step}"
        headers = {
            "X-Correlation-ID": correlation,
            "X-Session-ID": f"session-{session}",
            "X-User-ID": f"user-{step}",
            "X-Organization-ID": "org-01",
        }
        moments_ns: dict[str, int] = {}

        def note(event: str, _: Any) -> None:
            moments_ns[event] = time.time_ns()

        request = self._http.build_request(
            method, path, json=body, headers=headers, extensions={"trace": note}
        )
        self._note_waits()
        answer = self._http.send(request)
        self.seen.append(
            {
                "load": self._name.partition("-")[0],
                "correlation_id": correlation,
                "name": f"{method} {path}",
                "services": sorted(services),
                "status": answer.status_code,
                "began_ns": moments_ns["http11.send_request_headers.started"],
                "ended_ns": moments_ns["http11.receive_response_body.complete"],
            }
        )

    def _note_waits(self) -> None:
        """Note how long this thread and the gateway's waited for a core since the last request.

        A wait is only known when it is over, and the gateway's may have just begun when its answer
        arrives, so it is read before the next request.
        """
        before_ns = self._no_core_ns
        self._no_core_ns = sum(map(_no_core_ns, self._threads))
        if self.seen:
            self.seen[-1]["no_core_ns"] = self._no_core_ns - before_ns

    def close(self) -> None:
        """Close the connection."""
        self._note_waits()
        self._http.close()


def _no_core_ns(thread: str) -> int:
    """Return how long a thread was runnable without a core, since it began (ns)."""
    try:
        return int(Path(thread, "schedstat").read_text().split()[1])
    except FileNotFoundError:  # another system than Linux
        return 0


def drive(shop: run.Shop, visits: int, clients: int) -> list[dict[str, Any]]:
    """Run clients in parallel; return what they measured, one row per request."""
    connections = [Client(shop, f"{clients}-{number}") for number in range(clients)]

    def work(client: Client, first: int) -> None:
        for number in range(first, visits, clients):
            client.visit(number)
        client.close()

    threads = [
        threading.Thread(target=work, args=(client, n)) for n, client in enumerate(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [row for client in connections for row in client.seen]
    assert len(seen) == visits * len(VISIT), "a client has stopped early; see the services' log"
    return seen


def check(lake: Path, seen: pl.DataFrame, *, worker: bool = True) -> Completeness:
    """Compare the requests of a load with their traces in the lake.

    Parameters
    ----------
    seen : rows of `drive`.
    worker : whether a worker ran, which needs Redis.
    """
    con = query.connect(lake)
    con.register("seen", seen.to_arrow())
    traces = query.frame(con, TRACES)
    con.close()
    services = seen.sort("correlation_id")["services"].to_list()
    expected = [[name for name in names if worker or name != "worker"] for names in services]
    traces = traces.with_columns(pl.Series("expected", expected, pl.List(pl.String)))
    whole = (
        (pl.col("roots") == 1)
        & (pl.col("orphans") == 0)
        & (pl.col("crossed") == pl.col("expected"))
    )
    rooted = traces.filter(pl.col("roots") == 1)
    return Completeness(
        requests=len(seen),
        whole=len(traces.filter(whole)),
        orphans=int(traces["orphans"].sum()),
        spans=int(traces["spans"].sum()),
        more_ms=rooted["there_ms"] + rooted["back_ms"],
        there_ms=rooted["there_ms"],
        back_ms=rooted["back_ms"],
        no_core_ms=rooted["no_core_ms"],
    )


# One row per request: its root, the spans below it, and the difference of the clocks.
TRACES = """
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
              show_default=True, help="Clients per load.")  # fmt: skip
def main(lake: Path, requests: int, clients: tuple[int, ...]) -> None:
    """Run the shop under one load after the other, then query the lake."""
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
