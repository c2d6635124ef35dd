"""Write weeks of telemetry of a small shop, with a truth file beside it.

In:  days, spans, seed and the end of the recording.
Out: a folder of OTLP files (traces, metrics and logs of each day) and truth.json.
"""

import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tqdm import tqdm

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.simulate import timeline, truth
from apm_analytics.simulate.fleet import Fleet
from apm_analytics.simulate.logs import LogWriter
from apm_analytics.simulate.metrics import MetricWriter
from apm_analytics.simulate.observed import Observed
from apm_analytics.simulate.spans import SpanWriter

TRUTH = "truth.json"
SIGNALS = ("traces", "metrics", "logs")
SUFFIX = ".pb.zst"
MAX_DAYS = 3660


def write(
    out: Path, *, days: int, spans: int, seed: int, end: datetime, progress: bool = True
) -> Path:
    """Write a recording into `out`, the same for the same arguments.

    Parameters
    ----------
    out : folder, made when missing. Files of an earlier recording in it are replaced.
    days : length of the recording.
    spans : approximate number of spans to write.
    seed : seed of all random numbers, 0 or more.
    end : the instant, with its time zone, before which the last span ends.
    progress : show a progress bar on stderr.

    Returns
    -------
    The folder. It holds `traces-DATE.pb.zst`, `metrics-DATE.pb.zst` and `logs-DATE.pb.zst` for
    each 24 hours from DATE on (at the clock time of `end`): length-delimited
    Export...ServiceRequest messages, zstd compressed; and `truth.json`, which is written last:
    if it exists, the recording is complete.

    Raises
    ------
    BadParameter
        Days, spans, seed or end out of range; a folder that cannot be written, a full disk.
    """
    _check(days, spans, seed, end)
    try:
        _write(out, days, spans, seed, end.astimezone(UTC), progress)
    except OSError as error:
        raise BadParameter(
            f"cannot write into {out}: {error.strerror or error}; "
            "free some space there or choose a folder you may write to"
        ) from error
    return out


def _write(out: Path, days: int, spans: int, seed: int, end: datetime, progress: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / TRUTH).unlink(missing_ok=True)
    for signal in SIGNALS:
        for old in out.glob(f"{signal}-????-??-??{SUFFIX}"):
            old.unlink()

    plan = timeline.plan(days=days, seed=seed, end=end)
    fleet = Fleet(plan)
    observed = Observed(plan)
    span_writer = SpanWriter(plan, fleet, spans)
    log_writer = LogWriter(plan, fleet)
    counts = {"spans": 0, "logs": 0}
    points: Counter[str] = Counter()

    def file(signal: str, day: int) -> Path:
        return out / f"{signal}-{end - timedelta(days=days - day):%Y-%m-%d}{SUFFIX}"

    with tqdm(total=2 * days, desc="simulate", unit="file", disable=not progress) as bar:
        for day in range(days):
            number, noteworthy = span_writer.write_day(day, file("traces", day), observed)
            counts["spans"] += number
            counts["logs"] += log_writer.write_day(day, file("logs", day), noteworthy)
            bar.update()
        # Business figures need the spans of the whole recording, so metrics come last.
        metric_writer = MetricWriter(plan, fleet, observed)
        for day in range(days):
            points += metric_writer.write_day(day, file("metrics", day))
            bar.update()
    described = truth.describe(plan, observed, spans_asked=spans, counts=counts, points=points)
    partial = out / f"{TRUTH}.partial"
    partial.write_text(json.dumps(described, indent=1) + "\n")
    os.replace(partial, out / TRUTH)


def _check(days: int, spans: int, seed: int, end: datetime) -> None:
    if not 1 <= days <= MAX_DAYS:
        raise BadParameter(f"days is {days}, need 1 to {MAX_DAYS}; change simulate.days")
    if spans < 1:
        raise BadParameter(f"spans is {spans}, need at least 1; change simulate.spans")
    if seed < 0:
        raise BadParameter(f"seed is {seed}, need 0 or more; change seed")
    if end.tzinfo is None:
        raise BadParameter(f"end is {end} without a time zone; add one, for example UTC")
    if (end - timedelta(days=days + 1)).timestamp() < 0:
        raise BadParameter(f"{days} days before {end} is before 1970; choose a later end")
