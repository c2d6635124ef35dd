"""Score the published bounds on held-out days.

In:  the features, and which windows are masked.
Out: `Evaluation`: nested metrics, coverage by series, and the forecast of the median series.

The last days are held out, the usual training runs on the days before, and its bounds are scored on
the held-out windows: on all of them, incidents included, and on the quiet ones, for which the
bounds are made. The backtest of the training compares the models; its metrics are reported as well.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from apm_analytics.baselines.detection.together import FOREST, saturation_scores
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import DAY_S, Flags
from apm_analytics.baselines.training import fitting, training
from apm_analytics.baselines.training.engines import Key
from apm_analytics.baselines.training.fleet import Fleet, fleets, windows
from apm_analytics.baselines.training.training import Trained
from apm_analytics.foundation.errors import NotEnoughData
from apm_analytics.foundation.settings import BaselineParams
from apm_analytics.signals import OPERATION, SIGNALS, Schema
from apm_analytics.signals.saturation import SATURATION

# Of a history too short for a season, this share is held out.
SHORT_HOLDOUT_RATIO = 0.25
# Of the held-out windows of a series, at least this many must have a value.
MIN_SCORED = 6
# What is published: the winner of each series.
PUBLISHED = "published"
SCORED_SCHEMA: Schema = {
    **dict.fromkeys((*OPERATION, "signal", "model"), pl.String),
    **dict.fromkeys(("coverage", "coverage_quiet", "mae", "mape", "width"), pl.Float64),
}
FORECAST_SCHEMA: Schema = {
    "hour": pl.Float64,
    **dict.fromkeys(("value", "expected", "lower", "upper"), pl.Float64),
}
NUMBERS = ("n_series", "coverage", "coverage_worst", "coverage_quiet", "mae", "mape", "width")


@dataclass
class Evaluation:
    """The results on the held-out days.

    Parameters
    ----------
    holdout_days : days held out.
    note : in words, which history was used and what it could not show.
    metrics : model -> signal -> `NUMBERS`; `mape` not of ratios. "published" is all models.
    scored : one row per series, with `SCORED_SCHEMA`; `model` is the one it was published with.
    forecasts : signal -> the held-out days of its series with the median error.
    """

    holdout_days: float
    note: str
    metrics: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    scored: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SCORED_SCHEMA))
    forecasts: dict[str, pl.DataFrame] = field(default_factory=dict)


def evaluate(
    features: pl.DataFrame,
    params: BaselineParams,
    *,
    window_s: float,
    seed: int,
    masked: Flags | None = None,
    saturation: pl.DataFrame | None = None,
    by_library: Collection[Key] = (),
    progress: bool = False,
) -> Evaluation:
    """Train without the last days and score on them.

    Parameters
    ----------
    features : as `signals.operations.features` returns them.
    params : the numbers of params.yaml; `holdout_days` of them are held out, less when the
        rest would be too short for a season.
    window_s : length of a window, in seconds.
    seed : as in training.
    masked : as in training; masked windows do not count as quiet.
    saturation : as in training; the held-out days are scored one day ahead.
    by_library : as in training.
    progress : show a progress bar.

    Raises
    ------
    NotEnoughData
        There are no features, or too few to hold any out.
    """
    if features.is_empty():
        raise NotEnoughData("there are no features to evaluate; import more telemetry")
    days = history_days(features, window_s)
    holdout = _holdout_days(days, params)
    note = f"{days:.1f} days of history, the last {holdout:.1f} held out"
    if days - holdout < params.min_season_days:
        note += (
            f"; without them it is shorter than baselines.min_season_days = "
            f"{params.min_season_days:g}, so only bounds without a season could be evaluated"
        )
    last: Any = features["time"].max()
    cut: datetime = last + timedelta(seconds=window_s) - timedelta(days=holdout)
    before = (features["time"] < cut).to_numpy()
    trained = training.train(
        features.filter(before),
        params,
        window_s=window_s,
        seed=seed,
        masked=None if masked is None else masked[before],
        saturation=None if saturation is None else saturation.filter(pl.col("time") < cut),
        by_library=by_library,
        only_models=True,
        progress=progress,
    )
    saturated: dict[str, Floats] = {}
    if saturation is not None:
        times = windows(features["time"].to_numpy(), window_s)
        saturated = saturation_scores(saturation, times, window_s, params)
    rows: list[tuple[object, ...]] = []
    flagged: list[float] = []
    middles: dict[str, list[tuple[float, pl.DataFrame]]] = {signal: [] for signal in SIGNALS}
    for chunk in fleets(features, window_s, masked=masked)[1]:
        coming = chunk[0].times >= np.datetime64(cut.isoformat(), "us")
        quiet = [fitting.quiet(fleet, params) for fleet in chunk]
        for fleet, undisturbed in zip(chunk, quiet, strict=True):
            _score_fleet(fleet, coming, undisturbed, trained, rows, middles[fleet.signal])
        flagged += _flagged(chunk, coming, trained, saturated)
    scored = pl.DataFrame(rows, schema=SCORED_SCHEMA, orient="row")
    if scored.is_empty():
        raise NotEnoughData(
            f"no operation has {MIN_SCORED} windows with a value in the last {holdout:.2f} days; "
            "import more telemetry"
        )
    result = Evaluation(holdout, note, _metrics(scored), scored)
    if flagged:
        result.metrics[FOREST] = {
            "together": {"n_series": len(flagged), "flagged": _rounded(float(np.mean(flagged)))}
        }
    for signal, candidates in middles.items():
        if candidates:
            candidates.sort(key=lambda one: one[0])
            result.forecasts[signal] = candidates[len(candidates) // 2][1]
    return result


def _score_fleet(
    fleet: Fleet,
    coming: Flags,
    quiet: Flags,
    trained: Trained,
    rows: list[tuple[object, ...]],
    forecasts: list[tuple[float, pl.DataFrame]],
) -> None:
    """Score the bounds of one signal on the held-out windows of its operations."""
    place = {operation: row for row, operation in enumerate(fleet.operations)}
    times = fleet.times[coming]
    hours = (times - times[0]) / np.timedelta64(3600, "s")
    for fitted in trained.fleets:
        if fitted.signal != fleet.signal:
            continue
        mine = [row for row, one in enumerate(fitted.operations) if one in place]
        if not mine:
            continue
        part = fitted.pick(np.array(mine))
        band = part.predict(times)
        for row, operation in enumerate(part.operations):
            values = fleet.values[place[operation]][coming]
            known = ~np.isnan(values) & np.isfinite(band.expected[row])
            if known.sum() < MIN_SCORED:
                continue
            expected, lower, upper = (
                getattr(band, name)[row] for name in ("expected", "lower", "upper")
            )
            error = np.abs(values - expected)[known]
            inside = (values >= lower) & (values <= upper)
            calm = known & quiet[place[operation]][coming]
            # A percentage of 0 is undefined: windows without requests or failures are left out.
            some = values[known] > 0
            mape = float(np.mean(error[some] / values[known][some])) if some.any() else None
            rows.append(
                (
                    *operation,
                    fleet.signal,
                    part.model,
                    float(np.mean(inside[known])),
                    float(np.mean(inside[calm])) if calm.any() else None,
                    float(np.mean(error)),
                    None if fleet.signal == "error_ratio" else mape,
                    float(np.mean((upper - lower)[known])),
                )
            )
            shown = dict(hour=hours, value=values, expected=expected, lower=lower, upper=upper)
            frame = pl.DataFrame(shown, schema=FORECAST_SCHEMA, nan_to_null=True)
            forecasts.append((float(np.mean(error)), frame))


def _flagged(
    chunk: list[Fleet], coming: Flags, trained: Trained, saturated: dict[str, Floats]
) -> list[float]:
    """Return the share of held-out windows that each operation's forest calls anomalous."""
    shares = []
    baselines = trained.baselines
    for row, operation in enumerate(chunk[0].operations):
        forest = trained.forests.get(operation)
        if forest is None:
            continue
        columns = []
        for signal in forest.signals:
            if signal == SATURATION:
                columns.append(saturated[operation[0]][coming])
                continue
            fleet = next(one for one in chunk if one.signal == signal)
            times, values = fleet.times[coming], fleet.values[row][coming]
            baseline = baselines[*operation, signal]
            side = np.sign(values - baseline.predict(times).expected)
            columns.append(side * baseline.score(times, values))
        score = forest.predict(np.column_stack(columns))
        known = np.isfinite(score)
        if known.any():
            shares.append(float(np.mean(score[known] > 1.0)))
    return shares


