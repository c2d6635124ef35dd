"""Train the baselines of every operation, and score the history with them.

In:  the features, and which windows are masked.
Out: `Trained`: fitted baselines and forests, bounds for the coming week, scores of the history.

A series with a season gets the model that forecasts it best; one without gets robust bounds; one
that can have neither gets a row in `skipped` with the reason.
"""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import polars as pl
from tqdm import tqdm

from apm_analytics.baselines.detection.forest import ForestDetector
from apm_analytics.baselines.detection.together import (
    CONTRIBUTIONS_SCHEMA,
    SCORES_SCHEMA,
    expected_then,
    long,
    saturation_scores,
    train_forests,
)
from apm_analytics.baselines.models import row_kernels
from apm_analytics.baselines.models.fitted import FittedFleet, SeriesBaseline
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import Flags, Times, hour_of_week, week_after
from apm_analytics.baselines.training import engines, fitting, masks
from apm_analytics.baselines.training import fleet as fleets_of
from apm_analytics.baselines.training.backtest import SELECTION_SCHEMA
from apm_analytics.baselines.training.engines import Key
from apm_analytics.baselines.training.fitting import FleetFit
from apm_analytics.baselines.training.fleet import (
    BOUNDS_SCHEMA,
    OUTCOME_SCHEMA,
    SKIPPED,
    Fleet,
    Outcome,
)
from apm_analytics.foundation.errors import NotEnoughData
from apm_analytics.foundation.settings import BaselineParams
from apm_analytics.signals import OPERATION, SIGNALS

FRAMES = {
    "bounds": BOUNDS_SCHEMA,
    "scores": SCORES_SCHEMA,
    "skipped": OUTCOME_SCHEMA,
    "contributions": CONTRIBUTIONS_SCHEMA,
    "selection": SELECTION_SCHEMA,
}

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Trained:
    """The results of a training run.

    Parameters
    ----------
    fleets : fitted baselines, grouped by signal and model.
    forests : by service and operation.
    bounds : 168 rows per series. scores : one row per window and series of the history; the last
        days are scored against forecasts made before them.
    skipped : every series that was skipped, has no season or was corrected, and why.
    contributions : share of each signal in scores of the forest above 1.
    selection : errors of every candidate in the backtest, and which was chosen.
    """

    fleets: list[FittedFleet] = field(default_factory=list)
    forests: dict[tuple[str, str], ForestDetector] = field(default_factory=dict)
    bounds: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=BOUNDS_SCHEMA))
    scores: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SCORES_SCHEMA))
    skipped: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=OUTCOME_SCHEMA))
    contributions: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(schema=CONTRIBUTIONS_SCHEMA)
    )
    selection: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SELECTION_SCHEMA))

    @property
    def baselines(self) -> dict[Key, SeriesBaseline]:
        """The baselines one by one."""
        return {key: one for fleet in self.fleets for key, one in fleet.each()}


