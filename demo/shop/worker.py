"""Takes orders from the queue and does them: a process without requests of its own.

In:  the queue "orders" in Redis.
Out: orders whose state is done; the work continues the trace of the request.
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
    """Work until told to stop and nothing is left to do."""
    instrument.setup()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    engine, queue = store.engine(), cache()
    tracer = trace.get_tracer("demo.shop.worker")
    places.say_ready()
    while True:
        told = stop.is_set()  # before the look: an order may come between
        held = queue.pop("orders")
        if held is None:
            if told:
                return  # nothing is left to do
            stop.wait(0.2)
            continue
        order = json.loads(held)
        # The whole context, so that the session's baggage reaches what is done below.
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
