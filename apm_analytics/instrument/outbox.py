"""Send telemetry in the background, without making the application wait.

In:  spans or log records, one at a time, from any thread.
Out: batches at the exporter; items that do not fit in the queue are dropped and counted.

Preparing a batch of 500 spans holds Python's lock for 30 ms, and every request would wait. So items
are prepared a few at a time, with pauses in which the application runs, unless the queue fills up.

The SDK's own batch processors log a line per queue overflow, count drops only together with costly
internal metrics, and delay the exit of a process by 30 s.
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value

from apm_analytics.instrument.counts import Losses

PAUSE_S = 0.002
SLICE = 2  # items prepared between pauses: about 0.15 ms

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """A bounded queue with one sending thread, which starts with the first item.

    Parameters
    ----------
    signal : name in the counts of losses.
    prepare : called with each item before it is sent, in the sending thread.
    send : sends a batch and returns whether it arrived; may raise, may take long.
    losses : where drops are counted.
    max_queue, max_batch : items.
    delay_s : batching window; an item waits at most this long for others.
    """

    def __init__(
        self,
        signal: str,
        prepare: Callable[[Item], Item],
        send: Callable[[Sequence[Item]], bool],
        losses: Losses,
        *,
        max_queue: int = 2048,
        max_batch: int = 512,
        delay_s: float = 5.0,
    ) -> None:
        self._signal = signal
        self._prepare = prepare
        self._send = send
        self._losses = losses
        self._max_queue = max_queue
        self._max_batch = min(max_batch, max_queue)
        self._delay_s = delay_s
        self._begin()
        if hasattr(os, "register_at_fork"):
            begin = weakref.WeakMethod(self._begin)
            os.register_at_fork(after_in_child=lambda: (method := begin()) and method())

    @classmethod
    def of_environment(
        cls,
        signal: str,
        prepare: Callable[[Item], Item],
        send: Callable[[Sequence[Item]], bool],
        losses: Losses,
        prefix: str,
        environ: Mapping[str, str] = os.environ,
    ) -> "Outbox[Item]":
        """Create one with the limits of OTEL_BSP_* or OTEL_BLRP_* (`prefix`), where valid."""

        def number(name: str, default: int) -> int:
            text = environ.get(f"{prefix}_{name}", "").strip()
            return int(text) if text.isdecimal() and int(text) > 0 else default

        delay_ms = number("SCHEDULE_DELAY", 5000 if prefix == "OTEL_BSP" else 1000)
        return cls(
            signal,
            prepare,
            send,
            losses,
            max_queue=number("MAX_QUEUE_SIZE", 2048),
            max_batch=number("MAX_EXPORT_BATCH_SIZE", 512),
            delay_s=delay_ms / 1000,
        )

    def _begin(self) -> None:
        """Start empty, also in a forked child: the parent sends its queue."""
        self._queue: deque[Item] = deque()
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._hurry = threading.Event()

    def put(self, item: Item) -> None:
        """Queue an item, or drop and count it when the queue is full or closed."""
        queue = self._queue
        if len(queue) >= self._max_queue or self._closed:
            self._losses.add(self._signal, "queue_full")
            return
        queue.append(item)
        if self._thread is None:
            self._start()
        if len(queue) >= self._max_batch and not self._wake.is_set():
            self._wake.set()

    def flush(self, timeout_s: float) -> bool:
        """Send what is queued; return False when it takes longer than the timeout."""
        deadline = time.monotonic() + timeout_s
        while self._queue or not self._idle.is_set():
            if self._closed or time.monotonic() >= deadline or self._thread is None:
                return False
            self._hurry.set()
            self._idle.clear()
            self._wake.set()
            self._idle.wait(min(0.2, max(0.0, deadline - time.monotonic())))
        return True

    def close(self, timeout_s: float) -> None:
        """Send what is queued within the timeout, then accept nothing more."""
        self.flush(timeout_s)
        self._closed = True
        self._hurry.set()
        self._wake.set()
        left = len(self._queue)
        if left:
            self._losses.add(self._signal, "export_failed", left)

    def pause(self) -> None:
        """Let the application run, unless a flush waits or the queue fills up."""
        if len(self._queue) < self._max_batch // 2:
            self._hurry.wait(PAUSE_S)

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None:
                name = f"apm-{self._signal}"
                self._thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._thread.start()

    def _work(self) -> None:
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        while not self._closed:
            self._wake.wait(self._delay_s)
            self._wake.clear()
            while self._queue and not self._closed:
                self._idle.clear()
                count = min(len(self._queue), self._max_batch)
                self._send_batch([self._queue.popleft() for _ in range(count)])
            self._hurry.clear()
            self._idle.set()

    def _send_batch(self, batch: list[Item]) -> None:
        try:
            arrived = self._send(_Paced(batch, self._prepare, self.pause))
        except Exception:
            arrived = False
        if not arrived:
            self._losses.add(self._signal, "export_failed", len(batch))


class _Paced(Sequence[Item]):
    """A batch whose items are prepared while the exporter iterates, with pauses in between."""

    def __init__(
        self, items: list[Item], prepare: Callable[[Item], Item], pause: Callable[[], None]
    ) -> None:
        self._items = items
        self._prepare = prepare
        self._pause = pause

    def __iter__(self) -> Iterator[Item]:
        for number, item in enumerate(self._items, 1):
            yield self._prepare(item)
            if number % SLICE == 0:
                self._pause()

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._prepare(item) for item in self._items[index]]
        return self._prepare(self._items[index])

    def __len__(self) -> int:
        return len(self._items)