def history_days(features: pl.DataFrame, window_s: float) -> float:
    """Return the days from the first to the end of the last window of any operation."""
    first, last = features["time"].min(), features["time"].max()
    assert first is not None and last is not None
    length: timedelta = last - first  # type: ignore[operator,assignment]
    return (length.total_seconds() + window_s) / DAY_S


def _holdout_days(days: float, params: BaselineParams) -> float:
    """Return the days to hold out: those a season does not need, or a quarter of the history."""
    spare = min(params.holdout_days, days - params.min_season_days)
    return spare if spare >= 1.0 else min(days * SHORT_HOLDOUT_RATIO, params.holdout_days)


def _metrics(scored: pl.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    everything = pl.concat([scored, scored.with_columns(model=pl.lit(PUBLISHED))])
    summed = (
        everything.group_by("model", "signal")
        .agg(
            pl.len().alias("n_series"),
            pl.col("coverage", "coverage_quiet").mean(),
            pl.col("coverage").min().alias("coverage_worst"),
            pl.col("mae", "mape", "width").median(),
        )
        .sort("model", "signal")
    )
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for row in summed.iter_rows(named=True):
        values = {name: _rounded(row[name]) for name in NUMBERS if row[name] is not None}
        metrics.setdefault(row["model"], {})[row["signal"]] = values
    return metrics


def _rounded(value: float) -> float:
    """Keep six digits: more are noise in a diff of metrics."""
    return value if isinstance(value, int) else float(f"{value:.6g}")
