"""Fit the series of one signal: mask incidents, choose models, learn bounds.

In:  a fleet.
Out: `FleetFit`: fitted baselines by model, what the backtest said, quiet windows, outcomes.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from apm_analytics.baselines.models import row_kernels
from apm_analytics.baselines.models.fitted import FittedFleet
from apm_analytics.baselines.models.scales import MAD_TO_SD, Floats
from apm_analytics.baselines.models.seasonal import Center, RobustBaseline
from apm_analytics.baselines.models.series import DAY_S, Flags, Times, hour_of_week
from apm_analytics.baselines.training import backtest, checks
from apm_analytics.baselines.training.backtest import SELECTION_SCHEMA, Backtest, Candidate
from apm_analytics.baselines.training.calibration import (
    Calibration,
    conformal,
    quiet_windows,
    requests_by_hour,
    spread_by_hour,
)
from apm_analytics.baselines.training.fleet import NO_SEASON, Fleet, Outcome
from apm_analytics.foundation.settings import BaselineParams

# A season needs values over the day and the week; nights without traffic are allowed.
MIN_FILLED_RATIO = 0.25
# A grid that repeats one value more often than this has no season to learn.
MAX_SAME_RATIO = 0.9
# Fewer forecast windows than this give no quantile; then the errors of the fit are taken.
MIN_UNSEEN = 100
# Windows with this many standard deviations more failures than usual count as an incident.
CLIP_DEVIATIONS = 4.0
CLIP_ROUNDS = 4


@dataclass(frozen=True)
class FleetFit:
    """What was learned from one fleet.

    Parameters
    ----------
    fitted : baselines, grouped by model.
    rows : for each of `fitted`, the rows of the fleet it holds.
    selection : the backtest, a row a series and candidate, with `SELECTION_SCHEMA`.
    quiet : bool of shape (n, n_time), windows that taught.
    forecast : float64 of shape (n, n_forecast) on the model's scale: what the winner expected of
        the last windows a day ahead; NaN for series without a backtest.
    """

    fleet: Fleet
    fitted: list[FittedFleet]
    rows: list[NDArray[np.int64]]
    selection: pl.DataFrame
    quiet: Flags
    forecast: Floats
    outcomes: list[Outcome]


def fit(fleet: Fleet, params: BaselineParams, *, seed: int) -> FleetFit:
    """Fit every series of a fleet with the model that forecasts it best.

    Parameters
    ----------
    params : the numbers of params.yaml.
    seed : of whatever a model draws.

    Examples
    --------
    >>> fit(fleet, settings.load().params.baselines, seed=7).fitted[0].model  # doctest: +SKIP
    'time_of_week'
    """
    checked = checks.check(
        fleet, min_windows=params.min_windows, min_season_days=params.min_season_days
    )
    outcomes = list(checked.outcomes)
    days = fleet.days
    slots = points(fleet, checked.teaching, params.fit_grid_s).values
    for row in np.flatnonzero(checked.seasonal).tolist():
        reason = _no_season(slots[row], float(days[row]), fleet.window_s, params.fit_grid_s)
        if reason:
            checked.seasonal[row] = False
            operation = fleet.operations[row]
            outcomes.append(Outcome(*operation, fleet.signal, NO_SEASON, reason))
    seasonal = np.flatnonzero(checked.seasonal)
    flat = np.flatnonzero(checked.usable & ~checked.seasonal)
    per_day = max(round(DAY_S / fleet.window_s), 1)
    n_forecast = min(params.backtest_days * per_day, fleet.times.size)
    result = FleetFit(
        fleet,
        [],
        [],
        pl.DataFrame(schema=SELECTION_SCHEMA),
        fleet.may_teach.copy(),
        np.full((len(fleet), n_forecast), np.nan),
        outcomes,
    )
    if flat.size:
        said = {
            (one.service_name, one.operation): one.reason
            for one in outcomes
            if one.outcome == NO_SEASON
        }
        part = fleet.pick(flat)
        reasons = [said.get(operation, "") for operation in part.operations]
        result.fitted.append(_fit_flat(part, checked.teaching[flat], params, reasons))
        result.rows.append(flat)
    if not seasonal.size:
        return result
    return _fit_seasonal(result, seasonal, checked.teaching[seasonal], params, seed)


@dataclass(frozen=True)
class Points:
    """Slots of a fleet, one point each, where models are fitted.

    `times` are the middles of the slots, `ends` the first window after each, as an index.
    """

    times: Times
    values: Floats
    ends: NDArray[np.int64]

    def until(self, window: int) -> tuple[Times, Floats]:
        """Give the slots that end before a window."""
        whole = int(np.searchsorted(self.ends, window, side="right"))
        return self.times[:whole], self.values[:, :whole]


def points(fleet: Fleet, teaching: Floats, grid_s: float) -> Points:
    """Take one point of each slot of `grid_s`: the median, where models are fitted.

    Of an error ratio it is the ratio of the whole slot: most windows of an operation with few
    errors have none, so their median would always be 0.
    """
    step = int(max(grid_s, fleet.window_s) * 1e6)
    slots = fleet.times.astype(np.int64) // step
    begin = np.flatnonzero(np.r_[True, slots[1:] != slots[:-1]])
    ends = np.r_[begin[1:], slots.size]
    if fleet.signal == "error_ratio":
        requests = np.where(np.isnan(teaching), 0.0, fleet.requests)
        failed = np.add.reduceat(np.nan_to_num(teaching) * requests, begin, axis=1)
        total = np.add.reduceat(requests, begin, axis=1)
        found = np.where(total > 0, failed / np.maximum(total, 1e-300), np.nan)
    else:
        group = np.repeat(np.arange(begin.size), ends - begin)
        found = np.full((len(fleet), begin.size), np.nan)
        row_kernels.group_medians(np.ascontiguousarray(teaching), group, found)
    middle_us = int((step - fleet.window_s * 1e6) / 2)
    times = (slots[begin] * step + middle_us).astype("datetime64[us]")
    return Points(times, fleet.scale.to_fit(found), ends)


def _fit_seasonal(
    result: FleetFit,
    rows: NDArray[np.int64],
    teaching: Floats,
    params: BaselineParams,
    seed: int,
) -> FleetFit:
    """Mask what looks like incidents, run the backtest, fit the winners, learn their bounds."""
    fleet = result.fleet.pick(rows)
    scale, times, grid_s = fleet.scale, fleet.times, params.fit_grid_s
    chosen = backtest.candidates(params, fleet.signal, seed)
    requests = requests_by_hour(times, teaching, fleet.requests)
    residuals = _first_residuals(fleet, teaching, params, seed)
    spread = spread_by_hour(times, residuals, requests, scale)
    quiet = quiet_windows(times, residuals, spread, window_s=fleet.window_s, slot_s=grid_s)
    result.quiet[rows] &= quiet
    taught = np.where(quiet, teaching, np.nan)
    residuals = np.where(quiet, residuals, np.nan)
    spread = spread_by_hour(times, residuals, requests, scale)
    seen = points(fleet, taught, grid_s)
    found = backtest.run(fleet, seen.until, chosen, params.backtest_days)
    selection = backtest.select(fleet, taught, quiet, spread, found, params.level)
    masked = (~quiet & ~np.isnan(teaching)).sum(axis=1)
    for place, candidate in enumerate(found.candidates):
        won = np.flatnonzero(selection.winner == place)
        if not won.size:
            continue
        result.forecast[rows[won]] = found.expected[place][won]
        low, high = _bounds(fleet.pick(won), taught[won], spread[won], found, place, won, params)
        least, most = backtest.limits(seen.values[won])
        result.fitted.append(
            FittedFleet(
                fleet.signal,
                fleet.window_s,
                candidate.name,
                [fleet.operations[row] for row in won],
                candidate.make().fit(seen.times, seen.values[won]),
                least,
                most,
                Calibration(spread[won], requests[won], low, high, masked[won]),
                [selection.reasons[row] for row in won],
            )
        )
        result.rows.append(rows[won])
    return replace(result, selection=selection.table)


def quiet(fleet: Fleet, params: BaselineParams, *, seed: int) -> Flags:
    """Tell which windows of a fleet may teach and look undisturbed, as `fit` sees them."""
    teaching = np.where(fleet.may_teach, fleet.values, np.nan)
    rows = np.flatnonzero((~np.isnan(teaching)).sum(axis=1) >= params.min_windows)
    found = fleet.may_teach.copy()
    if rows.size:
        part, teaching = fleet.pick(rows), teaching[rows]
        residuals = _first_residuals(part, teaching, params, seed)
        requests = requests_by_hour(part.times, teaching, part.requests)
        spread = spread_by_hour(part.times, residuals, requests, part.scale)
        found[rows] &= quiet_windows(
            part.times, residuals, spread, window_s=part.window_s, slot_s=params.fit_grid_s
        )
    return found


def _first_residuals(fleet: Fleet, teaching: Floats, params: BaselineParams, seed: int) -> Floats:
    """Give how far the history is from Prophet's curve through it, gross incidents left out.

    A ratio that is usually near 0 has no robust scale: a few hours of failing would bend the
    curve, a least squares fit, to themselves.
    """
    chosen = backtest.candidates(params, fleet.signal, seed)
    prophet = next(candidate for candidate in chosen if candidate.name == "prophet")
    learned = teaching
    if fleet.signal == "error_ratio":
        learned = np.where(_few_failures(teaching, fleet.requests), teaching, np.nan)
    expected = _fit_one(fleet, prophet, points(fleet, learned, params.fit_grid_s))
    residuals: Floats = fleet.scale.forward(teaching) - expected
    return residuals


def _bounds(
    fleet: Fleet,
    taught: Floats,
    spread: Floats,
    found: Backtest,
    place: int,
    rows: NDArray[np.int64],
    params: BaselineParams,
) -> tuple[Floats, Floats]:
    """Learn the quantiles of the errors of forecasts, of the fit where there are too few."""
    unseen = backtest.unseen_residuals(
        fleet, taught[:, found.first :], found.expected[place][rows], spread
    )
    low, high = conformal(unseen, fleet.scale, params.level)
    few = np.flatnonzero((~np.isnan(unseen)).sum(axis=1) < MIN_UNSEEN)
    if few.size:
        part = fleet.pick(few)
        candidate = found.candidates[place]
        expected = _fit_one(part, candidate, points(part, taught[few], params.fit_grid_s))
        standard = (fleet.scale.forward(taught[few]) - expected) / spread[few][
            :, hour_of_week(fleet.times)
        ]
        low[few], high[few] = conformal(standard, fleet.scale, params.level)
    return low, high


def _fit_one(fleet: Fleet, candidate: Candidate, seen: Points) -> Floats:
    """Fit one candidate and give what it expects of the history, on the model's scale."""
    least, most = backtest.limits(seen.values)
    fitted = candidate.make().fit(seen.times, seen.values).expected(fleet.times)
    return fleet.scale.from_fit(np.clip(fitted, least[:, None], most[:, None]))


