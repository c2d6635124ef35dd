"""Compact the receiver's parts and apply retention, in separate processes.

In:  a lake that is being fed.
Out: fewer, larger parts; nothing older than its retention.

Both decode rows, which in the receiver's process would cost memory and hold Python's lock while
requests wait. If killed at any moment, they lose no rows and duplicate none.
"""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

from apm_analytics.foundation.errors import ApmError
from apm_analytics.lake.maintenance import compact_process, compaction, lean

# About forty parts per table: enough to merge, too few to slow a query.
COMPACT_EVERY_S = 20.0

_log = logging.getLogger(__name__)


async def compact_often(
    lake: Path, stopping: asyncio.Event, merged: Callable[[int], object]
) -> None:
    """Compact parts whenever that is due, until the receiver stops.

    Parameters
    ----------
    merged : called after each compaction with the number of parts merged.
    """
    while not await _stopped_within(stopping, COMPACT_EVERY_S):
        try:
            if not await asyncio.to_thread(compaction.due, lake):
                continue
        except ApmError as error:
            _log.warning("compaction did not begin: %s", error)
            continue
        output = await _run("compaction", ("-m", compact_process.__name__, str(lake)), stopping)
        merged(int(output or 0))


async def retain_often(
    lake: Path, stopping: asyncio.Event, every_s: float, fit: Callable[[], bool]
) -> None:
    """Run `apm lake retain` every `every_s` seconds; a run completes what an earlier one left.

    Parameters
    ----------
    fit : returns whether the clock and the lake can be trusted; with a wrong clock, retention
        would remove what is young.
    """
    while not await _stopped_within(stopping, every_s):
        if not fit():
            continue
        command = ("-m", lean.__name__, "lake", "retain", "--lake", str(lake))
        await _run("retention", command, stopping)


async def _stopped_within(stopping: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
    return stopping.is_set()


async def _run(what: str, command: tuple[str, ...], stopping: asyncio.Event) -> bytes:
    """Run Python and return its output; empty if it failed or the receiver stops."""
    # A new session, so that Ctrl-C reaches the receiver only. Not started by the event loop, which
    # would fork: every page that changes would be copied.
    program = [sys.executable, *command]
    process = await asyncio.to_thread(
        subprocess.Popen, program, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    ended = asyncio.create_task(asyncio.to_thread(process.communicate))
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        process.kill()
    out, errors = await ended
    if process.returncode == 0:
        return out
    if not stopping.is_set():
        _log.warning("%s did not finish: %s", what, errors.decode(errors="replace").strip())
    return b""
