"""Fit the series of one signal: mask incidents, choose models, calibrate bounds.

In:  a fleet.
Out: `FleetFit`: fitted baselines by model, the results of the backtest, quiet windows, outcomes.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from apm_analytics.baselines.models import row_kernels
from apm_analytics.baselines.models.fitted import FittedFleet
from apm_analytics.baselines.models.scales import MAD_TO_SD
from apm_analytics.baselines.models.seasonal import Center, RobustBaseline
from apm_analytics.baselines.models.series import (
    DAY_S,
    Flags,
    Floats,
    Ints,
    Times,
    hour_of_week,
)
from apm_analytics.baselines.training import backtest, checks
from apm_analytics.baselines.training.backtest import SELECTION_SCHEMA, Backtest, Candidate
from apm_analytics.baselines.training.calibration import (
    Calibration,
    conformal,
    quiet_windows,
    requests_by_hour,
    spread_by_hour,
)
from apm_analytics.baselines.training.checks import ClockChange
from apm_analytics.baselines.training.engines import Key
from apm_analytics.baselines.training.fleet import NO_SEASON, Fleet, Outcome
from apm_analytics.foundation.settings import BaselineParams

# Share of the slots that need a value for a season; nights without traffic are allowed.
MIN_FILLED_RATIO = 0.25
# A series with one value in a larger share of its slots shows no season.
MAX_SAME_RATIO = 0.9
# Fewer forecast windows than this give no quantile; the errors of the fit are used instead.
MIN_UNSEEN = 100
# Windows with failures this many standard deviations above usual count as an incident.
CLIP_DEVIATIONS = 4.0
CLIP_ROUNDS = 4


@dataclass(frozen=True)
class FleetFit:
    """The fit of one fleet.

    Parameters
    ----------
    fitted : baselines, grouped by model.
    rows : for each of `fitted`, the rows of the fleet it holds.
    selection : the backtest, one row per series and candidate, with `SELECTION_SCHEMA`.
    quiet : bool of shape (n, n_time), windows that were used.
    forecast : float64 of shape (n, n_forecast) on the model's scale: what the winner forecast for
        the last windows one day ahead; NaN for series without a backtest.
    clocks : by row, the change of clocks that was corrected before the fit.
    """

    fleet: Fleet
    fitted: list[FittedFleet]
    rows: list[Ints]
    selection: pl.DataFrame
    quiet: Flags
    forecast: Floats
    outcomes: list[Outcome]
    clocks: dict[int, ClockChange]

    def by_present_clock(self, rows: Ints) -> Floats:
        """Return the values of rows, each moved to where the clock of its end puts it."""
        values = self.fleet.values[rows]
        for place, change in self._changes(rows):
            change.align(values[place], self.fleet.times)
        return values

    def as_recorded(self, rows: Ints, results: Floats) -> Floats:
        """Move results on `by_present_clock` back to when their values were recorded, in place."""
        for place, change in self._changes(rows):
            change.undo(results[place], self.fleet.times)
        return results

    def _changes(self, rows: Ints) -> list[tuple[int, ClockChange]]:
        return [
            (place, self.clocks[row])
            for place, row in enumerate(rows.tolist())
            if row in self.clocks
        ]


def fit(fleet: Fleet, params: BaselineParams, *, by_library: Collection[Key] = ()) -> FleetFit:
    """Fit every series of a fleet with the model that forecasts it best.

    Parameters
    ----------
    params : params.yaml `baselines`.
    by_library : series that the Prophet library fits, where they have a season.

    Examples
    --------
    >>> fit(fleet, settings.load().params.baselines).fitted[0].model  # doctest: +SKIP
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
    outcomes = [_with_engine(outcome, by_library) for outcome in outcomes]
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
        checked.clocks,
    )
    if flat.size:
        reason_of = {
            (outcome.service_name, outcome.operation): outcome.reason
            for outcome in outcomes
            if outcome.outcome == NO_SEASON
        }
        part = fleet.pick(flat)
        reasons = [reason_of.get(operation, "") for operation in part.operations]
        result.fitted.append(_fit_flat(part, checked.teaching[flat], params, reasons))
        result.rows.append(flat)
    if not seasonal.size:
        return result
    return _fit_seasonal(result, seasonal, checked.teaching[seasonal], params, by_library)


