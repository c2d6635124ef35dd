"""Would the alerts have paged well? Simulated shops with known incidents, replayed week by week.

In:  --seeds of `apm simulate`; --spans and --days of each (default: params.yaml); --keep DIR to
     keep the features of each shop and reuse them; --fleets, which changes of each shop to replay.
Out: tables of incidents met, false pages per operation and month, minutes until the page: by
     candidate, by fleet, by kind of incident, by signal; how many alerts the gate put in force
     against its own rules. Exit code 1 when the published alerts miss a limit.

Every week is replayed with thresholds trained on the weeks before, and with the gate's decisions
on those weeks, without labels but in the fleet `labelled`; the truth only scores the pages. The
first week is only trained on.
Peers in the same run: the static thresholds of specs/signals.yaml, and seasonal naive, which
learns its thresholds as the learned ones do.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
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
LEAST_RECALL, MOST_FALSE = 0.93, 0.5
SHOP, LABELLED, OFFICE, BATCH, CLOCK = (
    "shop",  # as simulated, without labels
    "labelled",  # the same; the gate knows the incidents of the weeks before
    "office hours",  # traffic from Monday to Friday, 08:00 to 18:00 UTC
    "weekly batch",  # on Mondays from 02:00 to 03:00 UTC six times the requests, twice as slow
    "clock change",  # three days before the end, everything happens an hour later
)
NAMES = (STATIC, NAIVE, LEARNED, PUBLISHED)
IN_A_BATCH = {
    **dict.fromkeys(["count", "seen_count", "rate_per_s", "rate_se_per_s", "error_count"], 6),
    **dict.fromkeys(["latency_p50_s", "latency_p95_s", "latency_p99_s"], 2),
}
FLEETS = (SHOP, LABELLED, OFFICE, BATCH, CLOCK)
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

    def add(self, other: "Result") -> None:
        """Add what another fleet or shop gave."""
        self.expected += other.expected
        self.delays |= other.delays
        for kind, count in other.false.items():
            self.false[kind] = self.false.get(kind, 0) + count
        self.months += other.months

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
    parser.add_argument("--fleets", nargs="+", choices=FLEETS, default=FLEETS)
    asked = parser.parse_args()
    held = settings.load()
    began = time.process_time()
    by_fleet = {fleet: {name: Result() for name in NAMES} for fleet in asked.fleets}
    broken: list[pl.DataFrame] = []
    for seed in asked.seeds:
        made = shop(seed, asked.spans, asked.days, asked.keep, held.params)
        for fleet, results in by_fleet.items():
            features, truth = changed(*made, fleet)
            known = truth if fleet == LABELLED else Calendar()
            for since, until, firings, table in weeks(features, known, held):
                broken.append(against_the_rules(table, held.params))
                for name, result in results.items():
                    own = firings.filter(candidate=name)
                    hold(result, own, truth, since, until, held.params, f"{fleet} {seed}")
                    result.months += (
                        operations(features) * (until - since) / timedelta(days=MONTH_DAYS)
                    )
    sums = {name: Result() for name in NAMES}
    for results in by_fleet.values():
        for name, result in results.items():
            sums[name].add(result)
    report(sums, {fleet: results[PUBLISHED] for fleet, results in by_fleet.items()})
    wrong = pl.concat(broken)
    print(f"\nin force above the budget, or with a false page and no incident met: {wrong.height}")
    print(f"\n{len(asked.seeds)} shops, {time.process_time() - began:.0f} CPU s")
    published = sums[PUBLISHED]
    missed = published.recall() < LEAST_RECALL or published.false_a_month > MOST_FALSE
    sys.exit(bool(missed or wrong.height))


def changed(features: pl.DataFrame, truth: Calendar, fleet: str) -> tuple[pl.DataFrame, Calendar]:
    """Return the features and the truth of a shop as they are in one of the fleets."""
    at = pl.col("time")
    if fleet == OFFICE:
        open_then = (at.dt.weekday() <= 5) & at.dt.hour().is_between(8, 17)
        begun = [one for one in truth if one.start.weekday() < 5 and 8 <= one.start.hour < 18]
        return features.filter(open_then), Calendar(tuple(begun))
    if fleet == BATCH:
        batch = (at.dt.weekday() == 1) & (at.dt.hour() == 2)
        return features.with_columns(
            pl.when(batch).then(pl.col(name) * factor).otherwise(name).alias(name)
            for name, factor in IN_A_BATCH.items()
        ), truth
    if fleet == CLOCK:
        change = features["time"].max() - timedelta(days=3)
        hour = timedelta(hours=1)
        moved = pl.when(at < change).then(at - hour).otherwise(at)
        entries = [
            replace(one, start=one.start - hour, end=one.end - hour)
            if naive(one.start) < change
            else one
            for one in truth
        ]
        return features.with_columns(time=moved), Calendar(tuple(entries))
    return features, truth


def against_the_rules(table: pl.DataFrame, params: Params) -> pl.DataFrame:
    """Return the alerts in force over their budget, or with a false page and nothing met."""
    false, recall = pl.col("false_per_week"), pl.col("recall").fill_null(0.0)
    over = false > params.gate.max_pages_per_week
    return table.filter("in_force", over | (recall == 0.0) & (false > 0.0))


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
    features: pl.DataFrame, known: Calendar, held: Settings
) -> Iterator[tuple[datetime, datetime, pl.DataFrame, pl.DataFrame]]:
    """Yield per week the firings of every candidate and of those in force, and the gate's table."""
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
            Calendar(tuple(known.entries(until=fold.since))),
            params,
        )
        firings = history.replayed(features, fold, specs, params)
        chosen = gated.table.filter("in_force").select(*judge.BOUND, "candidate")
        published = firings.join(chosen, on=[*judge.BOUND, "candidate"], how="semi")
        published = published.with_columns(candidate=pl.lit(PUBLISHED))
        yield fold.since, fold.until, pl.concat([firings, published]), gated.table


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


def report(results: dict[str, Result], by_fleet: dict[str, Result]) -> None:
    """Print the tables."""
    print(f"{'':24}{'recall':>10}{'false/op-month':>16}{'delay, min':>12}")
    for name, result in results.items():
        line(name, result.recall(), result.false_a_month, result.delays)
    print(f"\n{PUBLISHED}, by fleet")
    for fleet, result in by_fleet.items():
        line(fleet, result.recall(), result.false_a_month, result.delays)
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
