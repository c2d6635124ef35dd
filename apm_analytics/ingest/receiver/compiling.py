"""Compile the decoders before the first request; on the first start, in a separate process.

In:  the redactor of the receiver.
Out: machine code in memory and in numba's cache, and a marker file beside the cache.

A process that compiles never frees 160 MB; one that loads the code from the cache needs none of it.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.privacy import PrivacyRules
from apm_analytics.ingest.decode import requests
from apm_analytics.ingest.decode.protobuf import REQUESTS
from apm_analytics.ingest.receiver.pipeline import MIN_STAGE_BYTES
from apm_analytics.ingest.redaction.requests import Redactor
from apm_analytics.ingest.staging import Stage
from apm_analytics.ingest.units import Units
from apm_analytics.ingest.wire import entries
from apm_analytics.lake.journal import Entry

_COMPILE = f"from {__name__} import compile_here; compile_here()"


def compile_once(say: Callable[[str], None]) -> None:
    """Fill numba's cache if it is empty; if that fails, `warm_up` compiles instead."""
    folder = entries.cache_folder()
    if folder is None:  # no writable cache folder
        return
    mark = folder / f"receiver-{entries.sources_hash():015x}.compiled"
    if not mark.exists():
        say("compiling before the first start, about half a minute")
        if subprocess.run([sys.executable, "-c", _COMPILE], check=False).returncode == 0:
            write_atomic(mark, b"")


def compile_here() -> None:
    """Compile everything that a receiver needs in this process."""
    warm_up(Redactor(PrivacyRules([], [], b"")))


def warm_up(redactor: Redactor) -> None:
    """Decode one request of each kind, so that the first senders do not wait for compilation."""
    requests.warm_up()
    # A smaller stage than the receiver's would not use the scanner.
    stage = Stage(Units(Path()), MIN_STAGE_BYTES)
    for signal, payload in _samples().items():
        stage.take([Entry(signal, payload)], redactor)
    stage.finish()


def _samples() -> dict[str, bytes]:
    """Return a request with two spans, the later one first, and a request with one log record."""
    time_ns = time.time_ns()
    spans, logs = REQUESTS["traces"](), REQUESTS["logs"]()
    own: Any = spans
    group = own.resource_spans.add().scope_spans.add()
    for start_ns in (time_ns, time_ns - 1):
        span = group.spans.add(name="warm-up", trace_id=b"\1" * 16, span_id=b"\1" * 8)
        span.start_time_unix_nano, span.end_time_unix_nano = start_ns, time_ns
        span.attributes.add(key="warm-up").value.string_value = "yes"
    own = logs
    own.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=time_ns)
    return {"traces": spans.SerializeToString(), "logs": logs.SerializeToString()}