@dataclass(frozen=True)
class Points:
    """The points that models are fitted to, one per slot of a fleet.

    `times` are the middles of the slots, `ends` the index of the first window after each.
    """

    times: Times
    values: Floats
    ends: Ints

    def until(self, window: int) -> tuple[Times, Floats]:
        """Return the slots that end before a window."""
        whole = int(np.searchsorted(self.ends, window, side="right"))
        return self.times[:whole], self.values[:, :whole]


def points(fleet: Fleet, teaching: Floats, grid_s: float) -> Points:
    """Reduce each slot of `grid_s` to one point: its median, on the scale of the fit.

    For an error ratio it is the ratio of the whole slot: most windows of an operation with few
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
        values = np.where(total > 0, failed / np.maximum(total, 1e-300), np.nan)
    else:
        group = np.repeat(np.arange(begin.size), ends - begin)
        values = np.full((len(fleet), begin.size), np.nan)
        row_kernels.group_medians(np.ascontiguousarray(teaching), group, values)
    middle_us = int((step - fleet.window_s * 1e6) / 2)
    times = (slots[begin] * step + middle_us).astype("datetime64[us]")
    return Points(times, fleet.scale.to_fit(values), ends)


def _fit_seasonal(
    result: FleetFit,
    rows: Ints,
    teaching: Floats,
    params: BaselineParams,
    by_library: Collection[Key],
) -> FleetFit:
    """Mask what looks like incidents, choose models, and fit them."""
    fleet = result.fleet.pick(rows)
    scale, times, grid_s = fleet.scale, fleet.times, params.fit_grid_s
    requests = requests_by_hour(times, teaching, fleet.requests)
    residuals = _first_residuals(fleet, teaching, params)
    spread = spread_by_hour(times, residuals, requests, scale)
    quiet = quiet_windows(times, residuals, spread, slot_s=grid_s)
    result.quiet[rows] &= quiet
    residuals = np.where(quiet, residuals, np.nan)
    spread = spread_by_hour(times, residuals, requests, scale)
    seasonal = _Seasonal(fleet, teaching, quiet, spread, requests)
    named = np.array([(*operation, fleet.signal) in by_library for operation in fleet.operations])
    tables = []
    for part, by_name in ((np.flatnonzero(~named), False), (np.flatnonzero(named), True)):
        if part.size:
            chosen = _fit_winners(result, rows[part], seasonal.pick(part), params, by_name)
            tables.append(chosen)
    return replace(result, selection=pl.concat(tables))


@dataclass(frozen=True)
class _Seasonal:
    """Series with a season: values to fit, quiet windows, noise and requests by hour of week."""

    fleet: Fleet
    teaching: Floats
    quiet: Flags
    spread: Floats
    requests: Floats

    def pick(self, rows: Ints) -> "_Seasonal":
        return _Seasonal(
            self.fleet.pick(rows),
            self.teaching[rows],
            self.quiet[rows],
            self.spread[rows],
            self.requests[rows],
        )


def _fit_winners(
    result: FleetFit, rows: Ints, seasonal: _Seasonal, params: BaselineParams, by_library: bool
) -> pl.DataFrame:
    """Run the backtest, fit the winners with their bounds into `result`; return the selection."""
    fleet, quiet, spread = seasonal.fleet, seasonal.quiet, seasonal.spread
    candidates = backtest.candidates(params, fleet.signal)
    if by_library:
        candidates.append(backtest.library(params))
    taught = np.where(quiet, seasonal.teaching, np.nan)
    seen = points(fleet, taught, params.fit_grid_s)
    tested = backtest.run(fleet, seen.until, candidates, params.backtest_days)
    selection = backtest.select(
        fleet, taught, quiet, spread, tested, params.level, named=by_library
    )
    masked = (~quiet & ~np.isnan(seasonal.teaching)).sum(axis=1)
    for place, candidate in enumerate(candidates):
        won = np.flatnonzero(selection.winner == place)
        if not won.size:
            continue
        result.forecast[rows[won]] = tested.expected[place][won]
        low, high = _bounds(fleet.pick(won), taught[won], spread[won], tested, place, won, params)
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
                Calibration(spread[won], seasonal.requests[won], low, high, masked[won]),
                [selection.reasons[row] for row in won],
            )
        )
        result.rows.append(rows[won])
    return selection.table


def quiet(fleet: Fleet, params: BaselineParams) -> Flags:
    """Return which windows of a fleet are not masked and look undisturbed, as in `fit`."""
    teaching = np.where(fleet.may_teach, fleet.values, np.nan)
    rows = np.flatnonzero((~np.isnan(teaching)).sum(axis=1) >= params.min_windows)
    flags = fleet.may_teach.copy()
    if rows.size:
        part, teaching = fleet.pick(rows), teaching[rows]
        residuals = _first_residuals(part, teaching, params)
        requests = requests_by_hour(part.times, teaching, part.requests)
        spread = spread_by_hour(part.times, residuals, requests, part.scale)
        flags[rows] &= quiet_windows(part.times, residuals, spread, slot_s=params.fit_grid_s)
    return flags


def _first_residuals(fleet: Fleet, teaching: Floats, params: BaselineParams) -> Floats:
    """Return the residuals of the history from a Prophet fit without gross incidents.

    A ratio that is usually near 0 has no robust scale: a few hours of failures would bend the
    curve, which is a least squares fit.
    """
    candidates = backtest.candidates(params, fleet.signal)
    prophet = next(candidate for candidate in candidates if candidate.name == "prophet")
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
    tested: Backtest,
    place: int,
    rows: Ints,
    params: BaselineParams,
) -> tuple[Floats, Floats]:
    """Return quantiles of the forecast errors, or of the errors of the fit if those are too few."""
    unseen = backtest.unseen_residuals(
        fleet, taught[:, tested.first :], tested.expected[place][rows], spread
    )
    low, high = conformal(unseen, fleet.scale, params.level)
    few = np.flatnonzero((~np.isnan(unseen)).sum(axis=1) < MIN_UNSEEN)
    if few.size:
        part = fleet.pick(few)
        candidate = tested.candidates[place]
        expected = _fit_one(part, candidate, points(part, taught[few], params.fit_grid_s))
        standard = (fleet.scale.forward(taught[few]) - expected) / spread[few][
            :, hour_of_week(fleet.times)
        ]
        low[few], high[few] = conformal(standard, fleet.scale, params.level)
    return low, high


def _fit_one(fleet: Fleet, candidate: Candidate, seen: Points) -> Floats:
    """Fit one candidate; return what it expects of the history, on the model's scale."""
    least, most = backtest.limits(seen.values)
    fitted = candidate.make().fit(seen.times, seen.values).expected(fleet.times)
    return fleet.scale.from_fit(np.clip(fitted, least[:, None], most[:, None]))