def _fit_flat(
    fleet: Fleet, teaching: Floats, params: BaselineParams, reasons: list[str]
) -> FittedFleet:
    """Give the median +- robust standard deviations in the unit, the same in every hour.

    The widths are put as spreads on the model's scale: `high` is 1, `low` reaches as far down as
    the same width does.
    """
    scale = fleet.scale
    quiet = teaching
    if fleet.signal == "error_ratio":
        quiet = np.where(_few_failures(teaching, fleet.requests), teaching, np.nan)
    center: Center = "mean" if fleet.signal == "error_ratio" else "median"
    estimator = RobustBaseline(params.robust_deviations, center)
    estimator.fit(fleet.times, scale.to_fit(quiet))
    expected = scale.backward(scale.from_fit(estimator.expected(fleet.times[:1])))
    half = np.array([0.5])
    middle, spread = np.full((len(fleet), 1), np.nan), np.full((len(fleet), 1), np.nan)
    row_kernels.quantiles(teaching, half, middle)
    row_kernels.quantiles(np.abs(teaching - middle), half, spread)
    knows_week = fleet.days >= params.min_season_days
    requests = requests_by_hour(fleet.times, teaching, fleet.requests)
    usual = np.full((len(fleet), 1), np.nan)
    row_kernels.quantiles(np.where(np.isnan(teaching), np.nan, fleet.requests), half, usual)
    requests = np.where(knows_week[:, None], requests, usual)
    # No failure seen in n requests does not mean that there will never be one.
    seen = np.nansum(np.where(np.isnan(quiet), 0.0, fleet.requests), axis=1, keepdims=True)
    sampled = expected if scale.two_sided else np.maximum(expected, 0.5 / (seen + 1.0))
    width = params.robust_deviations * np.maximum(
        MAD_TO_SD * spread, scale.deviation(sampled, requests)
    )
    width = np.maximum(width, scale.margin(expected, requests))
    scaled = scale.forward(expected)
    top = expected + width
    up = scale.forward(top if scale.two_sided else np.minimum(top, 1.0)) - scaled
    down = scaled - scale.forward(np.maximum(expected - width, 0.0))
    low = -np.max(down / up, axis=1) if scale.two_sided else np.zeros(len(fleet))
    return FittedFleet(
        fleet.signal,
        fleet.window_s,
        RobustBaseline.model,
        fleet.operations,
        estimator,
        np.full(len(fleet), -np.inf),
        np.full(len(fleet), np.inf),
        Calibration(up, requests, low, np.ones(len(fleet)), np.zeros(len(fleet), np.int64)),
        reasons,
    )


