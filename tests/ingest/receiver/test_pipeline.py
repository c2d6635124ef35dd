"""The pipeline accepts requests up to its budget and releases what is refused or cancelled.

Group commit, journal and failing disks are tested in test_disk and test_crashes.
"""

import asyncio
from pathlib import Path

import otlp_requests
import pytest

from apm_analytics.foundation.privacy import PrivacyRules
from apm_analytics.ingest.receiver import pipeline
from apm_analytics.ingest.receiver.metrics import Metrics
from apm_analytics.ingest.receiver.pipeline import Pipeline
from apm_analytics.ingest.redaction.requests import Redactor
from apm_analytics.serve import Reason, Refused


def small_pipeline(lake: Path) -> Pipeline:
    """Return a pipeline that is not started."""
    redactor = Redactor(PrivacyRules([], [], b""))
    return Pipeline(lake, Metrics(), budget_bytes=10_000, redactor=redactor)


def test_beyond_the_budget_senders_wait_and_memory_does_not_grow(tmp_path: Path) -> None:
    full = small_pipeline(tmp_path)

    async def send() -> None:
        waiting = full.submit("traces", bytes(8_000))
        with pytest.raises(Refused, match="wait to be written") as refused:
            full.submit("traces", bytes(8_000))
        assert refused.value.reason is Reason.BUSY and refused.value.retry_after_s
        full.start()
        with pytest.raises(Refused, match="field"):
            await waiting
        # That one was malformed, so its place is free again.
        good = full.submit("traces", otlp_requests.traces(1).SerializeToString())
        assert await good == pipeline.Outcome()

    asyncio.run(send())
    full.stop()


def test_a_sender_that_hangs_up_before_its_turn_gives_its_place_back(tmp_path: Path) -> None:
    full = small_pipeline(tmp_path)

    async def send() -> None:
        full.submit("traces", bytes(8_000)).cancel()

    asyncio.run(send())
    full.start()
    full.stop()
    assert full.held_bytes == 0
