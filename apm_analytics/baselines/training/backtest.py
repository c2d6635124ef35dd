"""Choose a model for every series by a rolling backtest: fit, forecast a day, advance a day.

In:  a fleet, the values to fit, and points of them on a coarser grid.
Out: `Backtest`: what every candidate forecast for days it had not seen; `Selection`: the winner
     of every series, the errors of all candidates, and the reason in words.

The last days are forecast one by one, each from everything before it. Errors are scaled by those
of the seasonal naive forecast within the history: mean absolute (MASE) [1]_, for an error ratio
root mean square (RMSSE) [2]_, because the median of rare failures is 0. Coverage and pinball loss
of a day are those of bounds from the errors of other days.

References
----------
.. [1] Hyndman and Koehler, Another look at measures of forecast accuracy, IJF 2006.
.. [2] Makridakis et al., The M5 accuracy competition, IJF 2022.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from apm_analytics.baselines.models.estimator import BatchBaseline
from apm_analytics.baselines.models.prophet import ProphetBaseline
from apm_analytics.baselines.models.prophet_library import LibraryProphetBaseline
from apm_analytics.baselines.models.seasonal import (
    PERIODS_S,
    Center,
    ProfileBaseline,
    RobustBaseline,
    SeasonalNaiveBaseline,
    value_before,
)
from apm_analytics.baselines.models.series import (
    DAY_S,
    Flags,
    Floats,
    Ints,
    Times,
    hour_of_week,
)
from apm_analytics.baselines.training.calibration import Calibration, conformal
from apm_analytics.baselines.training.fleet import Fleet
from apm_analytics.foundation.settings import BaselineParams
from apm_analytics.signals import OPERATION, Schema

# (name, period in days, Fourier order). More terms than Prophet's defaults of 3 and 4: a shop's day
# has a morning, a lunch and an evening, and its weekend begins within hours.
SEASONS = (("weekly", 7.0, 6), ("daily", 1.0, 6))
# The profile of a day looks back two weeks: it follows the last weeks and holds every weekday.
DAYS_BACK, WEEKS_BACK = 14.0, 35.0
NAIVE = ("seasonal_naive", "seasonal_naive_day")
# Of two models with errors this close the simpler one wins: the difference is chance.
CLOSE = 1.01
# A curve may leave the range of the values seen by this share of it, not more.
RANGE_MARGIN = 0.25
# A candidate must have forecast this share of the windows with a value.
MIN_FORECAST = 0.5
SELECTION_SCHEMA: Schema = {
    **dict.fromkeys((*OPERATION, "signal", "model"), pl.String),
    "chosen": pl.Boolean,
    "origins": pl.Int32,
    "won": pl.Int32,
    **dict.fromkeys(("scaled_error", "pinball", "coverage"), pl.Float64),
    "reason": pl.String,
}


@dataclass(frozen=True)
class Candidate:
    """A model that competes; simpler models come first."""

    name: str
    make: Callable[[], BatchBaseline]


@dataclass(frozen=True)
class Backtest:
    """What each candidate expected, one day ahead.

    Parameters
    ----------
    first : index of the first forecast window in the fleet's times.
    origin : int64 of shape (n_forecast,), the number of the origin of each forecast window.
    expected : float64 of shape (n_candidates, n, n_forecast) on the model's scale.
    """

    candidates: list[Candidate]
    first: int
    origin: Ints
    expected: Floats


@dataclass(frozen=True)
class Selection:
    """The winner of each series (index of the candidate, -1 for none) and why.

    `table` has one row per series and candidate, with `SELECTION_SCHEMA`.
    """

    winner: Ints
    reasons: list[str]
    table: pl.DataFrame


def candidates(params: BaselineParams, signal: str) -> list[Candidate]:
    """Return the models that compete for a signal, the simplest first."""
    center: Center = "mean" if signal == "error_ratio" else "median"
    return [
        Candidate("robust", lambda: RobustBaseline(center)),
        Candidate("time_of_day", lambda: ProfileBaseline("day", DAYS_BACK)),
        Candidate("time_of_week", lambda: ProfileBaseline("week", WEEKS_BACK)),
        Candidate("prophet", lambda: ProphetBaseline(SEASONS, params.tau, params.prior)),
        Candidate(NAIVE[0], lambda: SeasonalNaiveBaseline("week")),
        Candidate(NAIVE[1], lambda: SeasonalNaiveBaseline("day")),
    ]


def library(params: BaselineParams) -> Candidate:
    """Return the Prophet library with the seasons and priors of the batched solver."""
    return Candidate(
        LibraryProphetBaseline.model,
        lambda: LibraryProphetBaseline(SEASONS, params.tau, params.prior),
    )


def run(
    fleet: Fleet,
    points: Callable[[int], tuple[Times, Floats]],
    candidates: list[Candidate],
    days: int,
) -> Backtest:
    """Forecast the last `days` days of a fleet, each from everything before it.

    Parameters
    ----------
    points : returns times and values to fit, of the given number of windows from the start.
    """
    per_day = max(round(DAY_S / fleet.window_s), 1)
    first = max(fleet.times.size - days * per_day, 0)
    coming = np.arange(first, fleet.times.size)
    origin = (coming - first) // per_day
    expected = np.full((len(candidates), len(fleet), coming.size), np.nan)
    for number in range(int(origin[-1]) + 1):
        windows = coming[origin == number]
        times, values = points(int(windows[0]))
        if not np.isfinite(values).any():
            continue
        least, most = limits(values)
        for place, candidate in enumerate(candidates):
            fitted = candidate.make().fit(times, values).expected(fleet.times[windows])
            fitted = np.clip(fitted, least[:, None], most[:, None])
            expected[place][:, origin == number] = fleet.scale.from_fit(fitted)
    return Backtest(candidates, first, origin, expected)


def select(
    fleet: Fleet,
    taught: Floats,
    quiet: Flags,
    spread: Floats,
    backtest: Backtest,
    level: float,
    *,
    named: bool = False,
) -> Selection:
    """Choose the model of every series.

    Parameters
    ----------
    taught : (n, n_time), values to fit, in the unit; NaN where masked.
    quiet : (n, n_time), windows that count; those of incidents do not.
    spread : (n, 168), noise by hour of the week on the model's scale.
    level : share of quiet windows meant to be inside the bounds.
    named : the last candidate wins wherever it made a forecast, whatever its error.

    Returns
    -------
    The winner has the smallest scaled error, except that simpler models within `CLOSE` are
    preferred, and is never worse than seasonal naive, by the week or by the day.
    """
    values = np.where(quiet, taught, np.nan)[:, backtest.first :]
    square = fleet.signal == "error_ratio"
    unit = _naive_error(
        fleet.times[: backtest.first], np.where(quiet, taught, np.nan)[:, : backtest.first], square
    )
    errors, pinball, coverage = [], [], []
    for expected in backtest.expected:
        errors.append(_errors(fleet.scale.backward(expected), values, backtest.origin, square))
        lower, upper = _unseen_bounds(fleet, values, spread, expected, backtest, level)
        losses = _losses(fleet, values, lower, fleet.scale.backward(expected), upper, level)
        pinball.append(losses[0])
        coverage.append(losses[1])
    by_origin = np.stack(errors)  # candidate, series, origin
    with np.errstate(invalid="ignore"):
        mean = np.nansum(by_origin, axis=2) / (~np.isnan(by_origin)).sum(axis=2)
    mean[_forecast_share(backtest.expected, values) < MIN_FORECAST] = np.nan
    total = np.sqrt(mean) if square else mean
    names = [candidate.name for candidate in backtest.candidates]
    winner = _winner(total, names)
    if named:
        winner[np.isfinite(total[-1])] = len(names) - 1
    scaled = total / unit
    beaten = np.where(np.isnan(by_origin), np.inf, by_origin)
    best_of_day = np.where(
        np.isfinite(beaten).any(axis=0), beaten.argmin(axis=0), -1
    )  # series, origin
    origins = (best_of_day >= 0).sum(axis=1)
    won = np.stack([(best_of_day == place).sum(axis=1) for place in range(len(scaled))])
    reasons = [
        _reason(
            names,
            scaled[:, row],
            total[:, row],
            int(winner[row]),
            won[:, row],
            int(origins[row]),
            square,
        )
        for row in range(len(fleet))
    ]
    frames = [
        pl.DataFrame(
            {
                "service_name": [service for service, _ in fleet.operations],
                "operation": [operation for _, operation in fleet.operations],
                "signal": [fleet.signal] * len(fleet),
                "model": [name] * len(fleet),
                "chosen": winner == place,
                "origins": origins,
                "won": won[place],
                "scaled_error": scaled[place],
                "pinball": pinball[place] / unit,
                "coverage": coverage[place],
                "reason": [
                    reason if winner[row] == place else "" for row, reason in enumerate(reasons)
                ],
            },
            nan_to_null=True,
            schema_overrides={"origins": pl.Int32, "won": pl.Int32},
        )
        for place, name in enumerate(names)
    ]
    return Selection(winner, reasons, pl.concat(frames))


def limits(values: Floats) -> tuple[Floats, Floats]:
    """Return how far down and up a curve may go: the range seen plus a margin, each (n,)."""
    known = ~np.isnan(values)
    least = np.min(values, axis=1, where=known, initial=np.inf)
    most = np.max(values, axis=1, where=known, initial=-np.inf)
    margin = RANGE_MARGIN * np.where(known.any(axis=1), most - least, 0.0)
    return least - margin, most + margin


def unseen_residuals(fleet: Fleet, values: Floats, expected: Floats, spread: Floats) -> Floats:
    """Return forecast errors divided by the spread of their hour, of shape (n, n_forecast)."""
    times = fleet.times[-expected.shape[1] :]
    standard: Floats = (fleet.scale.forward(values) - expected) / spread[:, hour_of_week(times)]
    return standard


def _naive_error(times: Times, values: Floats, square: bool) -> Floats:
    """Return the error of the naive forecast within the history: by the week, else by the day."""
    unit = np.full(len(values), np.nan)
    for period in ("week", "day"):
        change = np.abs(values - value_before(times, values, PERIODS_S[period]))
        known = ~np.isnan(change)
        size = np.maximum(known.sum(axis=1), 1)
        if square:
            error = np.sqrt(np.sum(change**2, axis=1, where=known) / size)
        else:
            error = np.sum(change, axis=1, where=known) / size
        unit = np.where(np.isnan(unit) & (error > 0), error, unit)
    return np.where(np.isnan(unit), 1.0, unit)


def _errors(expected: Floats, values: Floats, origin: Ints, square: bool) -> Floats:
    """Return the mean error of each series and origin; NaN where nothing could be compared."""
    error = values - expected
    error = error**2 if square else np.abs(error)
    begin = np.flatnonzero(np.r_[True, np.diff(origin) > 0])
    known = ~np.isnan(error)
    total = np.add.reduceat(np.where(known, error, 0.0), begin, axis=1)
    size = np.add.reduceat(known.astype(np.float64), begin, axis=1)
    return np.where(size > 0, total / np.maximum(size, 1.0), np.nan)


def _unseen_bounds(
    fleet: Fleet, values: Floats, spread: Floats, expected: Floats, backtest: Backtest, level: float
) -> tuple[Floats, Floats]:
    """Return bounds of each day, from the errors of the days of the other parity."""
    standard = unseen_residuals(fleet, values, expected, spread)
    times = fleet.times[backtest.first :]
    lower, upper = np.full_like(expected, np.nan), np.full_like(expected, np.nan)
    requests = np.full((len(fleet), spread.shape[1]), np.inf)
    for parity in (0, 1):
        mine = backtest.origin % 2 == parity
        low, high = conformal(np.where(mine, np.nan, standard), fleet.scale, level)
        none = np.zeros(len(fleet), np.int64)
        bounds = Calibration(spread, requests, low, high, none)
        inside = bounds.band(expected[:, mine], times[mine], fleet.scale)
        lower[:, mine], upper[:, mine] = inside.lower, inside.upper
    return lower, upper


def _losses(
    fleet: Fleet, values: Floats, lower: Floats, expected: Floats, upper: Floats, level: float
) -> tuple[Floats, Floats]:
    """Return the pinball loss (mean over bounds and middle) and the coverage of each series."""
    outside = (1.0 - level) / (2.0 if fleet.scale.two_sided else 1.0)
    shares = (outside, 0.5, 1.0 - outside) if fleet.scale.two_sided else (0.5, 1.0 - outside)
    parts = (lower, expected, upper) if fleet.scale.two_sided else (expected, upper)
    loss = np.zeros(values.shape)
    for share, part in zip(shares, parts, strict=True):
        error = values - part
        loss += np.maximum(share * error, (share - 1.0) * error) / len(parts)
    known = ~np.isnan(loss)
    size = np.maximum(known.sum(axis=1), 1)
    none = np.where(known.any(axis=1), 0.0, np.nan)
    inside = (values >= lower) & (values <= upper)
    return (
        np.sum(loss, axis=1, where=known) / size + none,
        np.sum(inside, axis=1, where=known) / size + none,
    )


def _forecast_share(expected: Floats, values: Floats) -> Floats:
    known = ~np.isnan(values)
    both = (known & ~np.isnan(expected)).sum(axis=2)
    share: Floats = np.where(known.any(axis=1), both / np.maximum(known.sum(axis=1), 1), 0.0)
    return share


def _winner(total: Floats, names: list[str]) -> Ints:
    """Return the index of the winner of each series, -1 where there was no forecast."""
    errors = np.where(np.isnan(total), np.inf, total)
    naive = np.min(errors[[names.index(name) for name in NAIVE]], axis=0)
    allowed = np.minimum(CLOSE * errors.min(axis=0), naive)
    good = errors <= allowed
    return np.where(np.isfinite(errors).any(axis=0), good.argmax(axis=0), -1)


def _reason(
    names: list[str],
    scaled: Floats,
    total: Floats,
    winner: int,
    won: Ints,
    origins: int,
    square: bool,
) -> str:
    """Explain why a model won: "prophet: MASE 0.62 over 7 days, 4 % below time_of_week, ..."."""
    if winner < 0:
        return "no day of the backtest had values to compare"
    measure = "RMSSE" if square else "MASE"
    result = f"{names[winner]}: {measure} {scaled[winner]:.3g} over {origins} days"
    if names[winner] == LibraryProphetBaseline.model:
        result += ", set in specs/signals.yaml"
    others = [place for place in np.argsort(total, kind="stable") if place != winner]
    others = [place for place in others if np.isfinite(total[place])]
    naive = [place for place in others if names[place] in NAIVE]
    peers = dict.fromkeys(others[:1] + naive[:1])
    compared = [_against(names[place], total[winner], total[place]) for place in peers]
    return ", ".join([result, *compared, f"best on {won[winner]} days"])


def _against(name: str, mine: float, other: float) -> str:
    if other == 0.0 or round(abs(1.0 - mine / other), 3) == 0.0:
        return f"level with {name}"
    if mine > CLOSE * other:
        return f"{mine / other - 1.0:.1%} above {name}"
    if mine > other:
        return f"simpler than {name} and within {CLOSE - 1:.0%} of it"
    return f"{1.0 - mine / other:.1%} below {name}"
