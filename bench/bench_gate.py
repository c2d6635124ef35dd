"""Would the alerts have paged well? Simulated shops with known incidents, replayed week by week.

In:  --seeds of `apm simulate`; --spans and --days of each (default: params.yaml); --keep DIR to
     keep the features of each shop and reuse them.
Out: tables of incidents met, false pages per operation and month, minutes until the page: by
     candidate, by kind of incident, by signal. Exit code 1 when the published alerts miss a limit.

Every week is replayed with thresholds trained on the weeks before, and with the gate's decisions
on those weeks without labels; the truth only scores the pages. The first week is only trained on.
Peers in the same run: the static thresholds of specs/signals.yaml, and seasonal naive, which
learns its thresholds as the learned ones do.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from apm_analytics.alerts.gate import history, judge, stage
from apm_analytics.alerts.gate.history import LEARNED, NAIVE, STATIC
from apm_analytics.alerts.gate.watching import labelled
from apm_analytics.alerts.prometheus import signal_specs
from apm_analytics.baselines.training import training
from apm_analytics.foundation import settings
from apm_analytics.foundation.settings import Params, Settings
from apm_analytics.ingest import simulated
from apm_analytics.lake import query
from apm_analytics.signals import Calendar, Entry, calendar
from apm_analytics.signals import operations as signals
from apm_analytics.signals.calendar import REGRESSION

PUBLISHED = "published"
LEAST_RECALL, MOST_FALSE = 0.9, 1.0
# Equal seeds give equal shops on any day. Each ends at a different hour, so that an incident by
# day in one shop is at night, with little traffic, in another.
END = datetime(2026, 6, 30, tzinfo=UTC)
MONTH_DAYS = 30.0


@dataclass
class Result:
    """How one candidate paged on all shops."""

    expected: list[tuple[str, str]] = field(default_factory=list)  # incident, its kind
    delays: dict[str, float] = field(default_factory=dict)  # of the incidents met, s
    false: dict[str, int] = field(default_factory=dict)  # by signal and bound
    months: float = 0.0  # of operations

    def recall(self, kind: str | None = None) -> float:
        """Return the share of incidents met; regressions count only as their own kind."""
        names = [
            name for name, of in self.expected if of == kind or (not kind and of != REGRESSION)
        ]
        return sum(name in self.delays for name in names) / max(len(names), 1)

    @property
    def false_a_month(self) -> float:
        return sum(self.false.values()) / self.months


def main() -> None:
    """Simulate, replay, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 11, 23])
    parser.add_argument("--spans", type=int)
    parser.add_argument("--days", type=int)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    held = settings.load()
    began = time.process_time()
    results = {name: Result() for name in (STATIC, NAIVE, LEARNED, PUBLISHED)}
    for seed in asked.seeds:
        features, truth = shop(seed, asked.spans, asked.days, asked.keep, held.params)
        for since, until, firings in weeks(features, held):
            for name, result in results.items():
                own = firings.filter(candidate=name)
                hold(result, own, truth, since, until, held.params, str(seed))
                result.months += operations(features) * (until - since) / timedelta(days=MONTH_DAYS)
    report(results)
    print(f"\n{len(asked.seeds)} shops, {time.process_time() - began:.0f} CPU s")
    published = results[PUBLISHED]
    sys.exit(published.recall() < LEAST_RECALL or published.false_a_month > MOST_FALSE)


