"""Process orders from the queue: a service without requests of its own.

In:  the queue "orders" in Redis.
Out: orders in state done; the work continues the trace of the request.
"""

import json
import signal
import threading

from opentelemetry import context, propagate, trace
from sqlalchemy import Engine, update

from apm_analytics import instrument
from demo.shop import places, store
from demo.shop.cache import cache


def main() -> None:
    """Process orders until stopped and the queue is empty."""
    instrument.setup()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    engine, queue = store.engine(), cache()
    tracer = trace.get_tracer("demo.shop.worker")
    places.say_ready()
    while True:
        stopping = stop.is_set()  # read before the queue: an order may arrive in between
        held = queue.pop("orders")
        if held is None:
            if stopping:
                return
            stop.wait(0.2)
            continue
        order = json.loads(held)
        # The whole context, so that the spans below get the session's baggage.
        token = context.attach(propagate.extract(order["context"]))
        try:
            _do(order["order"], engine, tracer)
        finally:
            context.detach(token)


def _do(order: int, engine: Engine, tracer: trace.Tracer) -> None:
    with tracer.start_as_current_span("process order", kind=trace.SpanKind.CONSUMER):
        with engine.begin() as con:
            done = update(store.orders).where(store.orders.c.id == order)
            con.execute(done.values(state="done"))
        instrument.kpi("shop.orders.done", 1, unit="{order}")