def train(
    features: pl.DataFrame,
    params: BaselineParams,
    *,
    window_s: float,
    seed: int,
    masked: Flags | None = None,
    saturation: pl.DataFrame | None = None,
    by_library: Collection[Key] = (),
    only_models: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> Trained:
    """Train all operations, in parallel chunks on all cores.

    Parameters
    ----------
    features : as `signals.operations.features` returns them.
    params : the numbers of params.yaml.
    window_s : length of a window, in seconds.
    seed : of the forests.
    masked : bool of shape (len(features),): windows that are not fitted, such as those of known
        incidents, deployments and maintenance. They are still scored.
    saturation : as `signals.saturation.saturation` returns it; the forests of the services in it
        use it too.
    by_library : series that the Prophet library fits, see `engines`.
    only_models : fit baselines and forests, but compute no bounds and no scores.
    workers : threads; by default one per core.
    progress : show a progress bar over chunks of operations.

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
    outcomes, chunks = fleets_of.fleets(features, window_s, masked=masked)
    operations = set(features.select(OPERATION).unique().rows())
    outcomes += [
        Outcome(
            *key,
            SKIPPED,
            "unknown series: specs/signals.yaml sets an engine for it, but the "
            "features have no such operation; correct the entry or remove it",
        )
        for key in engines.unknown(by_library, operations)
    ]
    week = None if only_models else week_after(features["time"].to_numpy().max(), window_s)
    saturated: dict[str, Floats] = {}
    if saturation is not None:
        times = fleets_of.windows(features["time"].to_numpy(), window_s)
        saturated = saturation_scores(saturation, times, window_s, params)
    trained = Trained()
    frames: dict[str, list[pl.DataFrame]] = {name: [] for name in FRAMES}

    def one(chunk: list[Fleet]) -> Trained:
        return _train_chunk(chunk, saturated, params, seed, week, by_library)

    done = side_by_side(one, chunks, workers or os.cpu_count() or 1)
    for part in tqdm(done, desc="train", unit="chunk", disable=not progress):
        trained.fleets += part.fleets
        trained.forests.update(part.forests)
        for name, collected in frames.items():
            collected.append(getattr(part, name))
    frames["skipped"].append(fleets_of.frame(outcomes))
    for name, collected in frames.items():
        setattr(trained, name, pl.concat(collected) if collected else getattr(trained, name))
    trained.skipped = trained.skipped.sort(*OPERATION, "signal")
    if not trained.fleets:
        reasons = trained.skipped["reason"].unique(maintain_order=True).head(3).to_list()
        raise NotEnoughData(
            f"all {len(trained.skipped)} series were skipped, such as: {'; '.join(reasons)}"
        )
    return trained


def side_by_side(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Call a function in threads, at most one item per worker at a time; results in order."""
    with ThreadPoolExecutor(workers) as pool:
        under_way: deque[Future[Result]] = deque()
        for item in items:
            under_way.append(pool.submit(function, item))
            if len(under_way) >= workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def bounds_of(fitted: FittedFleet, week: Times) -> pl.DataFrame:
    """Return the median of expected value and bounds over each hour of the coming week."""
    band = fitted.predict(week)
    hours = hour_of_week(week)
    begin = np.r_[True, hours[1:] != hours[:-1]]
    group = np.cumsum(begin) - 1
    order = np.argsort(hours[begin], kind="stable")
    medians = {}
    for name in ("expected", "lower", "upper"):
        hourly = np.full((len(fitted), int(group[-1]) + 1), np.nan)
        row_kernels.group_medians(np.ascontiguousarray(getattr(band, name)), group, hourly)
        medians[name] = hourly[:, order].ravel()
    per_series = order.size
    return long(
        BOUNDS_SCHEMA,
        fitted.operations,
        per_series,
        signal=fitted.signal,
        unit=SIGNALS[fitted.signal].unit,
        hour_of_week=np.tile(hours[begin][order], len(fitted)),
        **medians,
        model=fitted.model,
    )


def fit_chunk(
    chunk: list[Fleet],
    params: BaselineParams,
    *,
    week: Times | None,
    by_library: Collection[Key] = (),
) -> tuple[list[FleetFit], Trained]:
    """Fit all signals of some operations, with bounds for `week`; no forests."""
    chunk = masks.without_disturbed(chunk, params)
    fits = [fitting.fit(fleet, params, by_library=by_library) for fleet in chunk]
    trained = Trained(fleets=[fitted for fit in fits for fitted in fit.fitted])
    trained.selection = pl.concat([fit.selection for fit in fits])
    trained.skipped = fleets_of.frame([outcome for fit in fits for outcome in fit.outcomes])
    if week is not None and trained.fleets:
        trained.bounds = pl.concat([bounds_of(fitted, week) for fitted in trained.fleets])
    return fits, trained


def _train_chunk(
    chunk: list[Fleet],
    saturated: dict[str, Floats],
    params: BaselineParams,
    seed: int,
    week: Times | None,
    by_library: Collection[Key],
) -> Trained:
    """Train all signals of some operations, and forests over them."""
    fits, trained = fit_chunk(chunk, params, week=week, by_library=by_library)
    forests = train_forests(fits, saturated, params, seed=seed, score=week is not None)
    trained.forests = forests.forests
    trained.skipped = pl.concat([trained.skipped, fleets_of.frame(forests.outcomes)])
    trained.contributions = pl.concat([trained.contributions, *forests.contributions])
    if week is not None:
        trained.scores = pl.concat([trained.scores, *map(_scores, fits), *forests.scores])
    return trained


def _scores(fit: FleetFit) -> pl.DataFrame:
    """Score the windows of the history in which an operation lived."""
    fleet = fit.fleet
    parts = [pl.DataFrame(schema=SCORES_SCHEMA)]
    for fitted, rows in zip(fit.fitted, fit.rows, strict=True):
        times = fleet.times
        scaled = expected_then(fit, fitted, rows)
        band = fitted.calibration.band(scaled, times, fitted.scale)
        score = fitted.calibration.score(scaled, times, fit.by_present_clock(rows), fitted.scale)
        results = (band.expected, band.lower, band.upper, score)
        expected, lower, upper, score = (fit.as_recorded(rows, one) for one in results)
        parts.append(
            long(
                SCORES_SCHEMA,
                fitted.operations,
                times.size,
                time=np.tile(times, len(rows)),
                signal=fitted.signal,
                value=fleet.values[rows].ravel(),
                expected=expected.ravel(),
                lower=lower.ravel(),
                upper=upper.ravel(),
                score=score.ravel(),
                model=fitted.model,
            ).filter(~np.isnan(fleet.requests[rows]).ravel())
        )
    return pl.concat(parts)
