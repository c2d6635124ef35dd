"""What both doors do with a request once its bytes are there.

In:  a sender, the kind of request, its decompressed bytes.
Out: the outcome, when it is on the disk; or `Refused`.
"""

import asyncio
from collections.abc import Callable

from apm_analytics.ingest.receiver.metrics import Metrics
from apm_analytics.ingest.receiver.pipeline import Pipeline
from apm_analytics.ingest.receiver.stamps import stamped
from apm_analytics.ingest.staging import Outcome
from apm_analytics.serve import Access, Readers, Reason, Refused, Sender

# A slow disk holds answers back; past this a sender is told to come again, and its request,
# should it be taken after all, is recognised then. OpenTelemetry's exporters hang up after 10 s.
ANSWER_S = 8.0
# Below it decompressing takes less than handing it to another thread; nor does it take any where
# the first byte is that of an OTLP request.
INLINE_BYTES = 4 * 1024


class Intake:
    """The way in behind the doors; lives on their event loop."""

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
        """Run `inflate`, away from the event loop where that may take long."""
        if len(content) < INLINE_BYTES or content[:1] == b"\n":
            return inflate()
        return await asyncio.to_thread(inflate)

    async def take(self, sender: Sender, kind: str, payload: bytes) -> Outcome:
        """Take one request.

        Raises
        ------
        Refused
            The sender is above its rate, the receiver is busy, or the request is malformed.
        """
        if sender.rate is not None:
            sender.rate.take(len(payload))
        if sender.resource:
            payload = stamped(kind, payload, sender.resource)
        answer = self._pipeline.submit(kind, payload)
        timer = answer.get_loop().call_later(ANSWER_S, _give_up, answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self._pipeline.unheard(payload, answer)
            raise
        finally:
            timer.cancel()


def _give_up(answer: asyncio.Future[Outcome]) -> None:
    if not answer.done():
        said = f"the disk did not answer within {ANSWER_S:g} s; send again"
        answer.set_exception(Refused(Reason.BUSY, said, 1.0))
