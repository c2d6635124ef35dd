"""Baselines of a fleet beside Prophet and statsforecast: CPU, wall time and memory.

In:  --series, --peers, --night.
Out: two tables on standard output.

First the fit alone: `fit_batch` on all series, the peers on a few of the same series, CPU seconds
of this process and its children. Then a whole night: series of 28 days at 5 minutes are checked,
masked, back-tested with all candidates, fitted, and their bounds for 168 hours written. Series are
drawn during the run, when they would be read; drawing counts as wall time, not as CPU.
"""

import argparse
import contextlib
import io
import logging
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from tqdm import tqdm

from apm_analytics.baselines.models import prophet, store, week_after
from apm_analytics.baselines.training import CHUNK, Fleet, registry, training
from apm_analytics.foundation import settings
from apm_analytics.foundation.provenance import Provenance
from apm_analytics.signals import SIGNALS

START = np.datetime64("2026-01-05T00:00", "us")
BATCH = 500  # series fitted at once, so that ten thousand long ones fit into memory
GRIDS = {720: 3_600, 4_032: 300}  # points: seconds between them
SEASONS = {720: (24, 168), 4_032: (288, 2_016)}
ETS_LONGEST = 24  # AutoETS knows no longer season
WINDOW_S = 300
NIGHT_DAYS = 28


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=10_000, help="for fit_batch")
    parser.add_argument("--peers", type=int, default=5, help="series that each peer fits")
    parser.add_argument("--night", type=int, default=10_000, help="series of the night; 0: none")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("prophet", "prophet.plot", "cmdstanpy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for points, step_s in GRIDS.items():
        _fits(points, step_s, arguments.series, arguments.peers)
    if arguments.night:
        _night(arguments.night)


def _fits(points: int, step_s: int, series: int, peers: int) -> None:
    times = START + np.arange(points) * np.timedelta64(step_s, "s")
    prophet.fit_batch(times, _draw(times, 2, seed=0))  # compiled, or read from the cache
    ours = 0.0
    for begin in range(0, series, BATCH):
        values = _draw(times, min(BATCH, series - begin), seed=begin)
        ours += _cpu(lambda values=values: prophet.fit_batch(times, values))  # type: ignore[misc]
    each = ours / series
    values = _draw(times, peers, seed=0)
    print(f"\n{points} points, {series} series (peers: {peers}), CPU ms per series")
    print(f"{'fit_batch':24}{1e3 * each:12.4f}")
    for name, fit in _peers(times, points).items():
        fit(values[0])  # imports and compiles
        spent = _cpu(lambda fit=fit: [fit(row) for row in values]) / peers  # type: ignore[misc]
        print(f"{name:24}{1e3 * spent:12.1f}{spent / each:12,.0f} times ours")


def _peers(times: np.ndarray, points: int) -> dict[str, Callable[[np.ndarray], object]]:
    import cmdstanpy  # noqa: F401
    from prophet import Prophet
    from statsforecast.models import MSTL, AutoETS

    logging.getLogger("cmdstanpy").disabled = True
    day, week = SEASONS[points]

    def by_prophet(values: np.ndarray) -> object:
        with contextlib.redirect_stderr(io.StringIO()):
            return Prophet().fit(pd.DataFrame({"ds": times, "y": values}))

    return {
        "prophet.Prophet": by_prophet,
        "statsforecast AutoETS": lambda values: AutoETS(min(day, ETS_LONGEST)).fit(values),
        "statsforecast MSTL": lambda values: MSTL([day, week]).fit(values),
    }


def _night(series: int) -> None:
    params = settings.load().params
    operations = -(-series // len(SIGNALS))
    times = START + np.arange(NIGHT_DAYS * 86_400 // WINDOW_S) * np.timedelta64(WINDOW_S, "s")
    week = week_after(times[-1], WINDOW_S)
    training.fit_chunk(next(_chunks(times, 2)), params.baselines, week=week)
    drawing = _cpu(lambda: next(_chunks(times, CHUNK))) * operations / CHUNK
    began, spent = time.perf_counter(), _spent()

    def one(chunk: list[Fleet]) -> training.Trained:
        return training.fit_chunk(chunk, params.baselines, week=week)[1]

    workers = os.cpu_count() or 1
    done = training.side_by_side(one, _chunks(times, operations), workers)
    parts = list(tqdm(done, total=-(-operations // CHUNK), desc="night", unit="chunk"))
    run = Provenance("bench", "none", "none", "none", datetime.now(UTC))
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        fleets = [fitted for part in parts for fitted in part.fleets]
        registry.keep(fleets, models, run, keep_runs=1)
        for name in ("bounds", "selection", "skipped"):
            frame = pl.concat([getattr(part, name) for part in parts])
            store.write_frame(frame, models / f"{name}.parquet")
        wall, cpu = time.perf_counter() - began, _spent() - spent - drawing
        rows = pl.scan_parquet(models / "bounds.parquet").select(pl.len()).collect().item()
        size = sum(file.stat().st_size for file in models.glob("*.parquet"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    won = pl.concat([part.selection for part in parts]).filter("chosen")["model"].value_counts()
    print(
        f"\na night: {operations * len(SIGNALS)} series of {times.size} points, {workers} threads"
    )
    print(f"{'wall':24}{wall:12.1f} s (with {drawing:.1f} s of drawing)")
    print(f"{'CPU':24}{cpu:12.1f} s, {1e3 * cpu / operations / len(SIGNALS):.1f} ms per series")
    print(f"{'peak memory':24}{peak:12.2f} GiB")
    print(f"{'written':24}{size / 1e6:12.1f} MB, {rows} bounds")
    print("won: " + ", ".join(f"{model} {count}" for model, count in sorted(won.iter_rows())))


def _chunks(times: np.ndarray, operations: int) -> Iterator[list[Fleet]]:
    """Draw operations: Poisson requests, log-normal latency, binomial errors, seasons, bends."""
    hour = (times - START) / np.timedelta64(3_600, "s")
    weekend = (hour // 24).astype(int) % 7 >= 5
    for begin in range(0, operations, CHUNK):
        size = min(CHUNK, operations - begin)
        draw = np.random.default_rng(begin)
        phase, swing = draw.uniform(7, 11, (size, 1)), draw.uniform(0.1, 0.9, (size, 1))
        wave = swing * np.sin(2 * np.pi * (hour - phase) / 24)
        trend = draw.normal(0, 0.2, (size, 1)) * hour / hour[-1]
        usual = 10 ** draw.uniform(0.7, 2.5, (size, 1))
        requests = draw.poisson(usual * np.exp(wave + trend) * np.where(weekend, 0.7, 1.0))
        noise = draw.normal(0, 1, requests.shape) * (0.05 + 0.5 / np.sqrt(requests + 1.0))
        latency = 0.2 * np.exp(0.3 * wave + trend + noise)
        failed = draw.binomial(requests, draw.uniform(0.001, 0.05, (size, 1)))
        counts = requests.astype(np.float64)
        known = requests >= 3
        values = {
            "latency_p95": np.where(known, latency, np.nan),
            "rate": counts / WINDOW_S,
            "error_ratio": np.where(known, failed / np.maximum(counts, 1.0), np.nan),
        }
        names = [("bench", f"GET /{begin + row}") for row in range(size)]
        teaches = np.ones(requests.shape, np.bool_)
        yield [
            Fleet(signal, names, times, values[signal], counts, teaches, WINDOW_S)
            for signal in SIGNALS
        ]


def _draw(times: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Draw series with a bent trend, a day, a week and noise."""
    draw = np.random.default_rng(seed)
    day = (times - START) / np.timedelta64(86_400, "s")
    size = (rows, 1)
    daily = draw.uniform(0.5, 3, size) * np.sin(2 * np.pi * day + draw.uniform(0, 6, size))
    weekly = draw.uniform(0, 2, size) * np.cos(2 * np.pi * day / 7)
    bend = draw.normal(0, 0.2, size) * np.maximum(day - draw.uniform(2, 10, size), 0)
    noise = draw.normal(0, 1, (rows, day.size)) * draw.uniform(0.2, 1, size)
    return draw.uniform(5, 50, size) + daily + weekly + bend + noise


def _cpu(work: Callable[[], object]) -> float:
    before = _spent()
    work()
    return _spent() - before


def _spent() -> float:
    """Return the CPU seconds of this process and its ended children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
