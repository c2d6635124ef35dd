"""Merge and retire the receiver's parts, in processes of their own.

In:  a lake that is being fed.
Out: few parts instead of many; nothing older than its retention.

Both decode rows again: in the receiver they would take memory and Python's lock from those who
send. Killed at any moment, with the receiver or without, they lose and double nothing.
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

# Some forty parts a table: enough to merge, too few to slow a query.
COMPACT_EVERY_S = 20.0

_log = logging.getLogger(__name__)


async def compact_often(
    lake: Path, stopping: asyncio.Event, merged: Callable[[int], object]
) -> None:
    """Merge what there is to merge, until the receiver stops.

    Parameters
    ----------
    merged : is told after each merge how many parts it has taken.
    """
    while not await _stopped_within(stopping, COMPACT_EVERY_S):
        try:
            if not await asyncio.to_thread(compaction.due, lake):
                continue
        except ApmError as error:
            _log.warning("compaction did not begin: %s", error)
            continue
        said = await _run("compaction", ("-m", compact_process.__name__, str(lake)), stopping)
        merged(int(said or 0))


async def retain_often(lake: Path, stopping: asyncio.Event, every_s: float) -> None:
    """Run `apm lake retain` until the receiver stops; the next run does what one left."""
    while not await _stopped_within(stopping, every_s):
        command = ("-m", lean.__name__, "lake", "retain", "--lake", str(lake))
        await _run("retention", command, stopping)


async def _stopped_within(stopping: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
    return stopping.is_set()


async def _run(what: str, command: tuple[str, ...], stopping: asyncio.Event) -> bytes:
    """Run Python and give what it wrote; nothing when it failed, or the receiver stops."""
    # In a session of its own: Ctrl-C is the receiver's to answer.
    # And not by the loop, which would fork: all our pages would be copied as they change.
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
    out, said = await ended
    if process.returncode == 0:
        return out
    if not stopping.is_set():
        _log.warning("%s did not finish: %s", what, said.decode(errors="replace").strip())
    return b""
