"""Requests queue for a slot to be read, up to a limit.

Rates are tested in test_access, slow senders in tests/ingest/receiver/test_bad_input.
"""

import asyncio

from apm_analytics.serve import limits


def test_requests_beyond_a_thousand_that_queue_are_asked_to_retry() -> None:
    async def refused() -> list[str]:
        readers = limits.Readers(4, 60.0)
        never = asyncio.Event()
        tasks = [asyncio.create_task(readers.read(never.wait)) for _ in range(1100)]
        await asyncio.sleep(0)
        messages = [str(task.exception()) for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return messages

    messages = asyncio.run(refused())
    assert len(messages) == 1100 - 4 - limits.MAX_WAITING
    assert set(messages) == {"1,000 requests wait to be read already; send again shortly"}
