"""The gate as a stage of the training: learn thresholds, replay them, decide which ones page.

In:  derived/ features, bounds and scores of a training run; labelled incidents; the published set.
Out: derived/levels.parquet (thresholds of the coming week), derived/gate.parquet (the gate's
     table), derived/firings.parquet (when every candidate would have fired).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from apm_analytics.alerts import thresholds
from apm_analytics.alerts.gate import history, judge, levels
from apm_analytics.alerts.gate.history import KEPT, LEARNED, NAIVE, STATIC, Train
from apm_analytics.alerts.gate.judge import Key, Span
from apm_analytics.alerts.gate.watching import ALL_OPERATIONS
from apm_analytics.alerts.prometheus import signal_specs
from apm_analytics.alerts.prometheus.signal_specs import BOUNDS, SignalSpec
from apm_analytics.baselines.models import store
from apm_analytics.baselines.training import engines, masks, stages, training
from apm_analytics.foundation.frames import read_parquet
from apm_analytics.foundation.settings import Params, Settings
from apm_analytics.signals import SERIES, Calendar, calendar

TABLE, FIRINGS, LEVELS = "gate", "firings", "levels"


@dataclass(frozen=True)
class Gated:
    """The result of the gate.

    Parameters
    ----------
    levels : bounds of sustained values for the coming week, see `levels.learn`, and those of
        seasonal naive where it is in force; where none could be learned, the bounds of single
        windows, which the gate never publishes.
    table : with `judge.TABLE_SCHEMA`.
    firings : with `history.FIRINGS_SCHEMA`.
    replayed : [since, until) of each fold, UTC without a zone.
    """

    levels: pl.DataFrame
    table: pl.DataFrame
    firings: pl.DataFrame
    replayed: list[Span]


def run(
    features: pl.DataFrame,
    bounds: pl.DataFrame,
    scores: pl.DataFrame,
    train: Train,
    signals: Mapping[str, SignalSpec],
    incidents: Calendar,
    params: Params,
    *,
    published: pl.DataFrame | None = None,
) -> Gated:
    """Replay every threshold and decide which ones page.

    Parameters
    ----------
    features, bounds, scores : of the training run.
    train : returns bounds of the features before a replayed time.
    signals : what is watched, with the static thresholds.
    incidents : labelled ones, to judge by; nothing is trained on them.
    params : the numbers of params.yaml.
    published : thresholds.parquet of the previous release.
    """
    coming = levels.learn(features, bounds, params)
    without = bounds.select(coming.columns).join(coming, on=SERIES, how="anti")
    naive = history.naive_levels(features, _end(features, params), params)
    kept = None if published is None else thresholds.current(published)
    parts, replayed = [pl.DataFrame(schema=history.FIRINGS_SCHEMA)], []
    candidates = _candidates({LEARNED: coming, KEPT: kept, NAIVE: naive, STATIC: without}, signals)
    for fold in history.folds(features, train, params, kept=kept):
        parts.append(history.replayed(features, fold, signals, params))
        replayed.append((fold.since, fold.until))
    firings = pl.concat(parts)
    anomalies = judge.sustained_anomalies(scores, params)
    table = judge.judge(firings, replayed, candidates, incidents, anomalies, params)
    of_week = _with_naive(pl.concat([coming, without]), naive, table)
    return Gated(of_week, table, firings, replayed)


def labels(workspace: Path, lake: Path) -> Calendar:
    """Return the labels to judge by: specs/calendar.yaml and the calendar beside the lake."""
    entries = list(calendar.of_workspace(workspace))
    beside = calendar.beside(lake)
    if beside.exists():
        entries += calendar.load(beside)
    return calendar.of(entries)


def trainer(settings: Settings, progress: bool = False) -> Train:
    """Return the workspace's training as a function from features to bounds."""
    params = settings.params

    def train(features: pl.DataFrame) -> pl.DataFrame:
        return training.train(
            features,
            params.baselines,
            window_s=params.features.window_s,
            seed=params.seed,
            masked=masks.of_workspace(features, settings),
            by_library=engines.of_workspace(settings.workspace),
            progress=progress,
        ).bounds

    return train


def gate_stage(
    lake: Path, derived: Path, models: Path, settings: Settings, run_id: str | None, progress: bool
) -> str:
    """Write derived/levels, gate and firings: which thresholds page from now on, and why."""
    before = derived.parent / "published" / "thresholds.parquet"
    gated = run(
        read_parquet(derived / stages.FEATURES),
        read_parquet(derived / "bounds.parquet"),
        read_parquet(derived / "scores.parquet"),
        trainer(settings, progress),
        signal_specs.load(settings.workspace / "specs"),
        labels(settings.workspace, lake),
        settings.params,
        published=read_parquet(before) if before.exists() else None,
    )
    for name, frame in ((LEVELS, gated.levels), (TABLE, gated.table), (FIRINGS, gated.firings)):
        store.write_frame(frame, derived / f"{name}.parquet")
    days = sum((until - since).total_seconds() for since, until in gated.replayed) / 86_400
    in_force = ", ".join(
        f"{alerts} {candidate} ({unproven} unproven)" if unproven else f"{alerts} {candidate}"
        for candidate, alerts, unproven in judge.counts(gated.table).iter_rows()
    )
    return f"gate: {days:.1f} days replayed; in force: {in_force}"


def _candidates(
    frames: Mapping[str, pl.DataFrame | None], signals: Mapping[str, SignalSpec]
) -> dict[Key, frozenset[str]]:
    """Return the candidates of every series and bound; none where nobody asked for the bound."""
    candidates: dict[Key, frozenset[str]] = {}
    for candidate, frame in frames.items():
        if frame is None:
            continue
        for service, operation, signal in frame.select(SERIES).unique().iter_rows():
            spec = signals[signal]
            for bound in BOUNDS[signal]:
                key = (service, operation, signal, bound)
                names = candidates.get(key, frozenset())
                if bound in spec.bounds:
                    static = _has_static(spec, bound, operation)
                    names |= {candidate} - {STATIC} | ({STATIC} if static else frozenset())
                candidates[key] = names
    return candidates


def _has_static(spec: SignalSpec, bound: str, operation: str) -> bool:
    return operation != ALL_OPERATIONS and getattr(spec.fallback, bound) is not None


def _with_naive(of_week: pl.DataFrame, naive: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """Replace the thresholds of series in which seasonal naive is in force."""
    chosen = table.filter(pl.col("in_force"), candidate=NAIVE).select(SERIES).unique()
    replaced = naive.join(chosen, on=SERIES, how="semi")
    return pl.concat([of_week.join(replaced, on=SERIES, how="anti"), replaced])


def _end(features: pl.DataFrame, params: Params) -> datetime:
    last: datetime = features["time"].max()  # type: ignore[assignment]
    return last + timedelta(seconds=params.features.window_s)
