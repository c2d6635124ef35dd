"""Train every baseline of every operation, and say what they find in the history.

In:  the features.
Out: `Trained`: fitted baselines and forests, bounds for the coming week, scores of the history.

A series gets Prophet when its history has a season, robust bounds when it has not, and a line
in `skipped` when it has too few windows for either. Nothing is left out in silence.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import joblib
import numpy as np
import polars as pl
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm

from apm_analytics.analyze.signals import OPERATION, SIGNALS, Schema
from apm_analytics.baselines import series as calendar
from apm_analytics.baselines.band import Baseline
from apm_analytics.baselines.forest import ForestDetector
from apm_analytics.baselines.prophet_series import ProphetBaseline
from apm_analytics.baselines.robust import RobustBaseline
from apm_analytics.baselines.scales import Floats
from apm_analytics.baselines.series import Flags, Series, Times
from apm_analytics.errors import ApmError, NotEnoughData
from apm_analytics.settings import BaselineParams

TOGETHER = "together"
FOREST = "forest"
# A window is part of an incident when this share of the half hour around it is out of bounds,
# or when it is this far out itself. Forests do not learn from such windows.
INCIDENT_RATIO = 0.4
INCIDENT_REACH = 3
INCIDENT_SCORE = 2.0

BOUNDS_SCHEMA: Schema = {
    **dict.fromkeys((*OPERATION, "signal", "unit"), pl.String),
    "hour_of_week": pl.Int16,
    **dict.fromkeys(("expected", "lower", "upper"), pl.Float64),
    "model": pl.String,
}
SCORES_SCHEMA: Schema = {
    **dict.fromkeys(OPERATION, pl.String),
    "time": pl.Datetime("us"),
    "signal": pl.String,
    **dict.fromkeys(("value", "expected", "lower", "upper", "score"), pl.Float64),
    "model": pl.String,
}
SKIPPED_SCHEMA: Schema = dict.fromkeys((*OPERATION, "signal", "reason"), pl.String)
CONTRIBUTIONS_SCHEMA: Schema = {
    **dict.fromkeys(OPERATION, pl.String),
    "time": pl.Datetime("us"),
    "score": pl.Float64,
    **dict.fromkeys(SIGNALS, pl.Float64),
}

Key = tuple[str, str, str]


@dataclass
class Trained:
    """Everything learned from one operation, or from all."""

    baselines: dict[Key, Baseline] = field(default_factory=dict)
    forests: dict[tuple[str, str], ForestDetector] = field(default_factory=dict)
    bounds: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=BOUNDS_SCHEMA))
    scores: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SCORES_SCHEMA))
    skipped: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SKIPPED_SCHEMA))
    contributions: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(schema=CONTRIBUTIONS_SCHEMA)
    )


def train(
    features: pl.DataFrame,
    params: BaselineParams,
    *,
    window_s: float,
    seed: int,
    only_models: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> Trained:
    """Train all operations, on all cores when there is something slow to train.

    Parameters
    ----------
    features : as `analyze.signals.features` gives them.
    params : the numbers of params.yaml.
    window_s : length of a window, in seconds.
    seed : of optimiser and forests; equal seeds give equal results.
    only_models : fit baselines and forests, but give no bounds and score no history.
    workers : processes; by default one a core where there is a season to learn, else one.
    progress : show a progress bar over the operations.

    Raises
    ------
    NotEnoughData
        There are no features at all, or every series was skipped.
    """
    if features.is_empty():
        raise NotEnoughData(
            "the lake has no whole window of any operation; import spans of kind server or "
            "consumer, or roots, that last longer than two windows (features.window_s)"
        )
    parts = list(calendar.operations(features))
    week = calendar.week_after(features["time"].to_numpy().max(), window_s)
    slow = max(_days(part, window_s) for part in parts) >= params.min_season_days
    if workers is None:
        # Starting processes costs seconds, more than all series without a season together.
        workers = min(os.cpu_count() or 1, len(parts)) if slow and len(parts) > 2 else 1
    trained = Trained()
    with tempfile.TemporaryDirectory(prefix="apm-train-") as scratch:
        jobs = (
            joblib.delayed(_train_operation)(
                part,
                params,
                window_s,
                seed,
                None if only_models else week,
                scratch if workers > 1 else None,
            )
            for part in parts
        )
        done = joblib.Parallel(n_jobs=workers, return_as="generator")(jobs)
        bar = tqdm(done, total=len(parts), desc="train", unit="operation", disable=not progress)
        frames: dict[str, list[pl.DataFrame]] = {
            name: [getattr(trained, name)]
            for name in ("bounds", "scores", "skipped", "contributions")
        }
        for one in bar:
            trained.baselines.update(one.baselines)
            trained.forests.update(one.forests)
            for name, collected in frames.items():
                collected.append(getattr(one, name))
        if workers > 1:
            # Idle workers would keep their memory, and their files in `scratch`, for minutes.
            get_reusable_executor().shutdown(wait=True)
    for name, collected in frames.items():
        setattr(trained, name, pl.concat(collected))
    if not trained.baselines:
        reasons = trained.skipped["reason"].head(3).to_list()
        raise NotEnoughData(
            f"all {len(trained.skipped)} series were skipped, such as: {'; '.join(reasons)}"
        )
    return trained


def fit_series(series: Series, params: BaselineParams, *, seed: int) -> Baseline:
    """Fit the richest baseline that one series allows.

    Raises
    ------
    NotEnoughData
        The series has too few windows for any; the message is the reason to skip it.
    """
    calendar.require_windows(series, params.min_windows)
    try:
        return ProphetBaseline.fit(
            series,
            level=params.level,
            grid_s=params.fit_grid_s,
            changepoint_prior_scale=params.changepoint_prior_scale,
            min_days=params.min_season_days,
            min_windows=params.min_windows,
            seed=seed,
        )
    except ApmError as error:
        return RobustBaseline.fit(
            series,
            deviations=params.robust_deviations,
            min_windows=params.min_windows,
            knows_week=series.days >= params.min_season_days,
            reason=str(error),
        )


def deviations_of(
    series: list[Series], baselines: dict[Key, Baseline]
) -> tuple[tuple[str, ...], Floats, Flags]:
    """Give what a forest sees of one operation.

    Returns
    -------
    The signals with a baseline, their deviations of shape (n_windows, n_signals), and which
    windows are quiet, that is not part of an incident. A deviation is the distance from the
    expected value, signed; 1 is the bound. So a rare failure among few requests, however many
    standard deviations it is, weighs no more than other chances of its signal.
    """
    fitted = [one for one in series if one.key in baselines]
    if not fitted:
        return (), np.empty((0, 0)), np.empty(0, dtype=np.bool_)
    columns = []
    for one in fitted:
        baseline = baselines[one.key]
        side = np.sign(one.values - baseline.predict(one.times).expected)
        columns.append(side * baseline.score(one.times, one.values))
    worst = np.abs(np.nan_to_num(np.column_stack(columns), nan=0.0)).max(axis=1)
    around = np.ones(2 * INCIDENT_REACH + 1)
    share = np.convolve(worst > 1.0, around, mode="same") / around.size
    quiet = (share < INCIDENT_RATIO) & (worst <= INCIDENT_SCORE)
    return tuple(one.signal for one in fitted), np.column_stack(columns), quiet


def _train_operation(
    features: pl.DataFrame,
    params: BaselineParams,
    window_s: float,
    seed: int,
    week: Times | None,
    scratch: str | None,
) -> Trained:
    """Train one operation; runs in a worker process when `scratch` is given."""
    if scratch is not None:
        # Workers end without cleaning up: what Stan leaves behind goes with this folder.
        tempfile.tempdir = scratch
    series = calendar.of_operation(features, window_s)
    found = Trained()
    skipped: list[tuple[str, str, str, str]] = []
    for one in series:
        try:
            found.baselines[one.key] = fit_series(one, params, seed=seed)
        except NotEnoughData as error:
            skipped.append((*one.key, str(error)))
    together = _train_forest(series, params, seed, found, skipped, score=week is not None)
    if week is not None:
        found.scores = pl.concat([*_score(series, found), *together])
        found.bounds = pl.concat(
            [found.bounds, *(_bounds(key, one, week) for key, one in found.baselines.items())]
        )
    found.skipped = pl.DataFrame(skipped, schema=SKIPPED_SCHEMA, orient="row")
    return found


def _train_forest(
    series: list[Series],
    params: BaselineParams,
    seed: int,
    found: Trained,
    skipped: list[tuple[str, str, str, str]],
    *,
    score: bool,
) -> list[pl.DataFrame]:
    """Fit the forest of an operation into `found`, and give its scores."""
    signals, deviations, quiet = deviations_of(series, found.baselines)
    service, operation, _ = series[0].key
    try:
        forest = ForestDetector.fit(
            deviations,
            signals,
            quiet,
            trees=params.forest_trees,
            contamination=params.forest_contamination,
            seed=seed,
        )
    except NotEnoughData as error:
        skipped.append((service, operation, TOGETHER, str(error)))
        return []
    found.forests[service, operation] = forest
    if not score:
        return []
    scores = forest.predict(deviations)
    odd = scores > 1.0
    shares = forest.contributions(deviations[odd])
    found.contributions = _frame(
        CONTRIBUTIONS_SCHEMA,
        service_name=service,
        operation=operation,
        time=series[0].times[odd],
        score=scores[odd],
        **{name: shares[:, signals.index(name)] for name in signals},
    )
    return [
        _frame(
            SCORES_SCHEMA,
            service_name=service,
            operation=operation,
            time=series[0].times,
            signal=TOGETHER,
            score=scores,
            model=FOREST,
        )
    ]


def _score(series: list[Series], found: Trained) -> Iterator[pl.DataFrame]:
    yield found.scores
    for one in series:
        baseline = found.baselines.get(one.key)
        if baseline is None:
            continue
        band = baseline.predict(one.times)
        yield _frame(
            SCORES_SCHEMA,
            service_name=one.service_name,
            operation=one.operation,
            time=one.times,
            signal=one.signal,
            value=one.values,
            expected=band.expected,
            lower=band.lower,
            upper=band.upper,
            score=baseline.score(one.times, one.values),
            model=baseline.model,
        )


def _bounds(key: Key, baseline: Baseline, week: Times) -> pl.DataFrame:
    """Give the median of expected value and bounds over each hour of the coming week."""
    band = baseline.predict(week)
    hours = calendar.hour_of_week(week)
    medians = {
        name: calendar.group_medians(hours, getattr(band, name))[1]
        for name in ("expected", "lower", "upper")
    }
    service, operation, signal = key
    return _frame(
        BOUNDS_SCHEMA,
        service_name=service,
        operation=operation,
        signal=signal,
        unit=SIGNALS[signal].unit,
        hour_of_week=np.unique(hours),
        **medians,
        model=baseline.model,
    )


def _frame(schema: Schema, **columns: object) -> pl.DataFrame:
    """Make a frame of arrays and of values that all rows share; what is not given is null."""
    arrays = {name: one for name, one in columns.items() if isinstance(one, np.ndarray)}
    frame = pl.DataFrame(arrays, nan_to_null=True)
    return frame.select(
        (pl.col(name) if name in arrays else pl.lit(columns.get(name))).cast(kind).alias(name)
        for name, kind in schema.items()
    )


def _days(features: pl.DataFrame, window_s: float) -> float:
    return len(features) * window_s / calendar.DAY_S