def _fit_flat(
    fleet: Fleet, teaching: Floats, params: BaselineParams, reasons: list[str]
) -> FittedFleet:
    """Fit bounds at the median +- robust standard deviations in the unit, equal in every hour.

    The widths become spreads on the model's scale: `high` is 1, `low` reaches down by the same
    width.
    """
    scale = fleet.scale
    quiet = teaching
    if fleet.signal == "error_ratio":
        quiet = np.where(_few_failures(teaching, fleet.requests), teaching, np.nan)
    center: Center = "mean" if fleet.signal == "error_ratio" else "median"
    estimator = RobustBaseline(center)
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
    # Even after n requests without a failure, failures remain possible.
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
    """Return which windows have no more failures than chance explains at the usual ratio."""
    requests = np.where(np.isnan(values), 0.0, requests)
    failures = np.nan_to_num(values) * requests
    quiet = np.ones(values.shape, np.bool_)
    for _ in range(CLIP_ROUNDS):
        total = np.maximum(np.sum(requests, axis=1, where=quiet, keepdims=True), 1.0)
        ratio = np.sum(failures, axis=1, where=quiet, keepdims=True) / total
        usual = ratio * requests
        quiet = failures <= usual + CLIP_DEVIATIONS * np.sqrt(usual) + 1.0
    return quiet


def _with_engine(outcome: Outcome, by_library: Collection[Key]) -> Outcome:
    """Note in an outcome without a season that the engine of its series was not used."""
    if outcome.outcome != NO_SEASON or outcome.key not in by_library:
        return outcome
    note = "; `engine: prophet` in specs/signals.yaml takes effect with a season"
    return replace(outcome, reason=outcome.reason + note)


def _no_season(slots: Floats, days: float, window_s: float, grid_s: float) -> str:
    """Return why a history that is long enough shows no season, or an empty text."""
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
