"""Check and submit a received request; shared by the gRPC and HTTP endpoints.

In:  a sender, the kind of request, its decompressed bytes.
Out: the outcome, once the request is on the disk; or `Refused`.
"""

import asyncio
from collections.abc import Callable

from apm_analytics.ingest import stamps
from apm_analytics.ingest.receiver.metrics import Metrics
from apm_analytics.ingest.receiver.pipeline import Pipeline
from apm_analytics.ingest.staging import Outcome
from apm_analytics.lake.journal import Entry
from apm_analytics.serve import Access, Readers, Reason, Refused, Sender

# Timeout (s) of a response. A sender is then asked to retry; if the slow disk stored the request
# after all, `repeats` recognises the retry. OpenTelemetry's exporters time out after 10 s.
ANSWER_S = 8.0
# Smaller bodies (bytes) decompress faster than another thread can be woken. A first byte of 10
# marks an uncompressed OTLP request, which needs no thread at any size.
INLINE_BYTES = 4 * 1024


class Intake:
    """Checks rate and budget of a request and submits it; runs on the endpoints' event loop."""

    def __init__(
        self,
        pipeline: Pipeline,
        access: Access,
        metrics: Metrics,
        *,
        readers: Readers,
        max_request_bytes: int,
    ) -> None:
        self.access = access
        self.metrics = metrics
        self.readers = readers
        self.max_request_bytes = max_request_bytes
        self._pipeline = pipeline

    async def inflate(self, content: bytes, inflate: Callable[[], bytes]) -> bytes:
        """Run `inflate`, in another thread if the content is large."""
        if len(content) < INLINE_BYTES or content[:1] == b"\n":
            return inflate()
        return await asyncio.to_thread(inflate)

    async def take(self, sender: Sender, kind: str, payload: bytes) -> Outcome:
        """Accept one request and return its outcome.

        Raises
        ------
        Refused
            The sender exceeds its rate, the receiver is busy, or the request is malformed.
        """
        if sender.rate is not None:
            sender.rate.take(len(payload))
        stamp = stamps.stamp(sender.resource)
        answer = self._pipeline.submit(kind, payload, stamp)
        timer = answer.get_loop().call_later(ANSWER_S, _give_up, answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self._pipeline.unheard(Entry(kind, payload, stamp), answer)
            raise
        finally:
            timer.cancel()


def _give_up(answer: asyncio.Future[Outcome]) -> None:
    if not answer.done():
        message = f"the disk did not answer within {ANSWER_S:g} s; send again"
        answer.set_exception(Refused(Reason.BUSY, message, 1.0))