def _few_failures(values: Floats, requests: Floats) -> Flags:
    """Tell windows whose failures are no incident, by what chance makes of the usual ratio."""
    requests = np.where(np.isnan(values), 0.0, requests)
    failures = np.nan_to_num(values) * requests
    quiet = np.ones(values.shape, np.bool_)
    for _ in range(CLIP_ROUNDS):
        total = np.maximum(np.sum(requests, axis=1, where=quiet, keepdims=True), 1.0)
        ratio = np.sum(failures, axis=1, where=quiet, keepdims=True) / total
        usual = ratio * requests
        quiet = failures <= usual + CLIP_DEVIATIONS * np.sqrt(usual) + 1.0
    return quiet


def _no_season(slots: Floats, days: float, window_s: float, grid_s: float) -> str:
    """Name a history that is long enough for a season but shows none."""
    known = slots[~np.isnan(slots)]
    size = max(days * DAY_S / max(grid_s, window_s), 1.0)
    if known.size < MIN_FILLED_RATIO * size:
        return (
            f"sparse: {known.size / size:.0%} of the slots of {grid_s:g} s have a value, a season "
            f"needs {MIN_FILLED_RATIO:.0%}; raise features.window_s in params.yaml"
        )
    _, counts = np.unique(known, return_counts=True)
    if counts.max() > MAX_SAME_RATIO * known.size:
        return (
            f"almost constant: {counts.max() / known.size:.0%} of the slots of {grid_s:g} s have "
            "the same value, no season to learn"
        )
    return ""
