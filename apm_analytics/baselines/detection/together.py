"""The signals of an operation together: columns, scores and contributions of its forest.

In:  the fits of all signals of some operations, and the saturation of their services.
Out: one forest per operation, its scores, and the share of each signal in scores above 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from apm_analytics.baselines.detection.forest import ForestDetector
from apm_analytics.baselines.models.fitted import FittedFleet
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import Flags, Times
from apm_analytics.baselines.training import fitting
from apm_analytics.baselines.training.fitting import FleetFit
from apm_analytics.baselines.training.fleet import SKIPPED, Fleet, Outcome
from apm_analytics.foundation.errors import NotEnoughData
from apm_analytics.foundation.settings import BaselineParams
from apm_analytics.signals import OPERATION, SIGNALS, Schema
from apm_analytics.signals.saturation import SATURATION

TOGETHER = "together"
FOREST = "forest"
# A window is part of an incident when this share of the half hour around it is out of bounds,
# or when its own score is above INCIDENT_SCORE. Forests are not fitted to such windows.
INCIDENT_RATIO = 0.4
INCIDENT_REACH = 3
INCIDENT_SCORE = 2.0

SCORES_SCHEMA: Schema = {
    **dict.fromkeys(OPERATION, pl.String),
    "time": pl.Datetime("us"),
    "signal": pl.String,
    **dict.fromkeys(("value", "expected", "lower", "upper", "score"), pl.Float64),
    "model": pl.String,
}
CONTRIBUTIONS_SCHEMA: Schema = {
    **dict.fromkeys(OPERATION, pl.String),
    "time": pl.Datetime("us"),
    "score": pl.Float64,
    **dict.fromkeys((*SIGNALS, SATURATION), pl.Float64),
}


@dataclass
class Together:
    """Forests of some operations and their results."""

    forests: dict[tuple[str, str], ForestDetector] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    scores: list[pl.DataFrame] = field(default_factory=list)
    contributions: list[pl.DataFrame] = field(default_factory=list)


def train_forests(
    fits: list[FleetFit],
    saturated: dict[str, Floats],
    params: BaselineParams,
    *,
    seed: int,
    score: bool,
) -> Together:
    """Fit the forest of every operation.

    Parameters
    ----------
    fits : of all signals of the same operations.
    saturated : by service, as `saturation_scores` returns it.
    score : also score the history.
    """
    result = Together()
    names, scores = signed_scores(fits)
    may_teach = np.logical_and.reduce([fit.fleet.may_teach for fit in fits])
    fleet = fits[0].fleet
    for row, (service, operation) in enumerate(fleet.operations):
        columns = {name: one[row] for name, one in zip(names, scores, strict=True)}
        if service in saturated:
            columns[SATURATION] = saturated[service]
        columns = {name: one for name, one in columns.items() if np.isfinite(one).any()}
        deviations = np.full((fleet.times.size, len(columns)), np.nan)
        for place, one in enumerate(columns.values()):
            deviations[:, place] = one
        worst = np.abs(np.nan_to_num(deviations)).max(axis=1, initial=0.0)
        try:
            forest = ForestDetector.fit(
                deviations,
                tuple(columns),
                may_teach[row] & ~incidents(worst),
                trees=params.forest_trees,
                contamination=params.forest_contamination,
                seed=seed,
            )
        except NotEnoughData as error:
            result.outcomes.append(Outcome(service, operation, TOGETHER, SKIPPED, str(error)))
            continue
        result.forests[service, operation] = forest
        if score:
            _score(result, fleet, row, forest, deviations)
    return result


def signed_scores(fits: Iterable[FleetFit]) -> tuple[list[str], list[Floats]]:
    """Return the deviation of each signal from its expected value; 1 is the bound.

    Returns
    -------
    Names of the signals, and for each float64 of shape (n_operations, n_time); NaN without a value
    or a baseline. A rare failure among few requests may be many standard deviations away, but
    measured in bounds it weighs no more than other chance deviations.
    """
    names, signed = [], []
    for fit in fits:
        scores = np.full(fit.fleet.values.shape, np.nan)
        for fitted, rows in zip(fit.fitted, fit.rows, strict=True):
            values, times = fit.by_present_clock(rows), fit.fleet.times
            scaled = expected_then(fit, fitted, rows)
            score = fitted.calibration.score(scaled, times, values, fitted.scale)
            score *= np.sign(values - fitted.scale.backward(scaled))
            scores[rows] = fit.as_recorded(rows, score)
        names.append(fit.fleet.signal)
        signed.append(scores)
    return names, signed


def saturation_scores(
    measured: pl.DataFrame, times: Times, window_s: float, params: BaselineParams
) -> dict[str, Floats]:
    """Return the saturation score of each service, from its resource furthest from expected.

    Parameters
    ----------
    measured : as `signals.saturation.saturation` returns it.
    times : datetime64[us] of shape (n_time,), the windows of the operations.

    Returns
    -------
    By service, float64 of shape (n_time,), signed, 1 is the bound; NaN where nothing is known.
    """
    resources = ["service_name", "resource"]
    names = measured.select(resources).unique().sort(resources).with_row_index("row")
    if names.is_empty():
        return {}
    step = np.timedelta64(int(window_s * 1e6), "us")
    placed = measured.join(names, on=resources, how="left")
    column = (placed["time"].to_numpy() - times[0]) // step
    inside = (column >= 0) & (column < times.size)
    values = np.full((len(names), times.size), np.nan)
    values[placed["row"].to_numpy()[inside], column[inside]] = placed["share"].to_numpy()[inside]
    known = np.where(np.isnan(values), np.nan, 1.0)
    teaches = np.ones(values.shape, np.bool_)
    operations = names.select(resources).rows()
    fleet = Fleet(SATURATION, operations, times, values, known, teaches, window_s)
    (scores,) = signed_scores([fitting.fit(fleet, params)])[1]
    by_service: dict[str, Floats] = {}
    for row, (service, _) in enumerate(operations):
        before = by_service.get(service, np.full(times.size, np.nan))
        further = ~(np.abs(scores[row]) <= np.abs(before)) & ~np.isnan(scores[row])
        by_service[service] = np.where(further, scores[row], before)
    return by_service


def incidents(worst: Floats) -> Flags:
    """Return which windows are part of an incident, from the largest score of each, (n_time,)."""
    around = np.ones(2 * INCIDENT_REACH + 1)
    beyond = np.pad((worst > 1.0).astype(np.float64), INCIDENT_REACH)
    share = np.convolve(beyond, around, mode="valid") / around.size
    return (share >= INCIDENT_RATIO) | (worst > INCIDENT_SCORE)


def expected_then(fit: FleetFit, fitted: FittedFleet, rows: NDArray[np.int64]) -> Floats:
    """Return the expected values of the history; of the last days, those forecast before them."""
    scaled = fitted.scaled(fit.fleet.times)
    unseen = fit.forecast[rows]
    last = scaled[:, scaled.shape[1] - unseen.shape[1] :]
    last[:] = np.where(np.isnan(unseen), last, unseen)
    return scaled


def long(
    schema: Schema, operations: list[tuple[str, str]], rows_each: int, **columns: object
) -> pl.DataFrame:
    """Return a frame of `rows_each` rows per operation; columns that are not given are null."""
    arrays = {name: one for name, one in columns.items() if isinstance(one, np.ndarray)}
    frame = pl.DataFrame(arrays, nan_to_null=True)
    names = pl.DataFrame(operations, schema=list(OPERATION), orient="row")
    row = np.repeat(np.arange(len(operations)), rows_each)
    frame = pl.concat([names[row], frame], how="horizontal")
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(columns.get(name)))
        .cast(kind)
        .alias(name)
        for name, kind in schema.items()
    )


def _score(
    result: Together, fleet: Fleet, row: int, forest: ForestDetector, deviations: Floats
) -> None:
    """Score the windows in which an operation lived."""
    operation = [fleet.operations[row]]
    lives = ~np.isnan(fleet.requests[row])
    together = forest.predict(deviations)
    odd = lives & (together > 1.0)
    shares = forest.contributions(deviations[odd])
    result.contributions.append(
        long(
            CONTRIBUTIONS_SCHEMA,
            operation,
            int(odd.sum()),
            time=fleet.times[odd],
            score=together[odd],
            **{name: shares[:, place] for place, name in enumerate(forest.signals)},
        )
    )
    result.scores.append(
        long(
            SCORES_SCHEMA,
            operation,
            int(lives.sum()),
            time=fleet.times[lives],
            signal=TOGETHER,
            score=together[lives],
            model=FOREST,
        )
    )