def shop(
    seed: int, spans: int | None, days: int | None, keep: Path | None, params: Params
) -> tuple[pl.DataFrame, Calendar]:
    """Simulate one shop; return its features and its truth."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = (keep or Path(scratch)) / f"seed-{seed}"
        file = folder / "features.parquet"
        if not file.exists():
            lake = Path(scratch) / "lake"
            simulated.make_lake(
                lake,
                Path(scratch) / "simulated",
                days=days or params.simulate.days,
                spans=spans or params.simulate.spans,
                seed=seed,
                end=END + timedelta(hours=seed % 24),
                progress=False,
            )
            with query.connect(lake) as con:
                features = signals.features(
                    con,
                    window_s=params.features.window_s,
                    min_requests=params.features.min_requests,
                )
            folder.mkdir(parents=True, exist_ok=True)
            truth = Path(scratch) / "simulated" / simulated.TRUTH
            (folder / simulated.TRUTH).write_text(truth.read_text())
            features.write_parquet(file)
        return pl.read_parquet(file), calendar.from_truth(folder / simulated.TRUTH)


def weeks(
    features: pl.DataFrame, held: Settings
) -> Iterator[tuple[datetime, datetime, pl.DataFrame]]:
    """Yield per week the firings of every candidate and of those that the gate had put in force."""
    params, specs = held.params, signal_specs.load(held.workspace / "specs")
    trained: dict[object, training.Trained] = {}

    def trained_on(history_of: pl.DataFrame) -> training.Trained:
        key = history_of["time"].max()
        if key not in trained:
            trained[key] = training.train(
                history_of,
                params.baselines,
                window_s=params.features.window_s,
                seed=params.seed,
            )
        return trained[key]

    for fold in history.folds(features, lambda part: trained_on(part).bounds, params):
        before = features.filter(pl.col("time") < fold.since)
        gated = stage.run(
            before,
            trained_on(before).bounds,
            trained_on(before).scores,
            lambda part: trained_on(part).bounds,
            specs,
            Calendar(),
            params,
        )
        firings = history.replayed(features, fold, specs, params)
        chosen = gated.table.filter("in_force").select(*judge.BOUND, "candidate")
        published = firings.join(chosen, on=[*judge.BOUND, "candidate"], how="semi")
        published = published.with_columns(candidate=pl.lit(PUBLISHED))
        yield fold.since, fold.until, pl.concat([firings, published])


def hold(
    result: Result,
    firings: pl.DataFrame,
    truth: Calendar,
    since: datetime,
    until: datetime,
    params: Params,
    shop_name: str,
) -> None:
    """Score the pages of a week against the truth."""
    late = timedelta(seconds=params.thresholds.sustained_s)
    incidents = truth.entries(kind="incident", since=since - late, until=until)
    begun = [entry for entry in incidents if since <= naive(entry.start) < until]
    result.expected += [(f"{shop_name} {entry.name}", entry.labels["kind"]) for entry in begun]
    for row in firings.iter_rows(named=True):
        operation = labelled(row["operation"])
        concerned = [entry for entry in incidents if entry.concerns(row["service_name"], operation)]
        if not any(met(entry, row["start"], row["end"], late) for entry in concerned):
            kind = f"{row['signal']} {row['bound']}"
            result.false[kind] = result.false.get(kind, 0) + 1
        for entry in concerned:
            if met(entry, row["start"], row["end"], timedelta(0)):
                name = f"{shop_name} {entry.name}"
                delay = max((row["start"] - naive(entry.start)).total_seconds(), 0.0)
                result.delays[name] = min(delay, result.delays.get(name, np.inf))


def met(incident: Entry, start: datetime, end: datetime, late: timedelta) -> bool:
    """Return whether a page fires during an incident or begins at most `late` after it."""
    return start <= naive(incident.end) + late and end > naive(incident.start)


def naive(time_of: datetime) -> datetime:
    """Return a UTC time without its zone, as frames hold it."""
    return time_of.replace(tzinfo=None)


def operations(features: pl.DataFrame) -> int:
    """Count operations."""
    return features.select(signals.OPERATION).n_unique()


def report(results: dict[str, Result]) -> None:
    """Print the tables."""
    print(f"{'':24}{'recall':>10}{'false/op-month':>16}{'delay, min':>12}")
    for name, result in results.items():
        line(name, result.recall(), result.false_a_month, result.delays)
    published = results[PUBLISHED]
    print(f"\n{PUBLISHED}, by kind of incident")
    for kind in sorted({kind for _, kind in published.expected}):
        names = {name for name, of in published.expected if of == kind}
        delays = {name: delay for name, delay in published.delays.items() if name in names}
        line(f"{kind} ({len(names)})", published.recall(kind), None, delays)
    print(f"\n{PUBLISHED}, false pages per operation and month by signal")
    for kind, count in sorted(published.false.items()):
        print(f"{kind:24}{'':10}{count / published.months:>16.3f}")
    missed = [name for name, _ in published.expected if name not in published.delays]
    print(f"\nnot met: {json.dumps(missed)}")


def line(name: str, recall: float, false: float | None, delays: dict[str, float]) -> None:
    """Print one line; a figure that does not apply stays empty."""
    delay = f"{np.median(list(delays.values())) / 60:.0f}" if delays else ""
    print(f"{name:24}{recall:>10.3f}{'' if false is None else f'{false:.3f}':>16}{delay:>12}")


if __name__ == "__main__":
    main()
